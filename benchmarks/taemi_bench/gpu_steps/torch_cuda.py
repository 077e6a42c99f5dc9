"""PyTorch on the GPU: eager and compiled, fp32 and fp16. Not yet run on a GPU.

The rows that engines must beat have to be fair: float16 weights and inputs, scaled-dot-product
attention, inference mode, and ``torch.compile`` with CUDA graphs. Inputs and outputs stay on the
device, and the host waits for the device before it reads the clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.machine_facts import gpu_state
from taemi_bench.gpu_steps.measure import SHORT, Call, failures, measure
from taemi_bench.parity import measure_parity
from taemi_bench.pytorch_rows import cast, compile_module, named_outputs
from taemi_bench.schedule import Schedule
from taemi_bench.timer import describe_failure
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.spec import Arrays, GraphSpec

if TYPE_CHECKING:
    import torch

    from taemi.exportable import ExportGraph

SEED = 20
MODES = ("default", "reduce-overhead")
# A graph is not begun with less time left.
EAGER_GRAPH_SECONDS = 10.0
COMPILED_GRAPH_SECONDS = 50.0
FP32 = "eager fp32"
FP16 = "eager fp16"
Outputs = dict[str, "torch.Tensor"]


def measure_eager(context: Context) -> None:
    """Time PyTorch eager in float32 and float16, every graph, with parity to float32 on the CPU."""
    _measure(context, compiled=False)


def measure_compiled(context: Context) -> None:
    """Time ``torch.compile`` in float16 beside eager float16, with parity to float32 on the CPU."""
    _measure(context, compiled=True)


def _measure(context: Context, *, compiled: bool) -> None:
    require_cuda()
    import torch

    if not torch.cuda.is_available():
        raise NotRunError(f"torch {torch.__version__} was built without CUDA or cannot use this driver")
    from taemi.exportable import open_source

    source = open_source(context.checkpoint)
    torch.backends.cudnn.allow_tf32 = False
    context.record(
        torch=str(torch.__version__),
        device=torch.cuda.get_device_name(0),
        tf32=False,
        trained=source.trained,
        scope="inputs and outputs on the device, copies not included",
        graphs={},
    )
    wrong: list[str] = []
    needed = COMPILED_GRAPH_SECONDS if compiled else EAGER_GRAPH_SECONDS
    for place, graph in enumerate(source.graphs):
        if late := context.too_late(needed):
            context.record(graphs=context.recorder.facts["graphs"] | {graph.spec.name: {"why": late}})
            continue
        # The score graph at its largest, which is what its users wait for; encoders at typical lengths.
        sizes = largest_sizes(graph.spec) if place == 0 else {}
        try:
            found = graph_rows(graph, sizes, "cuda", compiled=compiled)
        # One graph that runs out of memory does not take the others with it.
        except Exception as error:
            found = {"rows": [], "wrong": {"every row": describe_failure(error)}}
        context.record(graphs=context.recorder.facts["graphs"] | {graph.spec.name: found})
        wrong += [f"{graph.spec.name}, {line}" for line in failures(found["rows"])]
        wrong += [f"{graph.spec.name}, {name}: {note}" for name, note in found["wrong"].items()]
        torch.cuda.empty_cache()
    graphs = context.recorder.facts["graphs"]
    measured = sum("rows" in graph for graph in graphs.values())
    context.record(gpus_after=gpu_state())
    context.record(summary=f"{measured} of {len(graphs)} graphs timed on {torch.cuda.get_device_name(0)}")
    if wrong:
        raise ParityError("PyTorch on the GPU failed or differs from the CPU", "; ".join(wrong))


def largest_sizes(spec: GraphSpec) -> dict[str, int]:
    """Return the largest length of every bounded axis; unbounded ones keep their typical length."""
    return {symbol.name: symbol.maximum for symbol in spec.free_symbols if symbol.maximum is not None}


def graph_rows(
    graph: ExportGraph,
    sizes: Mapping[str, int],
    device: str,
    *,
    compiled: bool,
    schedule: Schedule = SHORT,
) -> dict[str, Any]:
    """Time one graph's rows and compare each one's outputs with the float32 reference on the CPU.

    Args:
        graph: The graph.
        sizes: Lengths of free symbols.
        device: Where it runs.
        compiled: Whether ``torch.compile`` is timed beside eager float16, or eager float32 is.
        schedule: How long.

    Returns:
        ``sizes``, ``rows`` (see ``measure``), ``parity`` by row, and ``wrong``: what is beyond a gate.
    """
    import torch

    spec = graph.spec
    inputs = draw_inputs(spec, sizes, seed=SEED, ragged=False, poison=False)
    host = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    expected = {name: tensor.numpy() for name, tensor in graph.reference(host).items()}
    tensors = {name: tensor.to(device) for name, tensor in host.items()}
    runs: dict[str, Callable[[], Outputs]] = {}
    module = copy.deepcopy(graph.module).eval().to(device)
    if not compiled:
        runs[FP32] = caller(module, spec, tensors)
    fp16, half, note = half_caller(module, spec, tensors, device)
    runs[FP16] = fp16
    if compiled:
        torch.compiler.reset()
        for mode in MODES:
            # Compiled in its first call, which is the cold one.
            runs[f"torch.compile {mode} fp16"] = _compiled(
                half, spec, tensors, mode, autocast=bool(note), device=device
            )
    parity, wrong = {}, {}
    wait = torch.cuda.synchronize if device.startswith("cuda") else None
    rows = measure(
        [Call(name, run, wait) for name, run in runs.items()], FP16 if compiled else FP32, schedule
    )
    for row in rows:
        if row["name"] == FP16:
            # It was called once before, to find out whether it runs with converted weights.
            row["cold_ms"] = None
        if row["why"]:
            continue
        precision = "fp32" if row["name"] == FP32 else "fp16"
        found = _compare(graph, sizes, inputs, runs[row["name"]], expected, precision)
        parity[row["name"]] = found
        if found["passed"] is False:
            wrong[row["name"]] = found["note"]
    return {
        "sizes": spec.sizes(sizes),
        "rows": rows,
        "parity": parity,
        "wrong": wrong,
        "fp16_note": note,
    }


def caller(
    module: torch.nn.Module, spec: GraphSpec, tensors: Mapping[str, torch.Tensor], *, mark: bool = False
) -> Callable[[], Outputs]:
    """Return one call of a module as a function of nothing.

    Args:
        module: The module; it takes the spec's inputs in order.
        spec: The graph.
        tensors: The inputs by name.
        mark: Whether each call begins a step for CUDA graph trees, whose outputs live until the next.
    """
    import torch

    arguments = [tensors[item.name] for item in spec.inputs]

    def call() -> Outputs:
        if mark:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            return named_outputs(spec, module(*arguments))

    return call


def half_caller(
    module: torch.nn.Module, spec: GraphSpec, tensors: Mapping[str, torch.Tensor], device: str
) -> tuple[Callable[[], Outputs], torch.nn.Module, str]:
    """Return the module's float16 call: converted weights, or autocast where it does not take those.

    Args:
        module: The float32 module on the device; it is left as it is.
        spec: The graph.
        tensors: The float32 inputs by name.
        device: Where it runs.

    Returns:
        The call, the module that it calls, and why it is autocast; empty when the weights are float16.

    Raises:
        EngineError: Neither works.
    """
    half = copy.deepcopy(module).half()
    call = caller(half, spec, half_inputs(tensors))
    try:
        call()
        return call, half, ""
    except RuntimeError as error:
        note = f"autocast, because converted weights fail: {describe_failure(error)}"
    call = _autocast(caller(module, spec, tensors), device)
    try:
        call()
    except RuntimeError as error:
        raise EngineError(f"cannot run {spec.name} in float16", describe_failure(error)) from error
    return call, module, note


def half_inputs(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn floating-point inputs into float16 and leave the others."""
    import torch

    return {name: cast(tensor, torch.float16) for name, tensor in tensors.items()}


def _autocast(call: Callable[[], Outputs], device: str) -> Callable[[], Outputs]:
    import torch

    def inside() -> Outputs:
        with torch.autocast(device.partition(":")[0], dtype=torch.float16):
            return call()

    return inside


def _compiled(
    module: torch.nn.Module,
    spec: GraphSpec,
    tensors: Mapping[str, torch.Tensor],
    mode: str,
    *,
    autocast: bool,
    device: str,
) -> Callable[[], Outputs]:
    compiled = compile_module(module, mode)
    inputs = tensors if autocast else half_inputs(tensors)
    call = caller(compiled, spec, inputs, mark=mode == "reduce-overhead")
    return _autocast(call, device) if autocast else call


def _compare(
    graph: ExportGraph,
    sizes: Mapping[str, int],
    inputs: Arrays,
    run: Callable[[], Outputs],
    expected: Arrays,
    precision: str,
) -> dict[str, Any]:
    got = {name: tensor.detach().float().cpu().numpy() for name, tensor in run().items()}
    found = measure_parity(graph.spec, sizes, inputs, got, expected, precision)
    return dict(vars(found))
