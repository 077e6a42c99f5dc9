"""Pictures as PNG files, drawn by matplotlib where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.atomic import atomic_file
from taemi_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


def need_pictures(asked: str) -> None:
    """Refuse where pictures cannot be drawn.

    Args:
        asked: What is to be drawn, for the message.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(asked, "matplotlib is not installed", 'pip install "taemi[bench]"')


@contextlib.contextmanager
def saved_figure(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure that is written as a PNG when the block ends without an error.

    Args:
        path: The file, written atomically.
        width: In inches.
        height: In inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: The disk is full, or the place cannot be written to.
    """
    need_pictures(f"cannot draw {path}")
    # Without pyplot there is no window, no global state, and nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=_DOTS_PER_INCH)
