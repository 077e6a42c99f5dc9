"""Looking for faces in one frame: at a fixed size, and once more with the frame turned."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from taemi_runtime.faces.boxes import Box, largest_first
from taemi_runtime.faces.opencv import import_opencv

# The shorter side of the image that is searched, in pixels: the cost does not grow with the video's size.
_SEARCH_SIDE = 240
# The longer side of it at most, for frames that are all width or all height.
_SEARCH_LONGEST = 960
# Where no face stands upright, the frame is turned by these angles: cascades lose most heads that are
# tilted by more than 15 degrees.
_TURNS_DEG = (20.0, -20.0)
# A second face counts from this share of the largest one's area; less is someone far away, or a mistake.
_SECOND_AREA = 0.1


class FaceDetector(Protocol):
    """Finds faces in an image.

    Attributes:
        name: What a manifest calls it: ``auto``, or ``sha256:`` and the digest of its file.
    """

    name: str

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Box]:
        """Find faces in [rows, columns, 3], uint8 RGB, contiguous; boxes in pixels."""


def find_faces(detector: FaceDetector, frame: npt.NDArray[np.uint8]) -> list[Box]:
    """Find the faces of a frame.

    Args:
        detector: What finds them.
        frame: [rows, columns, 3], uint8 RGB.

    Returns:
        Boxes in the frame's pixels, upright also where a head is tilted, the largest first.
    """
    cv2 = import_opencv()
    rows, columns = frame.shape[:2]
    scale = min(_SEARCH_SIDE / min(rows, columns), _SEARCH_LONGEST / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(frame), size, interpolation=way)
    found = detector.detect(image)
    if not found:
        found = [box for turn in _TURNS_DEG for box in _find_turned(cv2, detector, image, turn)]
        found = _without_doubles(found)
    boxes = largest_first(found)
    return [
        Box(box.left / scale, box.top / scale, box.width / scale, box.height / scale)
        for box in boxes
        if box.area >= _SECOND_AREA * boxes[0].area
    ]


def _find_turned(
    cv2: Any, detector: FaceDetector, image: npt.NDArray[np.uint8], turn_deg: float
) -> list[Box]:
    """Find faces in an image turned about its middle; their boxes keep their size, on the unturned image."""
    rows, columns = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), turn_deg, 1.0)
    turned = cv2.warpAffine(image, matrix, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
    back = cv2.invertAffineTransform(matrix)
    boxes = []
    for box in detector.detect(turned):
        x, y = back @ np.array([*box.centre, 1.0])
        if 0 <= x < columns and 0 <= y < rows:
            boxes.append(Box(x - box.width / 2, y - box.height / 2, box.width, box.height))
    return boxes


def _without_doubles(boxes: list[Box]) -> list[Box]:
    """Keep the largest of the boxes that two turns found of one face."""
    kept: list[Box] = []
    for box in largest_first(boxes):
        if all(box.overlap(other) < 0.3 for other in kept):
            kept.append(box)
    return kept
