"""The driver APIs of cuda-python and pycuda over a simulated GPU, as far as the device layers call them."""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace

import numpy as np

from tests.runtime.fake_gpu import FakeGpu, GpuError, Mark

DRIVER = 13000


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


def _call(needs_context=True):
    """Give a function the driver's manner: an error code first, then the values."""

    def wrap(function):
        def called(self, *arguments):
            try:
                if needs_context:
                    self.gpu.require_context()
                found = function(self, *arguments)
            except GpuError as error:
                return (CUresult[error.code], None)
            return (CUresult.CUDA_SUCCESS,) if found is None else (CUresult.CUDA_SUCCESS, found)

        return called

    return wrap


class FakeDriver:
    """``cuda.bindings.driver``."""

    CUresult = CUresult
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0, CU_EVENT_DISABLE_TIMING=2)
    CUevent_record_flags = SimpleNamespace(CU_EVENT_RECORD_DEFAULT=0, CU_EVENT_RECORD_EXTERNAL=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    @_call(needs_context=False)
    def cuInit(self, flags):
        assert flags == 0

    @_call(needs_context=False)
    def cuDeviceGet(self, index):
        return index

    @_call(needs_context=False)
    def cuDriverGetVersion(self):
        return DRIVER

    @_call(needs_context=False)
    def cuDeviceGetName(self, length, device):
        return b"Simulated GPU\0".ljust(length, b"\0")

    @_call(needs_context=False)
    def cuDeviceGetAttribute(self, attribute, device):
        return self.gpu.capability[attribute - 75]

    @_call(needs_context=False)
    def cuDeviceTotalMem(self, device):
        return self.gpu.memory_bytes

    @_call(needs_context=False)
    def cuDevicePrimaryCtxRetain(self, device):
        self.gpu.retained += 1
        return "primary"

    @_call(needs_context=False)
    def cuDevicePrimaryCtxRelease(self, device):
        self.gpu.retained -= 1

    @_call(needs_context=False)
    def cuCtxPushCurrent(self, context):
        self.gpu.stack.append(context)

    @_call(needs_context=False)
    def cuCtxPopCurrent(self):
        return self.gpu.stack.pop()

    @_call()
    def cuMemAlloc(self, nbytes):
        return self.gpu.alloc(nbytes)

    @_call()
    def cuMemFree(self, address):
        self.gpu.free(address)

    @_call()
    def cuMemHostAlloc(self, nbytes, flags):
        return self.gpu.pin(nbytes)

    @_call()
    def cuMemFreeHost(self, address):
        self.gpu.unpin(address)

    @_call()
    def cuMemGetInfo(self):
        return self.gpu.free_bytes()

    @_call()
    def cuStreamCreate(self, flags):
        assert flags == self.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self.gpu.stream()

    @_call()
    def cuStreamDestroy(self, stream):
        self.gpu.drop_stream(stream)

    @_call()
    def cuStreamSynchronize(self, stream):
        self.gpu.synchronise(stream)

    @_call()
    def cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        self.gpu.upload(stream, target, source, nbytes)

    @_call()
    def cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        self.gpu.download(stream, target, source, nbytes)

    @_call()
    def cuMemcpyDtoDAsync(self, target, source, nbytes, stream):
        self.gpu.move(stream, target, source, nbytes)

    @_call()
    def cuEventCreate(self, flags):
        return SimpleNamespace(mark=Mark(), timed=flags == self.CUevent_flags.CU_EVENT_DEFAULT)

    @_call()
    def cuEventDestroy(self, event):
        del event.mark

    @_call()
    def cuEventRecord(self, event, stream):
        self.gpu.record(stream, event.mark)

    @_call()
    def cuEventRecordWithFlags(self, event, stream, flags):
        external = flags == self.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
        if external != self.gpu.is_capturing(stream):
            raise GpuError("CUDA_ERROR_INVALID_VALUE")
        self.gpu.record(stream, event.mark, external=external)

    @_call()
    def cuEventSynchronize(self, event):
        self.gpu.reach(event.mark)

    @_call()
    def cuEventElapsedTime(self, start, end):
        if not (start.timed and end.timed):
            raise GpuError("CUDA_ERROR_INVALID_HANDLE")
        return self.gpu.elapsed_ms(start.mark, end.mark)

    @_call()
    def cuStreamWaitEvent(self, stream, event, flags):
        self.gpu.wait_for(stream, event.mark)

    @_call()
    def cuStreamBeginCapture(self, stream, mode):
        local = mode == self.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.gpu.begin_capture(stream, thread_local=local)

    @_call()
    def cuStreamEndCapture(self, stream):
        return self.gpu.end_capture(stream)

    @_call()
    def cuGraphInstantiate(self, graph, flags):
        self.gpu.graphs += 1
        return list(graph)

    @_call()
    def cuGraphDestroy(self, graph):
        pass

    @_call()
    def cuGraphExecDestroy(self, graph):
        self.gpu.graphs -= 1

    @_call()
    def cuGraphLaunch(self, graph, stream):
        self.gpu.launch(stream, graph)

    @_call()
    def cuModuleLoadData(self, image):
        return _load(image)

    @_call()
    def cuModuleUnload(self, module):
        pass

    @_call()
    def cuModuleGetFunction(self, module, name):
        return _function(module, name.decode())

    @_call()
    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, packed, extra):
        values, kinds = packed
        assert kinds == (ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        assert gx * bx >= values[3]
        self.gpu.scaled_add(stream, *values)


def _load(image):
    if not image.startswith(b"\x7fELF"):
        raise GpuError("CUDA_ERROR_NO_BINARY_FOR_GPU")
    return "module"


def _function(module, name):
    if name != "scaled_add":
        raise GpuError("CUDA_ERROR_NOT_FOUND")
    return name


# What pycuda says, after the name of the call.
_WORDS = {
    "CUDA_ERROR_OUT_OF_MEMORY": "out of memory",
    "CUDA_ERROR_INVALID_CONTEXT": "invalid device context",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "no kernel image is available for execution on the device",
}


class FakePycuda:
    """``pycuda.driver``: its objects give back what they hold when they go."""

    class Error(Exception):
        pass

    event_flags = SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2)

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def do(self, what, function, *arguments):
        try:
            self.gpu.require_context()
            return function(*arguments)
        except GpuError as error:
            raise self.Error(f"{what} failed: {_WORDS.get(error.code, error.code)}") from error

    def Device(self, index):
        gpu = self.gpu
        return SimpleNamespace(
            name=lambda: "Simulated GPU",
            compute_capability=lambda: gpu.capability,
            total_memory=lambda: gpu.memory_bytes,
            retain_primary_context=lambda: _Context(gpu),
        )

    def get_driver_version(self):
        return DRIVER

    def mem_get_info(self):
        return self.gpu.free_bytes(), self.gpu.memory_bytes

    def mem_alloc(self, nbytes):
        return _Allocation(self, self.do("cuMemAlloc", self.gpu.alloc, nbytes))

    def pagelocked_empty(self, count, dtype):
        address = self.do("cuMemHostAlloc", self.gpu.pin, count)
        return np.frombuffer(self.gpu.pinned[address], dtype).view(_Pagelocked).owned_by(self, address)

    def Stream(self, flags=0):
        assert flags == 1
        return _Stream(self, self.do("cuStreamCreate", self.gpu.stream))

    def Event(self, flags=0):
        return _Event(self, flags)

    def memcpy_htod_async(self, target, source, stream):
        arguments = (stream.handle, target, source.ctypes.data, source.nbytes)
        self.do("cuMemcpyHtoDAsync", self.gpu.upload, *arguments)

    def memcpy_dtoh_async(self, target, source, stream):
        arguments = (stream.handle, target.ctypes.data, source, target.nbytes)
        self.do("cuMemcpyDtoHAsync", self.gpu.download, *arguments)

    def memcpy_dtod_async(self, target, source, nbytes, stream):
        self.do("cuMemcpyDtoDAsync", self.gpu.move, stream.handle, target, source, nbytes)

    def module_from_buffer(self, image):
        module = self.do("cuModuleLoadDataEx", _load, image)
        return SimpleNamespace(
            get_function=lambda name: (
                lambda *arguments, **options: self._launch(
                    self.do("cuModuleGetFunction", _function, module, name), *arguments, **options
                )
            )
        )

    def _launch(self, function, scale, x, y, count, *, block, grid, stream):
        kinds = (type(scale), type(x), type(y), type(count))
        assert kinds == (np.float32, np.uint64, np.uint64, np.int32)
        assert grid[0] * block[0] >= count
        self.gpu.scaled_add(stream.handle, float(scale), int(x), int(y), int(count))


