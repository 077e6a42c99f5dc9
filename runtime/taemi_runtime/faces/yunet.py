"""A detector from a file: YuNet in ONNX, run by OpenCV."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi_runtime.errors import EngineError
from taemi_runtime.faces.boxes import Box
from taemi_runtime.faces.opencv import import_opencv, quiet, require

# Wu, Peng, Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"; the thresholds of OpenCV's own
# example but for the score, which that leaves at 0.9 and loses turned heads with.
_SCORE = 0.7
_OVERLAP = 0.3
_CANDIDATES = 500
_FIX = "Give a YuNet model such as face_detection_yunet_2023mar.onnx, or --faces auto"


class YunetDetector:
    """Finds faces with a YuNet network; such files are trusted input, as engines are.

    Args:
        path: The ONNX file.

    Raises:
        EngineError: There is no such file, or OpenCV cannot read it as a face detector.
        MissingExtraError: OpenCV is missing, or is a version without this detector.
    """

    def __init__(self, path: Path) -> None:
        self._asked = f"cannot look for faces with {path}"
        if not path.is_file():
            raise EngineError(self._asked, "there is no such file", _FIX)
        content = path.read_bytes()
        self.name = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._cv2 = import_opencv()
        maker = require(self._cv2, "FaceDetectorYN", "YuNet detector")
        try:
            with quiet(self._cv2):
                # From memory, whatever the file's suffix: the digest is of these very bytes.
                self._net = maker.create(
                    "onnx",
                    np.frombuffer(content, np.uint8),
                    np.empty(0, np.uint8),
                    (320, 320),
                    _SCORE,
                    _OVERLAP,
                    _CANDIDATES,
                )
                self.detect(np.zeros((64, 64, 3), np.uint8))
        except self._cv2.error as error:
            raise EngineError(
                self._asked, f"OpenCV cannot use it as a face detector ({_reason(error)})", _FIX
            ) from error

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Box]:
        """Find faces.

        Args:
            image: [rows, columns, 3], uint8 RGB, contiguous.

        Returns:
            Their boxes in pixels, by falling score.
        """
        rows, columns = image.shape[:2]
        self._net.setInputSize((columns, rows))
        _, found = self._net.detect(np.ascontiguousarray(image[..., ::-1]))
        if found is None:
            return []
        # A row is a box, five landmarks and a score.
        boxes = [Box(*map(float, row[:4])) for row in found]
        return [box for box in boxes if box.width > 0 and box.height > 0]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
