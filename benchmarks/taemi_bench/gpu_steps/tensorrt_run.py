"""Running a plan through cuda-python: buffers, one call, comparison, timing. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taemi_bench.gpu_steps.contract import Context, NotRunError
from taemi_bench.gpu_steps.machine_facts import gpu_state
from taemi_bench.gpu_steps.measure import SHORT, Call, failures, measure
from taemi_bench.gpu_steps.tensorrt_plan import log_of
from taemi_bench.parity import measure_parity
from taemi_bench.schedule import Schedule
from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.spec import Array, GraphSpec

SEED = 20


def run_plan(
    context: Context, trt: Any, plan: bytes, spec: GraphSpec, onnx: Path, schedule: Schedule = SHORT
) -> None:
    """Run a plan on drawn inputs, compare it with ONNX Runtime on the CPU, and time it.

    Args:
        context: Where results go.
        trt: The library that built the plan.
        plan: The plan.
        spec: The graph.
        onnx: The graph's file, for the CPU.
        schedule: How long it is timed.

    Raises:
        NotRunError: cuda-python is not installed.
        EngineError: The library refused the plan or a call.
        ParityError: Its numbers are beyond the fp32 gate.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise NotRunError("built, not run: cuda-python is not installed (pip install cuda-python)") from None
    inputs = draw_inputs(spec, seed=SEED, ragged=False, poison=False)
    with open_engine(onnx, spec, EngineOptions(device="cpu"), backend="onnxruntime-cpu") as engine:
        expected = engine.run(inputs)
    with PlanRun(trt, runtime, plan, inputs) as runner:
        got = runner.outputs()
        found = measure_parity(spec, spec.sizes(), inputs, got, expected, "fp32")
        context.record(sizes=spec.sizes(), parity=vars(found) | {"against": "ONNX Runtime CPU"})
        if found.passed is False:
            raise ParityError("the plan's outputs are beyond the fp32 gate", found.note)
        calls = [Call("enqueue", runner.enqueue, runner.synchronise)]
        try:
            calls.append(Call("CUDA graph", runner.capture(), runner.synchronise))
        except EngineError as error:
            calls.append(Call("CUDA graph", None, why=str(error)))
        rows = measure(calls, "enqueue", schedule)
        context.record(rows=rows, scope="on the device, copies not included", gpus_after=gpu_state())
        if failures(rows):
            raise EngineError("a timed call failed", "; ".join(failures(rows)))


class PlanRun:
    """A deserialised plan with one set of device buffers.

    Args:
        trt: The library.
        runtime: ``cuda.bindings.runtime``.
        plan: The plan.
        inputs: The inputs by name.
    """

    def __init__(self, trt: Any, runtime: Any, plan: bytes, inputs: dict[str, Array]) -> None:
        self.trt = trt
        self.cuda = runtime
        self._graphs: list[Any] = []
        self._pointers: list[int] = []
        self._outputs: dict[str, tuple[int, Array]] = {}
        self._log = log_of(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError("cannot load the plan that was just built", self._log.said())
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("cannot make an execution context", self._log.said())
        # The default stream would synchronise with everything else in the process, and cannot be captured.
        self.stream = self.check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self._bind(inputs)

    def check(self, result: tuple[Any, ...]) -> Any:
        """Return a CUDA call's value.

        Raises:
            EngineError: The call did not succeed.
        """
        error, *values = result
        if error != self.cuda.cudaError_t.cudaSuccess:
            raise EngineError("a CUDA call failed", str(error))
        return values[0] if values else None

    def _bind(self, inputs: dict[str, Array]) -> None:
        engine, context, cuda = self._engine, self._context, self.cuda
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            if name in inputs and not context.set_input_shape(name, inputs[name].shape):
                raise EngineError(f"the plan refuses input {name} {inputs[name].shape}", self._log.said())
        unresolved = context.infer_shapes()
        if unresolved:
            raise EngineError("the plan leaves shapes open", ", ".join(unresolved))
        for name in names:
            dtype = np.dtype(self.trt.nptype(engine.get_tensor_dtype(name)))
            if name in inputs:
                host = np.ascontiguousarray(inputs[name], dtype=dtype)
            else:
                host = np.empty(tuple(context.get_tensor_shape(name)), dtype=dtype)
            pointer = int(self.check(cuda.cudaMalloc(max(1, host.nbytes))))
            self._pointers.append(pointer)
            if name in inputs:
                kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
                self.check(cuda.cudaMemcpy(pointer, host.ctypes.data, host.nbytes, kind))
            else:
                self._outputs[name] = (pointer, host)
            if not context.set_tensor_address(name, pointer):
                raise EngineError(f"the plan refuses the address of {name}", self._log.said())

    def enqueue(self) -> None:
        """Queue one call.

        Raises:
            EngineError: The library refused it.
        """
        if not self._context.execute_async_v3(int(self.stream)):
            raise EngineError("the plan did not run", self._log.said())

    def synchronise(self) -> None:
        """Wait for everything that was queued."""
        self.check(self.cuda.cudaStreamSynchronize(self.stream))

    def outputs(self) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        self.enqueue()
        self.synchronise()
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for pointer, host in self._outputs.values():
            self.check(self.cuda.cudaMemcpy(host.ctypes.data, pointer, host.nbytes, kind))
        return {name: host.copy() for name, (_, host) in self._outputs.items()}

    def capture(self) -> Callable[[], None]:
        """Capture one call as a CUDA graph and return its replay.

        The call before, which ``outputs`` made, is needed: TensorRT allocates in the first call after a
        change of shapes, and an allocation cannot be captured.

        Raises:
            EngineError: The call cannot be captured.
        """
        cuda = self.cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.check(cuda.cudaStreamBeginCapture(self.stream, mode))
        try:
            self.enqueue()
        finally:
            graph = self.check(cuda.cudaStreamEndCapture(self.stream))
        replayable = self.check(cuda.cudaGraphInstantiate(graph, 0))
        self._graphs.append(replayable)

        def replay() -> None:
            self.check(cuda.cudaGraphLaunch(replayable, self.stream))

        return replay

    def close(self) -> None:
        """Free graphs, buffers and the stream.

        Results are not looked at: after a failed call every later one fails, and the first is the cause.
        """
        for graph in self._graphs:
            self.cuda.cudaGraphExecDestroy(graph)
        for pointer in self._pointers:
            self.cuda.cudaFree(pointer)
        self.cuda.cudaStreamDestroy(self.stream)
        self._graphs, self._pointers = [], []

    def __enter__(self) -> PlanRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
