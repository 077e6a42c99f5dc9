"""The device layer over NVIDIA's cuda-python (``cuda.bindings``, for CUDA 12 and 13).

Only the driver API is used: its handles are those of the runtime API, and it needs no ``libcudart``.
Never executed on a GPU so far: tests run it over a simulated driver.
"""

from __future__ import annotations

import contextlib
import ctypes
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

# The scalars that kernels take; there is no ctypes type for half precision.
_SCALARS: dict[str, Any] = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "uint64": ctypes.c_uint64,
}


@functools.cache
def import_driver() -> ModuleType:
    """Import ``cuda.bindings.driver``.

    Raises:
        MissingExtraError: cuda-python is not installed, or older than 12.6.
    """
    asked = "cannot drive a GPU through cuda-python"
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingExtraError(
            asked, f"it does not import ({error})", 'Install it: pip install "cuda-python>=12.8"'
        ) from error
    return driver  # type: ignore[no-any-return]


class _Calls:
    """The driver's functions, with their error codes turned into exceptions."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def __call__(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self.driver, name)(*arguments)
        if error != self.driver.CUresult.CUDA_SUCCESS:
            code = getattr(error, "name", str(error))
            raise EngineError(f"the CUDA call {name} failed", *explain_failure(code))
        return values[0] if values else None


class CudaPythonLayer(DeviceLayer):
    """A device through cuda-python."""

    name: ClassVar[str] = "cuda-python"
    package: ClassVar[str] = "cuda-python"
    extra: ClassVar[str] = "tensorrt"
    has_graphs: ClassVar[bool] = True

    def __init__(self, facts: DeviceFacts, calls: _Calls, device: Any, context: Any) -> None:
        super().__init__(facts)
        self._call = calls
        self._device = device
        self._context = context
        self._open = True

    @classmethod
    def probe(cls) -> Probe:
        """Say whether cuda-python imports and the driver sees a device."""
        try:
            import_driver()
            driver = require_driver("cannot use cuda-python")
        except TaemiError as error:
            return Probe(False, error.found, error.fix)
        return Probe(True, f"CUDA {driver.version}, {', '.join(driver.devices)}")

    @classmethod
    def open(cls, index: int) -> Self:
        """Retain a device's primary context; see ``DeviceLayer.open``."""
        check_index(index)
        driver = import_driver()
        call = _Calls(driver)
        call("cuInit", 0)
        device = call("cuDeviceGet", index)
        attribute = driver.CUdevice_attribute
        version = call("cuDriverGetVersion")
        facts = DeviceFacts(
            index,
            call("cuDeviceGetName", 256, device).split(b"\0")[0].decode(errors="replace"),
            (
                call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
                call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
            ),
            int(call("cuDeviceTotalMem", device)),
            f"{version // 1000}.{version % 1000 // 10}",
        )
        return cls(facts, call, device, call("cuDevicePrimaryCtxRetain", device))

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Push the context onto this thread's stack, and pop it in the end."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            # Its result is not looked at: it repeats errors of earlier work, which were raised already.
            self._call.driver.cuCtxPopCurrent()

    def alloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory."""
        return _Buffer(self._call, int(self._call("cuMemAlloc", max(1, nbytes))), nbytes)

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Allocate pinned host memory."""
        return _Pinned(self._call, int(self._call("cuMemHostAlloc", max(1, nbytes), 0)), nbytes)

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        flag = self._call.driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return _Stream(self._call, self._call("cuStreamCreate", flag))

    def event(self, *, timing: bool = False) -> Event:
        """Make an event."""
        flags = self._call.driver.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING
        return _Event(self._call, self._call("cuEventCreate", flag))

    def module(self, image: bytes) -> Module:
        """Load compiled device code."""
        return _Module(self._call, self._call("cuModuleLoadData", image))

    def free_bytes(self) -> int:
        """Return how much of the device's memory is free."""
        return int(self._call("cuMemGetInfo"))

    def close(self) -> None:
        """Release the primary context."""
        if self._open:
            self._open = False
            self._call("cuDevicePrimaryCtxRelease", self._device)


class _Handle:
    """A driver object with the call that gives it back."""

    def __init__(self, calls: _Calls, handle: Any, release: str) -> None:
        self.calls = calls
        self.value = handle
        self._release = release

    def close(self) -> None:
        if self.value is not None:
            value, self.value = self.value, None
            try:
                self.calls(self._release, value)
            except EngineError as error:
                # After a fault on the device every call fails: what was first is the cause, not this.
                _log.debug("%s", error)


