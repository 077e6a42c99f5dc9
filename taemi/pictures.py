"""Pictures as PNG or SVG, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#555555"


def pictures_fault() -> str:
    """Return why no picture can be drawn; empty where one can."""
    if importlib.util.find_spec("matplotlib") is not None:
        return ""
    return 'there are no pictures: matplotlib is not installed. pip install "taemi[bench]"'


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    # Not pyplot: that keeps figures, and a backend, for the whole program.
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG of 150 dots per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as an SVG that needs no font; the same figure gives the same bytes."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "taemi"}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    return stream.getvalue()
