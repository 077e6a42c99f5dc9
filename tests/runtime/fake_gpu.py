"""A simulated GPU that computes: device memory at addresses of its own, and queues that run late.

Device memory is host memory behind addresses that the host cannot read, filled with rubbish when it is
allocated. Queued work runs when somebody waits for it and not before, so that a forgotten wait shows old
values; what was captured runs when its graph is launched, on the addresses of the capture. Addresses are
never given out twice: one that was freed is an error when the work runs, as on a real device.

Two pieces of work of different queues that touch the same memory, one of them writing, are a race unless the
earlier one is done or the later one's queue waits for an event behind it. A real device would compute
something else from time to time; here a race is noted in ``races`` and fails the call.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

RUBBISH = 0xA5
FIRST_ADDRESS = 0x7F00_0000_0000


class GpuError(Exception):
    """A failure with the name of the driver's error code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Work:
    """A piece of work: what it does, and the memory that it reads and writes, as (address, length)."""

    run: Callable[[], None]
    reads: tuple = ()
    writes: tuple = ()
    number: int = 0


@dataclass
class Queue:
    handle: int
    work: list = field(default_factory=list)
    # Handle of another queue -> the last of its work that this one waits for.
    behind: dict = field(default_factory=dict)
    captured: list | None = None
    # The only thread in which a capture forbids what cannot be captured; None forbids it in all of them.
    capturer: int | None = None


@dataclass
class Mark:
    """An event: which record of which queue it stands for, and whether that was passed."""

    passed: bool = True
    queue: Queue | None = None
    behind: dict = field(default_factory=dict)
    at_ms: float | None = None


