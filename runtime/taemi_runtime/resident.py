"""Arrays that stay on a device between the calls of two engines.

Their memory is lent by a [Pool][] and comes back to it when they are closed, so that in the steady state
nothing is allocated. Who asked for an array owns it and closes it; a call that reads or writes it keeps its
memory from being lent again until the call has ended, also when the array is closed meanwhile (Ctrl-C).
Nothing is given back by the garbage collector: it runs in any thread, without the device's context.

An array's contents are there for every other call on the device as soon as the call that wrote them has
returned: every engine waits for its own work before it returns. Values on a device are not looked at for NaN
and Inf; scores, which are computed from them, are.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from taemi_runtime.errors import EngineError
from taemi_runtime.spec import Array


class Memory(Protocol):
    """Memory on a device."""

    @property
    def address(self) -> int:
        """Where it begins."""

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""


class _Lease:
    """Memory that is lent, and how many calls use it just now."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.users = 0
        self.is_closed = False


class Pool(abc.ABC):
    """Memory of one device that is lent to arrays and lent again.

    Args:
        device: The device, e.g. ``cuda:0``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._idle: defaultdict[int, list[Any]] = defaultdict(list)
        self._lent: set[_Lease] = set()
        self._closed = False

    def take(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Lend memory for an array; what it holds is what was left in it.

        Args:
            shape: The array's shape.
            dtype: Its element type.

        Raises:
            EngineError: The pool is closed, or the device has not enough memory.
        """
        kind = np.dtype(dtype)
        nbytes = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        with self._lock:
            if self._closed:
                raise EngineError(f"cannot keep an array on {self.device}", "its engine is closed")
            idle = self._idle[nbytes]
            lease = _Lease(idle.pop() if idle else None)
            # What is being allocated counts as used: the pool may be closed meanwhile.
            lease.users = int(lease.memory is None)
            self._lent.add(lease)
        if lease.memory is None:
            try:
                lease.memory = self._allocate(nbytes)
            finally:
                self._let_go(lease, users=1, closing=lease.memory is None)
        return DeviceArray(self, lease, tuple(shape), kind)

    @contextlib.contextmanager
    def use(self, lease: _Lease) -> Iterator[Any]:
        """Yield lent memory, which is not lent again within the block."""
        with self._lock:
            if lease.is_closed:
                raise EngineError(f"cannot use an array on {self.device}", "it is closed")
            lease.users += 1
        try:
            yield lease.memory
        finally:
            self._let_go(lease, users=1)

    def give_back(self, lease: _Lease) -> None:
        """Take memory back, at once or when the calls that use it have ended."""
        self._let_go(lease, closing=True)

    def _let_go(self, lease: _Lease, *, users: int = 0, closing: bool = False) -> None:
        with self._lock:
            lease.users -= users
            lease.is_closed |= closing
            if not lease.is_closed or lease.users or lease not in self._lent:
                return
            self._lent.remove(lease)
            memory = [] if lease.memory is None else [lease.memory]
            if not self._closed:
                if memory:
                    self._idle[lease.memory.nbytes].append(lease.memory)
                return
            last = not self._lent
        self._free(memory)
        if last:
            self._end()

    def close(self) -> None:
        """Free everything, what calls use when they have ended; arrays that are still there are closed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            memory = [block for blocks in self._idle.values() for block in blocks]
            self._idle.clear()
            for lease in list(self._lent):
                lease.is_closed = True
                if not lease.users:
                    self._lent.remove(lease)
                    memory.append(lease.memory)
            last = not self._lent
        self._free(memory)
        if last:
            self._end()

    @abc.abstractmethod
    def _allocate(self, nbytes: int) -> Memory:
        """Allocate memory on the device."""

    @abc.abstractmethod
    def _free(self, memory: Sequence[Any]) -> None:
        """Free memory, from whichever thread closed last."""

    @abc.abstractmethod
    def read(self, memory: Any, nbytes: int) -> Array:
        """Return the first bytes of memory: [nbytes] uint8, the caller's own."""

    def _end(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once, when the pool is closed and all its memory freed."""


class DeviceArray:
    """An array on a device, contiguous.

    Args:
        pool: What lent its memory.
        lease: Its memory.
        shape: Its shape.
        dtype: Its element type.
    """

    def __init__(self, pool: Pool, lease: _Lease, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pool = pool
        self._lease = lease
        self.shape = shape
        self.dtype = dtype

    @property
    def device(self) -> str:
        """The device, e.g. ``cuda:0``."""
        return self._pool.device

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    @property
    def row_bytes(self) -> int:
        """The length of one entry of axis 0, in bytes."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def head(self, count: int) -> DeviceArray:
        """Return the first entries of axis 0, in the same memory: closing one closes the other.

        Raises:
            EngineError: There are fewer.
        """
        if not 0 <= count <= self.shape[0]:
            raise EngineError(
                f"cannot take {count} rows of an array on {self.device}", f"it has {self.shape[0]}"
            )
        return DeviceArray(self._pool, self._lease, (count, *self.shape[1:]), self.dtype)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Any]:
        """Yield its memory for a call; it is not lent again before the block ends.

        Raises:
            EngineError: It is closed.
        """
        with self._pool.use(self._lease) as memory:
            yield memory

    def numpy(self) -> Array:
        """Return a copy on the host."""
        with self.in_use() as memory:
            raw = self._pool.read(memory, self.nbytes)
        return raw.view(self.dtype).reshape(self.shape)

    def close(self) -> None:
        """Give its memory back; closing twice does nothing."""
        self._pool.give_back(self._lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
