"""The device layer over pycuda: plain enqueue, as pycuda has no CUDA graphs.

It retains the primary context, as ``pycuda.autoprimaryctx`` does: the context that ``pycuda.autoinit``
makes is another one, in which no other library's memory is valid. pycuda keeps a stack of contexts for
each thread and aborts the process when one is left on it, so that every push has its pop.
Never executed on a GPU so far: tests run it over a simulated driver.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np

from taemi_runtime.cuda.contract import (
    DeviceBuffer,
    DeviceFacts,
    DeviceLayer,
    Event,
    Graph,
    Kernel,
    Module,
    PinnedBuffer,
    Size,
    Stream,
)
from taemi_runtime.cuda.registry import check_index, explain_failure, require_driver
from taemi_runtime.engine import Probe
from taemi_runtime.errors import EngineError, MissingExtraError, TaemiError

_log = logging.getLogger(__name__)

# CU_STREAM_NON_BLOCKING (CUDA Driver API, CUstream_flags); pycuda has no name for it.
_NON_BLOCKING = 1
# The words of pycuda's messages and the driver's codes for them.
_CODES = {
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "illegal memory access": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "illegal address": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "invalid device context": "CUDA_ERROR_INVALID_CONTEXT",
    "out-of-thread context": "CUDA_ERROR_INVALID_CONTEXT",
    "no kernel image": "CUDA_ERROR_NO_BINARY_FOR_GPU",
}


@functools.cache
def import_driver() -> ModuleType:
    """Import and start ``pycuda.driver``.

    Raises:
        MissingExtraError: pycuda is not installed.
    """
    asked = "cannot drive a GPU through pycuda"
    try:
        from pycuda import driver
    except ImportError as error:
        raise MissingExtraError(
            asked,
            f"it does not import ({error})",
            'Install it: pip install "taemi[pycuda]" (it is compiled here and needs the CUDA toolkit), '
            "or use --cuda-backend cuda-python",
        ) from error
    driver.init()
    return driver  # type: ignore[no-any-return]


@contextlib.contextmanager
def _explained(driver: Any, what: str) -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        said = str(error)
        code = next((code for words, code in _CODES.items() if words in said), "")
        found, fix = explain_failure(code) if code else (said, "")
        raise EngineError(f"the pycuda call {what} failed", found, fix) from error


class PycudaLayer(DeviceLayer):
    """A device through pycuda."""

    name: ClassVar[str] = "pycuda"
    package: ClassVar[str] = "pycuda"
    extra: ClassVar[str] = "pycuda"
    has_graphs: ClassVar[bool] = False

    def __init__(self, facts: DeviceFacts, driver: Any, context: Any) -> None:
        super().__init__(facts)
        self._driver = driver
        self._context = context

    @classmethod
    def probe(cls) -> Probe:
        """Say whether the driver sees a device and pycuda imports."""
        try:
            # Without a driver pycuda does not import, and its loader's message says less.
            driver = require_driver("cannot use pycuda")
            import_driver()
        except TaemiError as error:
            return Probe(False, error.found, error.fix)
        except Exception as error:  # pycuda.driver.Error cannot be named where the import failed
            return Probe(False, f"pycuda does not start ({error})", "Reinstall it where this driver is")
        return Probe(True, f"CUDA {driver.version}, {', '.join(driver.devices)}")

    @classmethod
    def open(cls, index: int) -> Self:
        """Retain a device's primary context; see ``DeviceLayer.open``."""
        check_index(index)
        driver = import_driver()
        with _explained(driver, "Device"):
            device = driver.Device(index)
            version = driver.get_driver_version()
            facts = DeviceFacts(
                index,
                device.name(),
                tuple(device.compute_capability()),
                int(device.total_memory()),
                f"{version // 1000}.{version % 1000 // 10}",
            )
            return cls(facts, driver, device.retain_primary_context())

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Push the context onto this thread's stack, and pop it in the end."""
        with _explained(self._driver, "Context.push"):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def alloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory."""
        with _explained(self._driver, "mem_alloc"):
            return _Buffer(self._driver, self._driver.mem_alloc(max(1, nbytes)), nbytes)

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Allocate pinned host memory."""
        with _explained(self._driver, "pagelocked_empty"):
            return _Pinned(self._driver, self._driver.pagelocked_empty(max(1, nbytes), np.uint8), nbytes)

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        with _explained(self._driver, "Stream"):
            return _Stream(self._driver, self._driver.Stream(_NON_BLOCKING))

    def event(self, *, timing: bool = False) -> Event:
        """Make an event."""
        flags = self._driver.event_flags
        with _explained(self._driver, "Event"):
            return _Event(self._driver, self._driver.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING))

    def module(self, image: bytes) -> Module:
        """Load compiled device code."""
        with _explained(self._driver, "module_from_buffer"):
            return _Module(self._driver, self._driver.module_from_buffer(image))

    def free_bytes(self) -> int:
        """Return how much of the device's memory is free."""
        return int(self._driver.mem_get_info()[0])

    def close(self) -> None:
        """Release the primary context: pycuda does so when its object goes."""
        self._context = None


