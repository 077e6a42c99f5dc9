"""TensorRT: a plan built from ONNX, and run where there is a GPU. The running is not yet run on a GPU.

TensorRT for RTX compiles for a named architecture with no GPU present: there the plan is built and
recorded as never executed. TensorRT itself needs the GPU to build, too.
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.machine_facts import compute_capability, tensorrt_version
from taemi_runtime.backends.tensorrt_library import ErrorLog, logger_of
from taemi_runtime.errors import EngineError
from taemi_runtime.host import cuda_driver
from taemi_runtime.spec import GraphSpec

# Compute capability 8.0 is the A100's and the A800's.
AHEAD_OF_TIME_TARGET = "SM80"
WORKSPACE_BYTES = 1 << 30


def check_tensorrt(context: Context) -> None:
    """Build a plan of the score graph with TensorRT, run it, and compare it with ONNX Runtime."""
    _require_library("tensorrt")
    require_cuda()
    _check(context, "tensorrt", why_not_here="")


def check_tensorrt_rtx(context: Context) -> None:
    """The same with TensorRT for RTX, which also builds without a GPU that it knows."""
    _require_library("tensorrt_rtx")
    known = import_module("tensorrt_rtx").ComputeCapability.__members__
    found = compute_capability()
    why = f"no CUDA device: {cuda_driver().why}"
    if found is not None:
        mine = "SM{}{}".format(*found)
        why = "" if mine in known else f"it knows {', '.join(known)}, and this GPU is {mine}"
    _check(context, "tensorrt_rtx", why_not_here=why)


def _require_library(name: str) -> None:
    found = tensorrt_version(name)
    if not found[:1].isdigit() or "does not import" in found:
        raise NotRunError(f"{name} is {found}" if found == "not installed" else f"{name}: {found}")


def _check(context: Context, library: str, *, why_not_here: str) -> None:
    """Build a plan for this GPU and run it, or build one ahead of time where it cannot run here."""
    from taemi_runtime.bundle import Bundle

    trt = import_module(library)
    bundle = Bundle.open(context.bundle())
    # The first graph of a manifest gives the final scores.
    name, spec = next(iter(bundle.manifest.graphs.items()))
    file = next((file for file, entry in bundle.engine_files(name) if entry.precision == "fp32"), None)
    if file is None:
        raise NotRunError(f"the bundle has no fp32 engine of graph {name}")
    onnx = bundle.file(file)
    target = AHEAD_OF_TIME_TARGET if why_not_here else ""
    context.record(library=f"{library} {trt.__version__}", graph=name, target=target or "this GPU")
    start = time.perf_counter()
    plan = build_plan(trt, onnx, spec, target=target)
    seconds = time.perf_counter() - start
    context.record(plan_bytes=len(plan), build_seconds=seconds)
    if why_not_here:
        context.record(summary=f"built for {target}, never executed: {why_not_here}")
        return
    context.record(summary="built, not executed yet")
    from taemi_bench.gpu_steps.tensorrt_run import run_plan

    run_plan(context, trt, plan, spec, onnx)
    context.record(summary="built, executed, and within the fp32 gate")


def profile_shapes(spec: GraphSpec) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Return the smallest, typical and largest shape of every input.

    Axes without a bound end at twice their typical length: this plan is for a check, not for service.

    Args:
        spec: The graph.
    """
    lengths = [
        spec.sizes({symbol.name: symbol.minimum for symbol in spec.free_symbols}),
        spec.sizes(),
        spec.sizes({symbol.name: symbol.maximum or 2 * symbol.typical for symbol in spec.free_symbols}),
    ]
    smallest, typical, largest = (
        {item.name: spec.shape(item, sizes) for item in spec.inputs} for sizes in lengths
    )
    return {name: (smallest[name], typical[name], largest[name]) for name in smallest}


def build_plan(trt: Any, onnx: Path, spec: GraphSpec, *, target: str = "") -> bytes:
    """Build a strongly typed plan of an ONNX graph, without TF32.

    Args:
        trt: The imported ``tensorrt`` or ``tensorrt_rtx``.
        onnx: The graph's file.
        spec: The graph; its symbols give the optimisation profile.
        target: A member of ``ComputeCapability``, to compile for a GPU that is not here; this machine's
            when empty.

    Raises:
        EngineError: The library refused the graph; says with what.
    """
    logger, errors = logger_of(trt)
    errors.take()
    asked = f"cannot build a plan of {onnx.name} with {trt.__name__} {trt.__version__}"
    builder = trt.Builder(logger)
    # Required by TensorRT 10, accepted and without effect from 11 on.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        found = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(asked, "; ".join(found) or _reason(errors))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # TF32 keeps 10 bits of the mantissa, which is beyond the fp32 gates.
    config.clear_flag(trt.BuilderFlag.TF32)
    if target:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    for name, shapes in profile_shapes(spec).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(asked, _reason(errors))
    return bytes(plan)


def _reason(errors: ErrorLog) -> str:
    # Builder and parser return None or False on failure, and say why to their logger only.
    return "; ".join(errors.take()[-3:]) or "the library gave no reason"