class _Context:
    def __init__(self, gpu):
        self.gpu = gpu
        gpu.retained += 1

    def push(self):
        self.gpu.stack.append(self)

    def pop(self):
        self.gpu.stack.pop()

    def __del__(self):
        self.gpu.retained -= 1


class _Allocation:
    def __init__(self, pycuda, address):
        self.pycuda, self.address = pycuda, address

    def __int__(self):
        return self.address

    def free(self):
        self.pycuda.do("cuMemFree", self.pycuda.gpu.free, self.address)


class _Pagelocked(np.ndarray):
    # pycuda's arrays have the allocation as their base.
    def owned_by(self, pycuda, address):
        self.owner = SimpleNamespace(free=lambda: pycuda.do("cuMemFreeHost", pycuda.gpu.unpin, address))
        return self

    @property
    def base(self):
        return self.owner


class _Stream:
    def __init__(self, pycuda, handle):
        self.pycuda, self.handle = pycuda, handle

    def synchronize(self):
        self.pycuda.do("cuStreamSynchronize", self.pycuda.gpu.synchronise, self.handle)

    def wait_for_event(self, event):
        self.pycuda.gpu.wait_for(self.handle, event.mark)

    def __del__(self):
        self.pycuda.gpu.drop_stream(self.handle)


class _Event:
    def __init__(self, pycuda, flags):
        self.pycuda, self.timed, self.mark = pycuda, flags == 0, Mark()

    def record(self, stream):
        self.pycuda.gpu.record(stream.handle, self.mark)
        return self

    def synchronize(self):
        self.pycuda.gpu.reach(self.mark)

    def time_since(self, other):
        if not (self.timed and other.timed):
            raise self.pycuda.Error("cuEventElapsedTime failed: invalid resource handle")
        return self.pycuda.do("cuEventElapsedTime", self.pycuda.gpu.elapsed_ms, other.mark, self.mark)
