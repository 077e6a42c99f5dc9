"""Soft-edged shapes in the coordinates of a head, and their placing in a frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Rgb = Sequence[float] | npt.NDArray[np.float64] | npt.NDArray[np.float32]
Curve = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Sprite:
    """A picture that can be laid over a frame, moved, turned and scaled.

    Args:
        pixels: [rows, columns, 4], float32: red, green and blue in grey levels, each already multiplied by
            the opacity, and the opacity in [0, 1].
        origin: Where in it, (column, row), the middle of the head is.
        unit_px: How many of its pixels are half a head's width.
    """

    pixels: Pixels
    origin: tuple[float, float]
    unit_px: float


class Canvas:
    """A transparent picture in head coordinates.

    One unit is half the width of the head, (0, 0) its middle; u runs to the right of the picture, v down.

    Args:
        reach: (left, top, right, bottom) of the picture in units.
        unit_px: Pixels in a unit.
    """

    def __init__(self, reach: tuple[float, float, float, float], unit_px: float) -> None:
        left, top, right, bottom = reach
        self.unit_px = unit_px
        self._columns = math.ceil((right - left) * unit_px)
        self._rows = math.ceil((bottom - top) * unit_px)
        self._left, self._top = left, top
        self._u = (left + (np.arange(self._columns, dtype=np.float32) + 0.5) / np.float32(unit_px))[None, :]
        self._v = (top + (np.arange(self._rows, dtype=np.float32) + 0.5) / np.float32(unit_px))[:, None]
        self._u, self._v = self._u.astype(np.float32), self._v.astype(np.float32)
        self.pixels: Pixels = np.zeros((self._rows, self._columns, 4), np.float32)

    @property
    def u(self) -> Pixels:
        """[1, columns] where each column is."""
        return self._u

    @property
    def v(self) -> Pixels:
        """[rows, 1] where each row is."""
        return self._v

    def sprite(self) -> Sprite:
        """Return the picture as it is; it is not copied."""
        return Sprite(self.pixels, (-self._left * self.unit_px, -self._top * self.unit_px), self.unit_px)

    def fill(self, mask: Pixels, colour: Rgb | Pixels) -> None:
        """Lay a colour, [3] or [rows, columns, 3] in grey levels, over the whole canvas through a mask."""
        self._blend(self.pixels, mask, colour)

    def oval(self, middle: tuple[float, float], radii: tuple[float, float], soft: float = 0.0) -> Pixels:
        """Return the mask of an ellipse on the whole canvas; its edge is ``soft`` units wide or one pixel."""
        return self._oval_mask(self._u, self._v, middle, radii, soft)

    def spot(
        self, middle: tuple[float, float], radii: tuple[float, float], colour: Rgb, share: float = 1.0
    ) -> None:
        """Lay an ellipse of one colour over the picture; it takes the place of ``share`` of what is there."""
        part, u, v = self._window(middle, radii)
        if part.size:
            self._blend(part, np.float32(share) * self._oval_mask(u, v, middle, radii), colour)

    def glow(
        self, middle: tuple[float, float], radii: tuple[float, float], gain: float | Sequence[float]
    ) -> None:
        """Brighten (gain above 0) or darken a soft spot, each colour by its own gain if three are given."""
        part, u, v = self._window(middle, (2.2 * radii[0], 2.2 * radii[1]))
        if part.size:
            across, down = (u - middle[0]) / radii[0], (v - middle[1]) / radii[1]
            bump = np.exp(-(across * across)) * np.exp(-(down * down))
            part[..., :3] *= 1 + bump[..., None] * np.asarray(gain, np.float32)

    def tint(
        self, middle: tuple[float, float], radii: tuple[float, float], colour: Rgb, share: float
    ) -> None:
        """Mix a colour into a soft spot; nothing is painted where the picture is transparent."""
        part, u, v = self._window(middle, (2.2 * radii[0], 2.2 * radii[1]))
        if part.size:
            across, down = (u - middle[0]) / radii[0], (v - middle[1]) / radii[1]
            bump = (np.float32(share) * np.exp(-(across * across)) * np.exp(-(down * down)))[..., None]
            part[..., :3] += bump * (np.asarray(colour, np.float32) * part[..., 3:] - part[..., :3])

    def lens(
        self,
        middle: tuple[float, float],
        half: float,
        upper: Curve,
        lower: Curve,
        colour: Rgb,
        share: float = 1.0,
        within: tuple[tuple[float, float], float] | None = None,
    ) -> None:
        """Lay what is between two curves over the picture.

        Args:
            middle: Where the shape is.
            half: Half its width.
            upper: Gives the upper edge above ``middle``, from t = -1 at the left end to 1 at the right.
            lower: The lower edge in the same way.
            colour: [3], grey levels.
            share: How much of what is there is replaced.
            within: (middle, radius) of a circle that cuts the shape.
        """
        ends = np.linspace(-1, 1, 9, dtype=np.float32)
        top, bottom = float(upper(ends).min()), float(lower(ends).max())
        part, u, v = self._window(
            (middle[0], middle[1] + (top + bottom) / 2), (half, max(bottom - top, 0.0) / 2)
        )
        if not part.size:
            return
        t = (u - np.float32(middle[0])) / np.float32(half)
        t = np.clip(t, -1, 1)
        down = v - np.float32(middle[1])
        mask = self._ramp(np.minimum(down - upper(t), lower(t) - down))
        mask = mask * self._ramp(np.float32(half) - np.abs(u - np.float32(middle[0])))
        if within is not None:
            (x, y), radius = within
            mask = mask * self._ramp(np.float32(radius) - np.hypot(u - np.float32(x), v - np.float32(y)))
        self._blend(part, np.float32(share) * mask, colour)

    def _window(
        self, middle: tuple[float, float], radii: tuple[float, float]
    ) -> tuple[Pixels, Pixels, Pixels]:
        """Return the part of the picture around a shape, a view, and its coordinates."""
        edge = 1.5 / self.unit_px
        left, right = (
            round((middle[0] + sign * (radii[0] + edge) - self._left) * self.unit_px) for sign in (-1, 1)
        )
        top, bottom = (
            round((middle[1] + sign * (radii[1] + edge) - self._top) * self.unit_px) for sign in (-1, 1)
        )
        rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        return self.pixels[rows, columns], self._u[:, columns], self._v[rows]

    def _ramp(self, inside: Pixels) -> Pixels:
        """Return opacity from the distance to the edge in units, above 0 inside: one pixel of slope."""
        return np.asarray(np.clip(inside * np.float32(self.unit_px) + np.float32(0.5), 0, 1), np.float32)

    def _oval_mask(
        self,
        u: Pixels,
        v: Pixels,
        middle: tuple[float, float],
        radii: tuple[float, float],
        soft: float = 0.0,
    ) -> Pixels:
        across = (u - np.float32(middle[0])) / np.float32(radii[0])
        down = (v - np.float32(middle[1])) / np.float32(radii[1])
        inside = (1 - np.sqrt(across * across + down * down)) * np.float32(min(radii))
        if soft:
            return np.asarray(np.clip(inside / np.float32(soft) + np.float32(0.5), 0, 1), np.float32)
        return self._ramp(inside)

    @staticmethod
    def _blend(part: Pixels, mask: Pixels, colour: Rgb | Pixels) -> None:
        mask = mask[..., None]
        part *= 1 - mask
        part[..., :3] += mask * np.asarray(colour, np.float32)
        part[..., 3:] += mask


def place(frame: Pixels, sprite: Sprite, at: tuple[float, float], unit_px: float, roll_deg: float) -> None:
    """Lay a sprite over a frame, in place.

    Args:
        frame: [rows, columns, 3], float32 grey levels.
        sprite: What is laid over it.
        at: Where the middle of the head goes, (x, y) in pixels.
        unit_px: Half the head's width in the frame's pixels.
        roll_deg: How far it is turned about the middle of the head, clockwise.
    """
    scale = unit_px / sprite.unit_px
    angle = math.radians(roll_deg)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    rows, columns = sprite.pixels.shape[:2]
    x0, y0 = sprite.origin
    corners = [(column - x0, row - y0) for column in (0, columns) for row in (0, rows)]
    xs = [at[0] + cos * x - sin * y for x, y in corners]
    ys = [at[1] + sin * x + cos * y for x, y in corners]
    left, right = max(math.floor(min(xs)), 0), min(math.ceil(max(xs)), frame.shape[1])
    top, bottom = max(math.floor(min(ys)), 0), min(math.ceil(max(ys)), frame.shape[0])
    if left >= right or top >= bottom:
        return
    # Pixel centres: OpenCV has the middle of the first pixel at 0.
    move = np.array(
        [
            [cos, -sin, at[0] - left - 0.5 - cos * (x0 - 0.5) + sin * (y0 - 0.5)],
            [sin, cos, at[1] - top - 0.5 - sin * (x0 - 0.5) - cos * (y0 - 0.5)],
        ]
    )
    turned = cv2.warpAffine(sprite.pixels, move, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    part = frame[top:bottom, left:right]
    part *= 1 - turned[..., 3:]
    part += turned[..., :3]
