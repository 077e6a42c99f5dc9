"""Training curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER_NAME = "tensorboard"


class Curves:
    """Scalars by step; without a writer they go nowhere."""

    def __init__(self, writer: SummaryWriter | None) -> None:
        self._writer = writer

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write values of one step, e.g. ``{"train/loss": 0.1}``."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)


def check_curves() -> None:
    """Refuse where curves cannot be written.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "cannot write TensorBoard curves",
            f"tensorboard cannot be imported: {error}",
            'pip install "taemi[train]", or give --no-tensorboard',
        ) from error


def curve_files(folder: Path) -> Iterator[Path]:
    """Return the files of a folder that hold curves."""
    return folder.glob("events.out.tfevents.*")


@contextmanager
def open_curves(folder: Path | None, step: int) -> Iterator[Curves]:
    """Open a folder of curves.

    Args:
        folder: Where; ``None`` writes nothing.
        step: The run's steps so far: what an earlier part of it wrote beyond them is hidden.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    if folder is None:
        yield Curves(None)
        return
    check_curves()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=step + 1 if step else None) as writer:
        yield Curves(writer)
