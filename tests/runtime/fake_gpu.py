"""A simulated GPU that computes: device memory at addresses of its own, and queues that run late.

Device memory is host memory behind addresses that the host cannot read, filled with rubbish when it is
allocated. Queued work runs when somebody waits for it and not before, so that a forgotten wait shows old
values; what was captured runs when its graph is launched, on the addresses of the capture. Addresses are
never given out twice: one that was freed is an error when the work runs, as on a real device.
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
class Queue:
    handle: int
    work: list = field(default_factory=list)
    captured: list | None = None
    # The only thread in which a capture forbids what cannot be captured; None forbids it in all of them.
    capturer: int | None = None


@dataclass
class Mark:
    """An event: which record of which queue it stands for, and whether that was passed."""

    passed: bool = True
    queue: Queue | None = None


@dataclass
class FakeGpu:
    """One device.

    Args:
        memory_bytes: Its memory.
    """

    memory_bytes: int = 1 << 40
    capability: tuple[int, int] = (8, 0)
    memory: dict = field(default_factory=dict)
    pinned: dict = field(default_factory=dict)
    queues: dict = field(default_factory=dict)
    graphs: int = 0
    retained: int = 0
    allocations: int = 0
    waits: int = 0
    refuses_capture: bool = False
    failed: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.stacks = threading.local()
        self._next = FIRST_ADDRESS
        self._handles = 1000

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
            self.memory[address] = np.full(nbytes, RUBBISH, np.uint8)
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
            ctypes.memset(block, RUBBISH, nbytes)
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

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        with self.lock:
            queue = self.queue_of(handle)
            (queue.work if queue.captured is None else queue.captured).append(work)

    def upload(self, handle: int, target: int, source: int, nbytes: int) -> None:
        def copy() -> None:
            self.at(target, nbytes)[:] = self.host(source, nbytes)

        self.enqueue(handle, copy)

    def download(self, handle: int, target: int, source: int, nbytes: int) -> None:
        def copy() -> None:
            self.host(target, nbytes)[:] = self.at(source, nbytes)

        self.enqueue(handle, copy)

    def record(self, handle: int, mark: Mark) -> None:
        with self.lock:
            mark.passed, mark.queue = False, self.queue_of(handle)
        self.enqueue(handle, lambda: setattr(mark, "passed", True))

    def wait_for(self, handle: int, mark: Mark) -> None:
        self.enqueue(handle, lambda: self.reach(mark))

    def reach(self, mark: Mark) -> None:
        with self.lock:
            while not mark.passed and mark.queue is not None and mark.queue.work:
                self._step(mark.queue)

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
            queue.work.pop(0)()
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
            self.enqueue(handle, work)

    def scaled_add(self, handle: int, scale: float, x: int, y: int, count: int) -> None:
        """The one kernel that this device knows: y += scale * x."""

        def run() -> None:
            source = self.at(x, 4 * count).view(np.float32)
            self.at(y, 4 * count).view(np.float32)[:] += np.float32(scale) * source

        self.enqueue(handle, run)

    @property
    def is_clean(self) -> bool:
        """Whether everything was given back."""
        return not (self.memory or self.pinned or self.queues or self.graphs or self.retained)
