"""TensorRT on a simulated GPU: a plan is an ONNX graph, and running it computes on the bound addresses.

A call reads what lies in device memory at the addresses and shapes that were set when it was queued, so
that a stale address, a short copy or a wrong shape gives wrong numbers or a fault. The order that the real
library asks for is enforced:

* shapes before addresses: a shape that is set anew forgets every address;
* what does not fit the profile is refused with ``False``, and the old shape stays;
* the first call of a context at a shape allocates, and cannot be captured;
* a graph whose context was given other shapes or addresses since computes rubbish.

What the library would say is told to the logger, in its own words.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime

from taemi_runtime.manifest import file_sha256
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, ShapeRange, format_sidecar, sidecar_name
from taemi_runtime.spec import GraphSpec
from tests.runtime.fake_gpu import FakeGpu, GpuError

MAGIC = b"ftrt"
VERSION = "11.1.0.106"
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}
SCRATCH_BYTES = 4096


class _Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = _Severity

    def __init__(self):
        self.ready = True


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class FakeTensorRT:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        gpu: Where plans run.
        name: The import name.
    """

    ILogger = ILogger
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, gpu: FakeGpu, name: str = "tensorrt", version: str = VERSION) -> None:
        self.gpu = gpu
        self.__name__ = name
        self.__version__ = version
        self.contexts = 0
        self.refuse = ""

    def nptype(self, dtype):
        return dtype

    def Runtime(self, logger):
        assert logger.ready
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self.deserialise(plan, logger))

    def deserialise(self, plan, logger):
        def refuse(words):
            logger.log(_Severity.ERROR, words)

        self.gpu.require_context()
        if self.refuse in RAW:
            return refuse(RAW[self.refuse])
        if not plan.startswith(MAGIC):
            return refuse(RAW["magic"])
        head, _, graph = plan[len(MAGIC) :].partition(b"\n")
        facts = json.loads(head)
        if facts["version"] != self.__version__:
            return refuse(RAW["version"])
        return FakeEngine(self, facts, graph, logger)


# What the libraries say, word for word.
RAW = {
    "magic": "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
    "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
    "version": "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
    "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 213, "
    "Serialized Engine Version: 205)",
    "capability": "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is "
    "generated on an incompatible device, expecting compute 8.0 got compute 9.0, please rebuild.)",
    "driver": "CUDA initialization failure with error: 35. Please check your CUDA installation",
    "memory": "IExecutionContext::IExecutionContext: Error Code 2: OutOfMemory (Requested size was 12.)",
    "plugin": "IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: NonZero, "
    "version: 1, namespace:.) plugin creator not found",
    "host code": "Engine deserialization failed: it contains a lean runtime and host code is not allowed",
}