@dataclass
class FakeGpu:
    """One device.

    Args:
        memory_bytes: Its memory.
        rubbish: What fresh memory is filled with; 0xFF makes every float a NaN.
    """

    memory_bytes: int = 1 << 40
    rubbish: int = RUBBISH
    capability: tuple[int, int] = (8, 0)
    memory: dict = field(default_factory=dict)
    pinned: dict = field(default_factory=dict)
    queues: dict = field(default_factory=dict)
    graphs: int = 0
    retained: int = 0
    allocations: int = 0
    waits: int = 0
    # Bytes by direction: "up", "down" and "within" the device.
    copied: dict = field(default_factory=lambda: dict.fromkeys(("up", "down", "within"), 0))
    races: list = field(default_factory=list)
    now_ms: float = 0.0
    refuses_capture: bool = False
    failed: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.stacks = threading.local()
        self._next = FIRST_ADDRESS
        self._handles = 1000
        self._number = 0

    # Contexts: a stack for each thread.
    @property
    def stack(self) -> list:
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        return self.stacks.contexts

    def require_context(self) -> None:
        if not self.stack:
            raise GpuError("CUDA_ERROR_INVALID_CONTEXT")
        if self.failed:
            # As on a real device: after a fault every later call fails, too.
            raise GpuError(self.failed)

    def _capturing(self) -> bool:
        forbidden = (None, threading.get_ident())
        return any(
            queue.captured is not None and queue.capturer in forbidden for queue in self.queues.values()
        )

    def alloc(self, nbytes: int) -> int:
        with self.lock:
            self._refuse_while_capturing()
            if nbytes > self.free_bytes():
                raise GpuError("CUDA_ERROR_OUT_OF_MEMORY")
            address = self._next
            # 256-byte alignment, and a gap in which every access is an error.
            self._next += (nbytes + 511) // 256 * 256
            self.memory[address] = np.full(nbytes, self.rubbish, np.uint8)
            self.allocations += 1
            return address

    def free(self, address: int) -> None:
        with self.lock:
            if self.memory.pop(address, None) is None:
                raise GpuError("CUDA_ERROR_INVALID_VALUE")

    def free_bytes(self) -> int:
        return self.memory_bytes - sum(block.nbytes for block in self.memory.values())

    def pin(self, nbytes: int) -> int:
        with self.lock:
            self._refuse_while_capturing()
            block = (ctypes.c_uint8 * nbytes)()
            ctypes.memset(block, self.rubbish, nbytes)
            self.pinned[ctypes.addressof(block)] = block
            self.allocations += 1
            return ctypes.addressof(block)

    def unpin(self, address: int) -> None:
        with self.lock:
            if self.pinned.pop(address, None) is None:
                raise GpuError("CUDA_ERROR_INVALID_VALUE")

    def _refuse_while_capturing(self) -> None:
        if self._capturing():
            raise GpuError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def at(self, address: int, nbytes: int) -> np.ndarray:
        """Device memory, as seen by work that runs."""
        for start, block in self.memory.items():
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start : address - start + nbytes]
        raise GpuError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def host(self, address: int, nbytes: int) -> np.ndarray:
        """Pinned memory, as seen by work that runs; other host memory is not reachable."""
        for start, block in self.pinned.items():
            if start <= address and address + nbytes <= start + ctypes.sizeof(block):
                return np.frombuffer(block, np.uint8)[address - start : address - start + nbytes]
        raise GpuError("CUDA_ERROR_ILLEGAL_ADDRESS")

    # Streams.
    def stream(self) -> int:
        with self.lock:
            self._handles += 1
            self.queues[self._handles] = Queue(self._handles)
            return self._handles

    def drop_stream(self, handle: int) -> None:
        with self.lock:
            if self.queues.pop(handle, None) is None:
                raise GpuError("CUDA_ERROR_INVALID_HANDLE")

    def queue_of(self, handle: int) -> Queue:
        if handle not in self.queues:
            # The default stream is one of them: nothing here may use it.
            raise GpuError("CUDA_ERROR_INVALID_HANDLE")
        return self.queues[handle]

    def enqueue(self, handle: int, run: Callable[[], None], reads: tuple = (), writes: tuple = ()) -> None:
        with self.lock:
            queue = self.queue_of(handle)
            if queue.captured is not None:
                queue.captured.append(Work(run, reads, writes))
                return
            self._number += 1
            work = Work(run, reads, writes, self._number)
            self._require_order(queue, work)
            queue.work.append(work)

    def _require_order(self, queue: Queue, work: Work) -> None:
        for other in self.queues.values():
            for earlier in other.work:
                waited_for = other is queue or earlier.number <= queue.behind.get(other.handle, 0)
                if not waited_for and _meet(earlier, work):
                    self.races.append((other.handle, queue.handle))
                    raise GpuError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def upload(self, handle: int, target: int, source: int, nbytes: int) -> None:
        def copy() -> None:
            self.at(target, nbytes)[:] = self.host(source, nbytes)
            self.copied["up"] += nbytes

        self.enqueue(handle, copy, ((source, nbytes),), ((target, nbytes),))

    def download(self, handle: int, target: int, source: int, nbytes: int) -> None:
        def copy() -> None:
            self.host(target, nbytes)[:] = self.at(source, nbytes)
            self.copied["down"] += nbytes

        self.enqueue(handle, copy, ((source, nbytes),), ((target, nbytes),))

    def move(self, handle: int, target: int, source: int, nbytes: int) -> None:
        def copy() -> None:
            self.at(target, nbytes)[:] = self.at(source, nbytes).copy()
            self.copied["within"] += nbytes

        self.enqueue(handle, copy, ((source, nbytes),), ((target, nbytes),))

    def record(self, handle: int, mark: Mark, *, external: bool = False) -> None:
        with self.lock:
            queue = self.queue_of(handle)
            mark.passed, mark.queue, mark.at_ms = False, queue, None
            mark.behind = {**queue.behind, handle: self._number}
            if queue.captured is not None and not external:
                return  # it orders the capture's work, and no launch records it

        def pass_it() -> None:
            mark.passed, mark.at_ms = True, self.now_ms

        self.enqueue(handle, pass_it)

    def wait_for(self, handle: int, mark: Mark) -> None:
        with self.lock:
            behind = self.queue_of(handle).behind
            for other, number in mark.behind.items():
                behind[other] = max(number, behind.get(other, 0))
        self.enqueue(handle, lambda: self.reach(mark))

    def reach(self, mark: Mark) -> None:
        with self.lock:
            while not mark.passed and mark.queue is not None and mark.queue.work:
                self._step(mark.queue)

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two events, by a clock that every piece of work moves on."""
        if start.at_ms is None or end.at_ms is None or not (start.passed and end.passed):
            raise GpuError("CUDA_ERROR_NOT_READY")
        return end.at_ms - start.at_ms

    def synchronise(self, handle: int) -> None:
        with self.lock:
            queue = self.queue_of(handle)
            if queue.captured is not None:
                raise GpuError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            self.waits += 1
            while queue.work:
                self._step(queue)

    def _step(self, queue: Queue) -> None:
        try:
            self.now_ms += 0.25
            queue.work.pop(0).run()
        except GpuError as error:
            self.failed = error.code
            raise

    # Graphs.
    def begin_capture(self, handle: int, *, thread_local: bool) -> None:
        with self.lock:
            if self.refuses_capture:
                raise GpuError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            queue = self.queue_of(handle)
            queue.captured = []
            queue.capturer = threading.get_ident() if thread_local else None

    def end_capture(self, handle: int) -> list:
        with self.lock:
            queue = self.queue_of(handle)
            found, queue.captured = queue.captured, None
            if found is None or None in found:
                raise GpuError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            return found

    def is_capturing(self, handle: int) -> bool:
        return self.queue_of(handle).captured is not None

    def spoil_capture(self, handle: int) -> None:
        """What a call that cannot be captured leaves behind."""
        self.queue_of(handle).captured.append(None)

    def launch(self, handle: int, graph: list) -> None:
        for work in graph:
            self.enqueue(handle, work.run, work.reads, work.writes)

    def scaled_add(self, handle: int, scale: float, x: int, y: int, count: int) -> None:
        """The one kernel that this device knows: y += scale * x."""

        def run() -> None:
            source = self.at(x, 4 * count).view(np.float32)
            self.at(y, 4 * count).view(np.float32)[:] += np.float32(scale) * source

        self.enqueue(handle, run, ((x, 4 * count),), ((y, 4 * count),))

    @property
    def is_clean(self) -> bool:
        """Whether everything was given back."""
        return not (self.memory or self.pinned or self.queues or self.graphs or self.retained)


def _meet(one: Work, other: Work) -> bool:
    """Whether two pieces of work touch the same memory, and at least one of them writes it."""
    return any(
        first < second + length and second < first + size
        for mine, theirs in (
            (one.writes, other.reads),
            (one.reads, other.writes),
            (one.writes, other.writes),
        )
        for first, size in mine
        for second, length in theirs
    )
