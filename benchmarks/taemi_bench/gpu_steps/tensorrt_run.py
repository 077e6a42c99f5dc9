"""Running a plan as the runtime does: parity, plain enqueue, CUDA graphs. Not yet run on a GPU."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from taemi_bench.gpu_steps.contract import Context, NotRunError
from taemi_bench.gpu_steps.machine_facts import gpu_state
from taemi_bench.gpu_steps.measure import SHORT, Call, failures, measure
from taemi_bench.gpu_steps.tensorrt_plan import profile_shapes
from taemi_bench.parity import measure_parity
from taemi_bench.schedule import Schedule
from taemi_runtime.atomic import write_bytes, write_text
from taemi_runtime.backends import open_engine
from taemi_runtime.cuda.registry import DEFAULT, layer
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.host import compute_capability, cuda_driver
from taemi_runtime.manifest import file_sha256
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, ShapeRange, format_sidecar, sidecar_name
from taemi_runtime.spec import GraphSpec

SEED = 20
# Enough calls of one shape for it to be captured: one enqueued, one that warms up, one replayed.
SETTLING_CALLS = 3


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
        NotRunError: cuda-python cannot be used.
        EngineError: The library refused the plan or a call.
        ParityError: Its numbers are beyond the fp32 gate.
    """
    probe = layer(DEFAULT).probe()
    if not probe.usable:
        raise NotRunError(f"built, not run: {DEFAULT}: {probe.detail}")
    inputs = draw_inputs(spec, seed=SEED, ragged=False, poison=False)
    with open_engine(onnx, spec, EngineOptions(device="cpu"), backend="onnxruntime-cpu") as engine:
        expected = engine.run(inputs)
    path = write_plan(context.work, trt, plan, spec, onnx)
    with contextlib.ExitStack() as stack:
        engines = {}
        for name, graphs in (("enqueue", False), ("CUDA graph", True)):
            options = EngineOptions(device="cuda", cuda_graphs=graphs, contexts=1)
            engines[name] = stack.enter_context(open_engine(path, spec, options, backend="tensorrt"))
        for name, engine in engines.items():
            for _ in range(SETTLING_CALLS):
                got = engine.run(inputs)
            found = measure_parity(spec, spec.sizes(), inputs, got, expected, "fp32")
            context.record(sizes=spec.sizes(), parity=vars(found) | {"against": "ONNX Runtime CPU"})
            if found.passed is False:
                raise ParityError(f"the plan's outputs by {name} are beyond the fp32 gate", found.note)
        graph: Any = engines["CUDA graph"]
        context.record(calls={name: vars(engine.counts) for name, engine in _counted(engines).items()})
        context.record(warm_up_ms=vars(graph.warm_up))
        calls = [Call(name, _call(engine, inputs)) for name, engine in engines.items()]
        rows = measure(calls, "enqueue", schedule)
        context.record(rows=rows, scope="a call of the engine, copies included", gpus_after=gpu_state())
        if failures(rows):
            raise EngineError("a timed call failed", "; ".join(failures(rows)))


def _counted(engines: dict[str, Any]) -> dict[str, Any]:
    return {name: engine for name, engine in engines.items() if hasattr(engine, "counts")}


def _call(engine: Any, inputs: Any) -> Any:
    return lambda: engine.run(inputs, check_values=False)


def write_plan(folder: Path, trt: Any, plan: bytes, spec: GraphSpec, onnx: Path) -> Path:
    """Write a plan that was just built here, with the sidecar that the runtime asks for.

    Args:
        folder: Where to.
        trt: The library that built it.
        plan: The plan.
        spec: Its graph; the profile is that of ``profile_shapes``.
        onnx: What it was built from.
    """
    path = folder / f"{spec.name}.{trt.__name__}.plan"
    write_bytes(path, plan)
    ranges = {name: ShapeRange(*shapes) for name, shapes in profile_shapes(spec).items()}
    capability = compute_capability()
    sidecar = PlanSidecar(
        plan=path.name,
        plan_sha256=file_sha256(path),
        plan_bytes=len(plan),
        library=trt.__name__,
        library_version=str(trt.__version__),
        graph=spec.name,
        source=onnx.name,
        source_sha256=file_sha256(onnx),
        precision="fp32",
        layer_types={},
        target="current",
        compute_capability="{}.{}".format(*capability) if capability else "0.0",
        compatibility="same-compute-capability",
        profiles=(PlanProfile("check", ranges),),
        inputs={item.name: item.dtype for item in spec.inputs},
        outputs={item.name: item.dtype for item in spec.outputs},
        tf32=False,
        workspace_bytes=0,
        driver=cuda_driver().version,
    )
    write_text(path.with_name(sidecar_name(path.name)), format_sidecar(sidecar))
    return path
