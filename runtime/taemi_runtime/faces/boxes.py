"""Boxes around faces, and the square that is cut out around one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# What is added on every side, as a share of the box's larger side: detectors frame brows to chin, and
# this brings in forehead, chin and cheeks.
MARGIN = 0.2


@dataclass(frozen=True)
class Box:
    """A face in an image.

    Args:
        left: Left edge in pixels; x runs to the right.
        top: Upper edge in pixels; y runs downwards.
        width: Width in pixels, above 0.
        height: Height in pixels, above 0.
    """

    left: float
    top: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """The middle, (x, y) in pixels."""
        return self.left + self.width / 2, self.top + self.height / 2

    def overlap(self, other: Box) -> float:
        """Return intersection over union with another box, in [0, 1]."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        shared = max(width, 0.0) * max(height, 0.0)
        return shared / (self.area + other.area - shared)


def mean_box(parts: list[tuple[float, Box]]) -> Box:
    """Return the mean of (weight, box) pairs, edge by edge; the weights need not sum to 1."""
    total = sum(weight for weight, _ in parts)
    left, top, width, height = (
        sum(weight * getattr(box, name) for weight, box in parts) / total
        for name in ("left", "top", "width", "height")
    )
    return Box(left, top, width, height)


def largest_first(boxes: list[Box]) -> list[Box]:
    """Return boxes by falling area; equal ones from left to right and from the top down."""
    return sorted(boxes, key=lambda box: (-box.area, box.left, box.top))


def crop_square(pixels: npt.NDArray[np.uint8], box: Box, margin: float = MARGIN) -> npt.NDArray[np.uint8]:
    """Cut a square out of an image around a face.

    The square has the box's middle and its larger side plus the margin on both ends. Where it would
    reach over the image's edge it is moved inside, so that every pixel of it is a pixel of the image;
    it is never larger than the image's shorter side.

    Args:
        pixels: [rows, columns, 3], uint8.
        box: The face.
        margin: What is added on every side, as a share of the box's larger side.

    Returns:
        [side, side, 3], uint8, a copy.
    """
    rows, columns = pixels.shape[:2]
    side = round(max(box.width, box.height) * (1 + 2 * margin))
    side = min(max(side, 1), rows, columns)
    x, y = box.centre
    left = min(max(round(x - side / 2), 0), columns - side)
    top = min(max(round(y - side / 2), 0), rows - side)
    return pixels[top : top + side, left : left + side].copy()