class _Buffer(DeviceBuffer):
    def __init__(self, calls: _Calls, address: int, nbytes: int) -> None:
        super().__init__(address, nbytes)
        self._handle = _Handle(calls, address, "cuMemFree")

    def close(self) -> None:
        self._handle.close()


class _Pinned(PinnedBuffer):
    def __init__(self, calls: _Calls, address: int, nbytes: int) -> None:
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        super().__init__(np.ctypeslib.as_array(memory))
        self._handle = _Handle(calls, address, "cuMemFreeHost")

    @property
    def address(self) -> int:
        return int(self._handle.value)

    def close(self) -> None:
        # The array would show freed memory.
        self.array = np.empty(0, np.uint8)
        self._handle.close()


class _Event(Event):
    def __init__(self, calls: _Calls, handle: Any) -> None:
        self.handle = _Handle(calls, handle, "cuEventDestroy")

    def synchronise(self) -> None:
        self.handle.calls("cuEventSynchronize", self.handle.value)

    def elapsed_ms(self, since: Event) -> float:
        assert isinstance(since, _Event)
        return float(self.handle.calls("cuEventElapsedTime", since.handle.value, self.handle.value))

    def close(self) -> None:
        self.handle.close()


class _Graph(Graph):
    def __init__(self, calls: _Calls, captured: Any) -> None:
        self._captured = _Handle(calls, captured, "cuGraphDestroy")
        try:
            self.ready = _Handle(calls, calls("cuGraphInstantiate", captured, 0), "cuGraphExecDestroy")
        except EngineError:
            self._captured.close()
            raise

    def close(self) -> None:
        self.ready.close()
        self._captured.close()


class _Stream(Stream):
    def __init__(self, calls: _Calls, handle: Any) -> None:
        super().__init__(int(handle))
        self._call = calls
        self._owned = _Handle(calls, handle, "cuStreamDestroy")

    def upload(self, target: DeviceBuffer, source: PinnedBuffer, nbytes: int) -> None:
        assert isinstance(source, _Pinned)
        self._call("cuMemcpyHtoDAsync", target.address, source.address, nbytes, self._owned.value)

    def download(self, target: PinnedBuffer, source: DeviceBuffer, nbytes: int) -> None:
        assert isinstance(target, _Pinned)
        self._call("cuMemcpyDtoHAsync", target.address, source.address, nbytes, self._owned.value)

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, self._owned.value)

    def record(self, event: Event, *, captured: bool = False) -> None:
        assert isinstance(event, _Event)
        if captured:
            # Without the flag an event only orders the work of the capture, and is never recorded.
            flag = self._call.driver.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
            self._call("cuEventRecordWithFlags", event.handle.value, self._owned.value, flag)
        else:
            self._call("cuEventRecord", event.handle.value, self._owned.value)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        self._call("cuStreamWaitEvent", self._owned.value, event.handle.value, 0)

    def synchronise(self) -> None:
        self._call("cuStreamSynchronize", self._owned.value)

    def begin_capture(self) -> None:
        # Thread-local: other threads may allocate and copy while this one captures.
        mode = self._call.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._owned.value, mode)

    def end_capture(self) -> Graph:
        return _Graph(self._call, self._call("cuStreamEndCapture", self._owned.value))

    def launch(self, graph: Graph) -> None:
        assert isinstance(graph, _Graph)
        self._call("cuGraphLaunch", graph.ready.value, self._owned.value)

    def close(self) -> None:
        self._owned.close()


class _Module(Module):
    def __init__(self, calls: _Calls, handle: Any) -> None:
        self._handle = _Handle(calls, handle, "cuModuleUnload")

    def kernel(self, name: str) -> Kernel:
        calls = self._handle.calls
        return _Kernel(calls, calls("cuModuleGetFunction", self._handle.value, name.encode()))

    def close(self) -> None:
        self._handle.close()


class _Kernel(Kernel):
    def __init__(self, calls: _Calls, handle: Any) -> None:
        self._call = calls
        self._handle = handle

    def launch(
        self, stream: Stream, grid: Size, block: Size, arguments: Sequence[DeviceBuffer | np.generic]
    ) -> None:
        values: list[Any] = []
        kinds: list[Any] = []
        for argument in arguments:
            if isinstance(argument, DeviceBuffer):
                values.append(argument.address)
                kinds.append(ctypes.c_void_p)
            else:
                values.append(argument.item())
                kinds.append(_SCALARS[argument.dtype.name])
        packed = (tuple(values), tuple(kinds))
        self._call("cuLaunchKernel", self._handle, *grid, *block, 0, stream.handle, packed, 0)
