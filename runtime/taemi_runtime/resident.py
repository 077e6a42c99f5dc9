"""Inputs that come from a device, and outputs that stay there, between the calls of two engines.

An array's contents are there for every other call on the device as soon as the call that wrote them has
returned: every engine waits for its own work before it returns. Values on a device are not looked at for NaN
and Inf; scores, which are computed from them, are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taemi_runtime.device_array import DeviceArray
from taemi_runtime.errors import EngineError
from taemi_runtime.spec import Array


@dataclass(frozen=True)
class Piece:
    """A part of an output that is to stay on the device.

    An output of three axes or more is taken from one entry of its axis 0, along axis 1; one of two axes along
    axis 0.

    Args:
        target: Where it goes, of the output's element type; its rows are those of the axis that is cut.
        start: The first row of the output that is taken.
        count: How many are taken.
        entry: The entry of axis 0, of outputs with three axes or more.
        at: The first row of ``target`` that is written.
    """

    target: DeviceArray
    start: int
    count: int
    entry: int = 0
    at: int = 0

    def span(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return where it begins in the output, where in its target, and its length, in bytes.

        Args:
            shape: The output's shape as it was computed, padding included.

        Raises:
            EngineError: It is no part of the output, or does not fit into its target.
        """
        rows = shape[1] if len(shape) > 2 else shape[0]
        entries = shape[0] if len(shape) > 2 else 1
        row_bytes = self.target.dtype.itemsize * int(
            np.prod(shape[2 if len(shape) > 2 else 1 :], dtype=np.int64)
        )
        fits = (
            row_bytes == self.target.row_bytes
            and 0 <= self.entry < entries
            and 0 <= self.start <= self.start + self.count <= rows
            and 0 <= self.at <= self.at + self.count <= self.target.shape[0]
        )
        if not fits:
            raise EngineError(
                f"cannot keep {self.count} rows from row {self.start} of an output of shape {list(shape)}",
                f"they are to go to row {self.at} of an array of shape {list(self.target.shape)}",
            )
        return (self.entry * rows + self.start) * row_bytes, self.at * row_bytes, self.count * row_bytes


Keep = Mapping[str, Sequence[Piece]]
"""What stays on the device of each output; outputs that are not named come to the host."""


@dataclass(frozen=True)
class DeviceRows:
    """An input on a device, whose entries of axis 0 lie in arrays of their own.

    Where a part is shorter than the shape says, or ``None``, the rest holds anything: such an input is
    allowed only where a mask, or its presence flag, keeps the graph from reading there.

    Args:
        parts: For each entry its array, whose rows are the first ones along axis 1 (for an input of two axes:
            one row); ``None`` where there is nothing.
        shape: The input's shape.
        dtype: Its element type.
    """

    parts: tuple[DeviceArray | None, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def devices(self) -> frozenset[str]:
        """The devices that its parts lie on."""
        return frozenset(part.device for part in self.parts if part is not None)

    @classmethod
    def of(cls, part: DeviceArray, shape: Sequence[int]) -> DeviceRows:
        """Return an input with one entry.

        Args:
            part: Its array.
            shape: The shape of the entry.
        """
        return cls((part,), (1, *shape), part.dtype)

    @classmethod
    def join(cls, rows: Sequence[DeviceRows | Array]) -> DeviceRows:
        """Return the entries of several inputs of one entry each as one, as long as the longest.

        Args:
            rows: The inputs, at least one of them on a device; one on the host has no entry (``None``).
        """
        there = [row for row in rows if isinstance(row, DeviceRows)]
        shape = there[0].shape[1:]
        if len(shape) > 1:
            shape = (max(row.shape[1] for row in rows), *shape[1:])
        parts = tuple(row.parts[0] if isinstance(row, DeviceRows) else None for row in rows)
        return cls(parts, (len(rows), *shape), there[0].dtype)

    def close(self) -> None:
        """Give the parts' memory back; closing twice does nothing."""
        for part in self.parts:
            if part is not None:
                part.close()

    def numpy(self) -> Array:
        """Return a copy on the host, with zeros where there is nothing."""
        found = np.zeros(self.shape, self.dtype)
        for target, part in zip(found, self.parts, strict=True):
            if part is not None:
                values = part.numpy()
                target.reshape(-1, *values.shape[1:])[: len(values)] = values
        return found


Given = Array | DeviceRows
Inputs = Mapping[str, Given]
"""The inputs of a call, on the host or on a device."""


def device_inputs(inputs: Inputs) -> dict[str, DeviceRows]:
    """Return the inputs that lie on a device."""
    return {name: given for name, given in inputs.items() if isinstance(given, DeviceRows)}


def host_inputs(inputs: Inputs) -> dict[str, Array]:
    """Return the inputs that lie on the host."""
    return {name: given for name, given in inputs.items() if not isinstance(given, DeviceRows)}


@contextlib.contextmanager
def all_in_use(inputs: Inputs, keep: Keep) -> Iterator[dict[int, Any]]:
    """Keep every array of a call from being lent again within the block.

    Yields:
        The memory of each array, by its ``id``.

    Raises:
        EngineError: One of them is closed.
    """
    arrays = [part for given in device_inputs(inputs).values() for part in given.parts if part is not None]
    arrays += [piece.target for pieces in keep.values() for piece in pieces]
    with contextlib.ExitStack() as stack:
        yield {id(array): stack.enter_context(array.in_use()) for array in arrays}
