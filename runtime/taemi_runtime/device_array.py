"""Arrays on a device, whose memory is lent and comes back.

Their memory is lent by a [Pool][] and comes back to it when they are closed, so that in the steady state
nothing is allocated. Who asked for an array owns it and closes it; a call that reads or writes it keeps its
memory from being lent again until the call has ended, also when the array is closed meanwhile (Ctrl-C).
Nothing is given back by the garbage collector: it runs in any thread, without the device's context.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from taemi_runtime.closing import Closing
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

    def put(self, array: Array) -> DeviceArray:
        """Copy an array to the device.

        Args:
            array: What is copied.

        Raises:
            EngineError: As for ``take``.
        """
        there = self.take(array.shape, array.dtype)
        try:
            with there.in_use() as memory:
                self.write(memory, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        except BaseException:
            there.close()
            raise
        return there

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

    @abc.abstractmethod
    def write(self, memory: Any, content: Array) -> None:
        """Write the first bytes of memory, and wait until they are there.

        Args:
            memory: The memory.
            content: [nbytes] uint8, contiguous.
        """

    def _end(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once, when the pool is closed and all its memory freed."""


class DeviceArray(Closing):
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