class FakeEngine:
    def __init__(self, trt, facts, graph, logger):
        self.trt, self.logger = trt, logger
        self.profiles = facts["profiles"]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = self.inputs | self.outputs
        self.num_io_tensors = len(self.nodes)
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = SCRATCH_BYTES

    def get_tensor_name(self, index):
        return list(self.nodes)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name):
        return _DTYPES[self.nodes[name].type]

    def get_tensor_shape(self, name):
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name, index):
        assert name in self.inputs
        return self.profiles[index][name]

    def create_execution_context(self, strategy):
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        if self.trt.refuse == "context":
            self.logger.log(_Severity.ERROR, RAW["memory"])
            return None
        self.trt.contexts += 1
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine):
        self.engine, self.gpu = engine, engine.trt.gpu
        self.profile = -1
        self.shapes, self.addresses = {}, {}
        self.scratch = (0, 0)
        self.ran = False
        # Changes with every shape or address, so that graphs of an earlier state are known.
        self.version = 0
        self.users = 0

    def refuse(self, words):
        self.engine.logger.log(_Severity.ERROR, f"IExecutionContext: Error Code 3: API Usage Error ({words})")
        return False

    def set_optimization_profile_async(self, index, stream):
        self.gpu.queue_of(stream)
        if not 0 <= index < len(self.engine.profiles):
            return self.refuse(f"there is no optimization profile {index}")
        self.profile, self.shapes, self.addresses, self.ran = index, {}, {}, False
        self.version += 1
        return True

    def set_input_shape(self, name, shape):
        if self.profile < 0:
            return self.refuse("no optimization profile was set")
        low, _, high = self.engine.profiles[self.profile][name]
        if len(shape) != len(low) or any(not a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self.refuse(
                f"Static dimension or profile mismatch: set dimensions {list(shape)} are outside of "
                f"optimization profile {self.profile} [kMIN {low}, kMAX {high}]"
            )
        self.shapes[name] = tuple(shape)
        self.addresses, self.ran = {}, False
        self.version += 1
        return True

    def _lengths(self):
        lengths = {}
        for name, shape in self.shapes.items():
            for axis, length in zip(self.engine.inputs[name].shape, shape, strict=True):
                if lengths.setdefault(axis, length) != length:
                    return None
        return lengths

    def infer_shapes(self):
        open_ones = [name for name in self.engine.inputs if name not in self.shapes]
        return open_ones or ([] if self._lengths() is not None else list(self.engine.inputs))

    def get_tensor_shape(self, name):
        lengths = self._lengths() or {}
        return tuple(
            axis if isinstance(axis, int) else lengths.get(axis, -1) for axis in self.engine.nodes[name].shape
        )

    def set_tensor_address(self, name, address):
        if name not in self.engine.nodes:
            return self.refuse(f"no tensor {name}")
        self.addresses[name] = address
        self.version += 1
        return True

    def set_device_memory(self, address, size):
        self.scratch = (address, size)

    def execute_async_v3(self, stream):
        queue = self.gpu.queue_of(stream)
        lacking = [name for name in self.engine.nodes if name not in self.addresses]
        if lacking:
            return self.refuse(f"the address of {', '.join(lacking)} was not set after its shape")
        if self.infer_shapes():
            return self.refuse("not all shapes were specified")
        if self.scratch[1] < SCRATCH_BYTES:
            return self.refuse("device memory is too small")
        if queue.captured is not None and not self.ran:
            self.gpu.spoil_capture(stream)
            return self.refuse("operation not permitted when stream is capturing: the first call allocates")
        self.ran = True
        self.gpu.enqueue(stream, self._work(queue.captured is not None), *self._touched())
        return True

    def _touched(self):
        """The memory that a call reads, and that it writes."""
        found = {}
        for name in self.engine.nodes:
            itemsize = np.dtype(self.engine.get_tensor_dtype(name)).itemsize
            found[name] = (self.addresses[name], int(np.prod(self.get_tensor_shape(name))) * itemsize)
        reads = tuple(found[name] for name in self.engine.inputs)
        return reads, (*(found[name] for name in self.engine.outputs), self.scratch)

    def _work(self, captured):
        shapes, addresses, version, scratch = (
            dict(self.shapes),
            dict(self.addresses),
            self.version,
            self.scratch,
        )

        def compute():
            self.gpu.at(*scratch)
            feeds = {}
            for name in self.engine.inputs:
                dtype = np.dtype(self.engine.get_tensor_dtype(name))
                nbytes = int(np.prod(shapes[name])) * dtype.itemsize
                block = self.gpu.at(addresses[name], nbytes)
                if dtype == np.bool_:
                    # Rubbish is no bool; a device would take it for true.
                    block = (block != 0).view(np.uint8)
                feeds[name] = block.view(dtype).reshape(shapes[name]).copy()
            names = list(self.engine.outputs)
            for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
                stale = captured and self.version != version
                found = np.full_like(value, 1e9) if stale else np.ascontiguousarray(value)
                self.gpu.at(addresses[name], found.nbytes)[:] = found.view(np.uint8).ravel()

        return compute


def fake_plan(graph: bytes, profiles: list, version: str = VERSION) -> bytes:
    """Make a plan of an ONNX graph's bytes."""
    return MAGIC + json.dumps({"version": version, "profiles": profiles}).encode() + b"\n" + graph


def ranges_of(spec: GraphSpec, ranges: dict) -> dict:
    """Return [minimum, optimum, maximum] of every input, from three lengths for each free symbol."""
    lengths = [spec.sizes({name: three[index] for name, three in ranges.items()}) for index in range(3)]
    return {item.name: [spec.shape(item, sizes) for sizes in lengths] for item in spec.inputs}


def write_plan(
    path: Path, spec: GraphSpec, graph: bytes, ranges: dict, *, source: str = "", sha256: str = "", **changes
) -> PlanSidecar:
    """Write a plan and its sidecar.

    Args:
        path: The plan.
        spec: Its graph.
        graph: The ONNX graph's bytes.
        ranges: Profile name -> free symbol -> (minimum, optimum, maximum).
        source: The ONNX file's name.
        sha256: Its digest.
        changes: Fields of the sidecar that differ; ``content`` is what the plan holds instead.
    """
    profiles = {name: ranges_of(spec, chosen) for name, chosen in ranges.items()}
    content = changes.pop("content", None)
    path.write_bytes(fake_plan(graph, list(profiles.values())) if content is None else content)
    precision = "fp16" if "fp16" in path.name else "fp32"
    facts = {
        "plan": path.name,
        "plan_sha256": file_sha256(path),
        "plan_bytes": path.stat().st_size,
        "library": "tensorrt",
        "library_version": VERSION,
        "graph": spec.name,
        "source": source or f"{spec.name}.onnx",
        "source_sha256": sha256,
        "precision": precision,
        "layer_types": {},
        "target": "current",
        "compute_capability": "8.0",
        "compatibility": "same-compute-capability",
        "profiles": tuple(
            PlanProfile(name, {key: ShapeRange(*map(tuple, three)) for key, three in inputs.items()})
            for name, inputs in profiles.items()
        ),
        "inputs": {item.name: item.dtype for item in spec.inputs},
        "outputs": {item.name: item.dtype for item in spec.outputs},
        "tf32": False,
        "workspace_bytes": 1 << 30,
        "driver": "13.0",
    }
    sidecar = PlanSidecar(**(facts | changes))
    path.with_name(sidecar_name(path.name)).write_text(format_sidecar(sidecar))
    return sidecar


__all__ = ["RAW", "FakeTensorRT", "GpuError", "fake_plan", "ranges_of", "write_plan"]
