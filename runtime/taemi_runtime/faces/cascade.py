"""The detector that comes with OpenCV 4: a boosted cascade for upright frontal faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi_runtime.errors import MissingExtraError
from taemi_runtime.faces.boxes import Box
from taemi_runtime.faces.opencv import import_opencv, require

# Trees of 20 x 20 pixel features (Lienhart, Kuranov, Pisarevsky 2003, "Empirical Analysis of Detection
# Cascades of Boosted Classifiers for Rapid Object Detection"), part of every OpenCV 4 wheel.
_FILE = "haarcascade_frontalface_alt2.xml"
# Between two sizes that are searched, and how many overlapping hits make a face.
_SIZE_STEP = 1.1
_HITS = 5
# The smallest face that is looked for, as a share of the image's shorter side.
_SMALLEST = 0.12


class CascadeDetector:
    """Finds frontal faces that stand upright to about 15 degrees.

    Raises:
        MissingExtraError: OpenCV is missing, or is a version without its cascades.
    """

    name = "auto"

    def __init__(self) -> None:
        self._cv2 = import_opencv()
        cascade = require(self._cv2, "CascadeClassifier", "cascade classifier")
        data = require(self._cv2, "data", "folder of cascades")
        path = Path(data.haarcascades) / _FILE
        self._cascade = cascade(str(path)) if path.is_file() else cascade()
        if self._cascade.empty():
            raise MissingExtraError(
                "cannot look for faces",
                f"OpenCV {self._cv2.__version__} came without {_FILE}",
                'Install it again: pip install --force-reinstall "opencv-python-headless>=4.10,<5"',
            )

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Box]:
        """Find faces.

        Args:
            image: [rows, columns, 3], uint8 RGB, contiguous.

        Returns:
            Their boxes in pixels, in no particular order.
        """
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        smallest = max(1, round(_SMALLEST * min(grey.shape)))
        found = self._cascade.detectMultiScale(
            grey, scaleFactor=_SIZE_STEP, minNeighbors=_HITS, minSize=(smallest, smallest)
        )
        return [Box(float(x), float(y), float(width), float(height)) for x, y, width, height in found]
