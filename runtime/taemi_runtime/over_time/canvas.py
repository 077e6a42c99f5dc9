"""Two ways to draw the same picture: SVG as text, PNG with Pillow; neither needs a further package."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING, Protocol

from taemi_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Point = tuple[float, float]
# Drawn this much larger, which is what a page on a screen of today shows.
_PNG_SCALE = 2


class Canvas(Protocol):
    """Draws on a white page; x runs to the right, y downwards, in pixels, colours as ``#rrggbb``."""

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""

    def line(self, points: Sequence[Point], colour: str, width: float = 1.0) -> None:
        """Draw a line through at least two points."""

    def dot(self, centre: Point, radius: float, colour: str) -> None:
        """Fill a circle."""

    def write(
        self, at: Point, text: str, *, size: int = 12, colour: str = "#333333", anchor: str = "l"
    ) -> None:
        """Write text whose baseline begins (``l``), has its middle (``m``) or ends (``r``) there."""

    def content(self) -> bytes:
        """Return the file."""


class SvgCanvas:
    """Draws SVG."""

    def __init__(self, width: int, height: int) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="Helvetica, Arial, sans-serif">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""
        size = f'width="{right - left:.2f}" height="{bottom - top:.2f}"'
        self._parts.append(f'<rect x="{left:.2f}" y="{top:.2f}" {size} fill="{colour}"/>')

    def line(self, points: Sequence[Point], colour: str, width: float = 1.0) -> None:
        """Draw a line."""
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
            'stroke-linejoin="round"/>'
        )

    def dot(self, centre: Point, radius: float, colour: str) -> None:
        """Fill a circle."""
        self._parts.append(
            f'<circle cx="{centre[0]:.2f}" cy="{centre[1]:.2f}" r="{radius:g}" fill="{colour}"/>'
        )

    def write(
        self, at: Point, text: str, *, size: int = 12, colour: str = "#333333", anchor: str = "l"
    ) -> None:
        """Write a line of text."""
        where = {"l": "start", "m": "middle", "r": "end"}[anchor]
        self._parts.append(
            f'<text x="{at[0]:.2f}" y="{at[1]:.2f}" font-size="{size}" fill="{colour}" '
            f'text-anchor="{where}">{escape(text)}</text>'
        )

    def content(self) -> bytes:
        """Return the file."""
        return "\n".join([*self._parts, "</svg>", ""]).encode()


class PngCanvas:
    """Draws with Pillow, at twice the size."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (width * _PNG_SCALE, height * _PNG_SCALE), "#ffffff")
        self._draw = ImageDraw.Draw(self._image)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""
        corners = [round(value * _PNG_SCALE) for value in (left, top, right, bottom)]
        # Pillow's corners are inside.
        corners[2], corners[3] = max(corners[2] - 1, corners[0]), max(corners[3] - 1, corners[1])
        self._draw.rectangle(corners, fill=colour)

    def line(self, points: Sequence[Point], colour: str, width: float = 1.0) -> None:
        """Draw a line."""
        scaled = [(x * _PNG_SCALE, y * _PNG_SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * _PNG_SCALE)), joint="curve")

    def dot(self, centre: Point, radius: float, colour: str) -> None:
        """Fill a circle."""
        x, y, reach = (value * _PNG_SCALE for value in (*centre, radius))
        self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def write(
        self, at: Point, text: str, *, size: int = 12, colour: str = "#333333", anchor: str = "l"
    ) -> None:
        """Write a line of text; characters that Pillow's own font lacks become boxes."""
        from PIL import ImageFont

        font = ImageFont.load_default(size * _PNG_SCALE)
        self._draw.text(
            (at[0] * _PNG_SCALE, at[1] * _PNG_SCALE), text, fill=colour, font=font, anchor=f"{anchor}s"
        )

    def content(self) -> bytes:
        """Return the file."""
        stream = io.BytesIO()
        self._image.save(stream, "PNG", optimize=True)
        return stream.getvalue()


CANVASES: dict[str, type[SvgCanvas] | type[PngCanvas]] = {".svg": SvgCanvas, ".png": PngCanvas}


def canvas_for(path: Path) -> type[SvgCanvas] | type[PngCanvas]:
    """Return what draws a file, by its suffix.

    Raises:
        UsageError: The suffix is another one.
    """
    kind = CANVASES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"cannot draw {path}", f"its suffix is {path.suffix or 'missing'}", "End it in .svg or .png"
        )
    return kind
