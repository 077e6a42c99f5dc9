"""The memory of one batch: filled from files, read by the engine, filled again.

Files are read straight into the rows of a batch, in the element type that the engine takes, so that half
precision stays half precision and nothing is copied twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taemi_runtime.contract import PRESENT
from taemi_runtime.feature_files.reading import FeatureFile
from taemi_runtime.feature_files.wanted import WantedInput
from taemi_runtime.spec import Array


class Slot:
    """Memory for one batch at a time; it grows to the largest batch that it has held.

    Args:
        wanted: The engine's inputs in the order of its presence flags.
        halves: Those that the engine takes in half precision.
    """

    def __init__(self, wanted: Sequence[WantedInput], halves: frozenset[str]) -> None:
        self._wanted = tuple(wanted)
        self._dtypes = {
            item.name: np.dtype(np.float16 if item.name in halves else np.float32) for item in wanted
        }
        self._memory: dict[str, Array] = {}

    def lay_out(self, files: Sequence[FeatureFile], sizes: Mapping[str, int]) -> Layout:
        """Prepare a batch.

        Args:
            files: Its clips, in the order of the rows.
            sizes: The length of each sequence by input name; a sequence of which no clip has anything has
                length 1.
        """
        arrays: dict[str, Array] = {}
        for item in self._wanted:
            shape: tuple[int, ...] = (len(files), item.width)
            if item.is_sequence:
                shape = (len(files), sizes[item.name], item.width)
                arrays[item.mask] = np.zeros(shape[:2], dtype=np.bool_)
            arrays[item.name] = self._array(item.name, shape)
        arrays[PRESENT] = np.zeros((len(files), len(self._wanted)), dtype=np.bool_)
        return Layout(self._wanted, arrays)

    def _array(self, name: str, shape: tuple[int, ...]) -> Array:
        dtype = self._dtypes[name]
        count = int(np.prod(shape))
        memory = self._memory.get(name)
        if memory is None or memory.size < count:
            # Fresh pages cost as much as reading into them does: they are kept for the next batch.
            memory = self._memory[name] = np.empty(count, dtype)
        return memory[:count].reshape(shape)


@dataclass(frozen=True)
class Layout:
    """A batch that is being filled.

    Args:
        wanted: The engine's inputs.
        arrays: Every input of the graph.
    """

    wanted: tuple[WantedInput, ...]
    arrays: dict[str, Array] = field(default_factory=dict)

    def fill_row(self, row: int, file: FeatureFile) -> dict[str, int]:
        """Read a clip into its row, zeros behind it.

        Args:
            row: The row.
            file: The clip's open file.

        Returns:
            Positions of each input that is there, by name.

        Raises:
            DataError: A number of it cannot be used.
        """
        lengths: dict[str, int] = {}
        for column, item in enumerate(self.wanted):
            length = file.length(item)
            target: Any = self.arrays[item.name][row]
            if length:
                file.read_into(item, target[:length] if item.is_sequence else target)
                lengths[item.name] = length
            self.arrays[PRESENT][row, column] = bool(length)
            if item.is_sequence:
                target[length:] = 0
                # A missing modality is one position, as in training and in clips.
                self.arrays[item.mask][row, : max(length, 1)] = True
            elif not length:
                target[:] = 0
        return lengths

    def clear_row(self, row: int) -> None:
        """Make a row that says nothing."""
        for item in self.wanted:
            self.arrays[item.name][row] = 0
            if item.is_sequence:
                self.arrays[item.mask][row] = False
                self.arrays[item.mask][row, 0] = True
        self.arrays[PRESENT][row] = False

    def row(self, row: int) -> dict[str, Array]:
        """Return a row as a batch of its own."""
        return {name: array[row : row + 1] for name, array in self.arrays.items()}


def common_sizes(files: Sequence[FeatureFile], wanted: Sequence[WantedInput]) -> dict[str, int]:
    """Return the length of each sequence of a batch: that of its longest clip, or the graph's own."""
    return {
        item.name: item.fixed or max([1, *(file.length(item) for file in files)])
        for item in wanted
        if item.is_sequence
    }