def _give_back(driver: Any, allocation: Any) -> None:
    try:
        allocation.free()
    except driver.Error as error:
        # After a fault on the device every call fails: what was first is the cause, not this.
        _log.debug("%s", error)


class _Buffer(DeviceBuffer):
    def __init__(self, driver: Any, owned: Any, nbytes: int) -> None:
        super().__init__(int(owned), nbytes)
        self._driver = driver
        self._owned = owned

    def close(self) -> None:
        if self._owned is not None:
            owned, self._owned = self._owned, None
            _give_back(self._driver, owned)


class _Pinned(PinnedBuffer):
    def __init__(self, driver: Any, owned: Any, nbytes: int) -> None:
        super().__init__(owned[:nbytes])
        self._driver = driver
        self._owned = owned

    def close(self) -> None:
        self.array = np.empty(0, np.uint8)
        if self._owned is not None:
            owned, self._owned = self._owned, None
            _give_back(self._driver, owned.base)


class _Event(Event):
    def __init__(self, driver: Any, owned: Any) -> None:
        self._driver = driver
        self.owned = owned

    def synchronise(self) -> None:
        with _explained(self._driver, "Event.synchronize"):
            self.owned.synchronize()

    def elapsed_ms(self, since: Event) -> float:
        assert isinstance(since, _Event)
        with _explained(self._driver, "Event.time_since"):
            return float(self.owned.time_since(since.owned))

    def close(self) -> None:
        self.owned = None


class _Stream(Stream):
    def __init__(self, driver: Any, owned: Any) -> None:
        super().__init__(int(owned.handle))
        self._driver = driver
        self.owned = owned

    def upload(self, target: DeviceBuffer, source: PinnedBuffer, nbytes: int) -> None:
        with _explained(self._driver, "memcpy_htod_async"):
            self._driver.memcpy_htod_async(target.address, source.array[:nbytes], self.owned)

    def download(self, target: PinnedBuffer, source: DeviceBuffer, nbytes: int) -> None:
        with _explained(self._driver, "memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(target.array[:nbytes], source.address, self.owned)

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        with _explained(self._driver, "memcpy_dtod_async"):
            self._driver.memcpy_dtod_async(target, source, nbytes, self.owned)

    def record(self, event: Event, *, captured: bool = False) -> None:
        del captured  # nothing is
        assert isinstance(event, _Event)
        event.owned.record(self.owned)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        self.owned.wait_for_event(event.owned)

    def synchronise(self) -> None:
        with _explained(self._driver, "Stream.synchronize"):
            self.owned.synchronize()

    def begin_capture(self) -> None:
        raise EngineError(
            "cannot capture a CUDA graph", "pycuda has no CUDA graphs", "Use --cuda-backend cuda-python"
        )

    def end_capture(self) -> Graph:
        raise EngineError("cannot end a capture", "pycuda has no CUDA graphs")

    def launch(self, graph: Graph) -> None:
        raise EngineError("cannot launch a CUDA graph", "pycuda has none")

    def close(self) -> None:
        self.owned = None


class _Module(Module):
    def __init__(self, driver: Any, owned: Any) -> None:
        self._driver = driver
        self._owned = owned

    def kernel(self, name: str) -> Kernel:
        with _explained(self._driver, "get_function"):
            return _Kernel(self._driver, self._owned.get_function(name))

    def close(self) -> None:
        self._owned = None


class _Kernel(Kernel):
    def __init__(self, driver: Any, function: Any) -> None:
        self._driver = driver
        self._function = function

    def launch(
        self, stream: Stream, grid: Size, block: Size, arguments: Sequence[DeviceBuffer | np.generic]
    ) -> None:
        assert isinstance(stream, _Stream)
        # An address is passed as the unsigned 64-bit integer that it is.
        packed = [np.uint64(a.address) if isinstance(a, DeviceBuffer) else a for a in arguments]
        with _explained(self._driver, "a kernel launch"):
            self._function(*packed, block=block, grid=grid, stream=stream.owned)
