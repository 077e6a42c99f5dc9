"""A pretend CUDA runtime and TensorRT on host memory, for tests where there is no GPU.

They compute: device pointers are host addresses, and running a plan runs its ONNX graph on whatever
lies at the bound addresses, so that a stale address, a short copy or a wrong shape gives wrong scores.
Every call is checked for the order that the real libraries ask for.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import onnxruntime

OK, INVALID, CAPTURING = 0, 1, 900


class PretendRuntime:
    """The calls of ``cuda.bindings.runtime`` that running a plan needs, on host memory."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaError_t = SimpleNamespace(cudaSuccess=OK)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.queue: list = []
        self.captured: list | None = None
        self.streams = 0
        self.graphs = 0

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        self.streams += 1
        return OK, 77

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (OK,)

    def cudaMalloc(self, size):
        if self.captured is not None:
            return CAPTURING, None
        block = ctypes.create_string_buffer(b"\xa5" * size, size)
        self.memory[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaFree(self, pointer):
        return (OK if self.memory.pop(pointer, None) is not None else INVALID,)

    def cudaMemcpy(self, target, source, count, kind):
        device = target if kind == 1 else source
        if device not in self.memory or count > len(self.memory[device]):
            return (INVALID,)
        ctypes.memmove(target, source, count)
        return (OK,)

    def enqueue(self, work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def cudaStreamSynchronize(self, stream):
        if self.captured is not None:
            return (CAPTURING,)
        while self.queue:
            self.queue.pop(0)()
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        found, self.captured = self.captured, None
        return OK, found

    def cudaGraphInstantiate(self, graph, flags):
        self.graphs += 1
        return OK, list(graph)

    def cudaGraphLaunch(self, replayable, stream):
        self.queue += replayable
        return (OK,)

    def cudaGraphExecDestroy(self, replayable):
        self.graphs -= 1
        return (OK,)


class PretendTensorRT:
    """The calls of ``tensorrt`` that running a plan needs; a plan is the bytes of an ONNX graph."""

    __name__ = "pretend_tensorrt"
    __version__ = "0"

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

        def __init__(self) -> None:
            pass

    def __init__(self, runtime: PretendRuntime, *, refuse: str = "") -> None:
        self.cuda = runtime
        self.refuse = refuse

    def nptype(self, dtype):
        return dtype

    def Runtime(self, log):
        def deserialize_cuda_engine(plan):
            if self.refuse == "plan":
                log.log(self.ILogger.Severity.ERROR, "this plan is of another version")
                return None
            return PretendEngine(self, plan, log)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class PretendEngine:
    def __init__(self, trt: PretendTensorRT, plan: bytes, log) -> None:
        self.trt = trt
        self.log = log
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.nodes = {node.name: node for node in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.nodes)

    def get_tensor_name(self, index):
        return list(self.nodes)[index]

    def get_tensor_dtype(self, name):
        return {"tensor(float)": np.float32, "tensor(bool)": np.bool_}[self.nodes[name].type]

    def create_execution_context(self):
        return PretendContext(self)


class PretendContext:
    def __init__(self, engine: PretendEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran = False

    def set_input_shape(self, name, shape):
        self.ran = False
        self.shapes[name] = tuple(shape)
        if self.engine.trt.refuse == "shape":
            self.engine.log.log(1, "the shape is outside the optimization profile")
            return False
        return True

    def infer_shapes(self):
        return [node.name for node in self.engine.session.get_inputs() if node.name not in self.shapes]

    def get_tensor_shape(self, name):
        names = {}
        for node in self.engine.session.get_inputs():
            names |= dict(zip(node.shape, self.shapes[node.name], strict=True))
        return [names.get(axis, axis) for axis in self.engine.nodes[name].shape]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return pointer in self.engine.trt.cuda.memory

    def execute_async_v3(self, stream):
        cuda = self.engine.trt.cuda
        if not stream or set(self.addresses) != set(self.engine.nodes):
            return False
        if cuda.captured is not None and not self.ran:
            # The first call after a change of shapes allocates, which cannot be captured.
            return False
        self.ran = True
        cuda.enqueue(self.compute)
        return True

    def compute(self) -> None:
        feeds = {
            node.name: self.at(node.name, self.shapes[node.name]).copy()
            for node in self.engine.session.get_inputs()
        }
        names = [node.name for node in self.engine.session.get_outputs()]
        for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
            self.at(name, value.shape)[...] = value

    def at(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        block = self.engine.trt.cuda.memory[self.addresses[name]]
        return np.frombuffer(block, dtype=self.engine.get_tensor_dtype(name)).reshape(shape)
