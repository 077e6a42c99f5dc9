"""Tracing rows, outside of the timed rounds: ONNX Runtime's own trace, and PyTorch's.

A traced engine is opened anew, as tracing is a property of the session, and is called with the inputs that
were timed.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_bench.ort_trace import WARM_CALLS, read_onnxruntime_trace
from taemi_bench.profiles import Profile, ProfiledNode, file_stem, row_key
from taemi_bench.pytorch_rows import EAGER
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.scope_report import ScopeReport
from taemi_bench.selection import graph_source
from taemi_runtime.backends import open_engine
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import TaemiError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Array

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph, ExportSource

_MOST_CALLS, _LEAST_CALLS, _CALLS_S = 20, 2, 2.0
"""Traced calls: as many as fit into some seconds."""
_ONNX_RUNTIME = "onnxruntime-"
# Operators of which torch counts the operations; of elementwise ones it counts the elements only.
_TORCH_PRODUCTS = ("aten::addmm", "aten::baddbmm", "aten::bmm", "aten::mm")


def profile_report(
    report: Report,
    bundle: Bundle,
    source: ExportSource | None,
    ceilings: Mapping[str, Ceilings],
    folder: Path | None,
    *,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Profile]:
    """Trace the rows of a report that can be traced.

    Args:
        report: What was timed.
        bundle: The bundle.
        source: The checkpoint, for PyTorch's rows.
        ceilings: What each device can do, for the operators' floors.
        folder: Where traces are kept; ``None`` keeps none and leaves PyTorch's rows out.
        tick: Called before each row.

    Returns:
        The profiles by ``profiles.row_key``, of rows of ONNX Runtime and of PyTorch's eager float32 ones.
        What cannot be opened again is left out.
    """
    scopes = {scope.name: scope for scope in report.scopes if scope.kind == "graph"}
    found = {}
    for row in report.rows:
        scope = scopes.get(row.scope)
        if scope is None or row.state != "ran":
            continue
        tick()
        try:
            profile = _profile_row(row, scope, bundle, source, ceilings.get(row.device), folder)
        # One engine that does not open twice must not take the report with it.
        except (TaemiError, OSError, RuntimeError):
            continue
        if profile is not None:
            found[row_key(row)] = profile
    return found


def _profile_row(
    row: RowReport,
    scope: ScopeReport,
    bundle: Bundle,
    source: ExportSource | None,
    ceilings: Ceilings | None,
    folder: Path | None,
) -> Profile | None:
    spec = bundle.manifest.graphs.get(row.scope)
    if spec is None:
        return None
    free = {symbol.name: scope.sizes[symbol.name] for symbol in spec.free_symbols}
    inputs = draw_inputs(spec, free, seed=scope.seed, ragged=False, poison=False)
    if row.backend.startswith(_ONNX_RUNTIME):
        path = bundle.file(row.file)
        with _room(folder) as room:
            options = EngineOptions(device=row.device, threads=row.threads, trace=str(room / "trace"))
            engine = open_engine(path, spec, options, backend=row.backend, precision=row.precision)
            with engine:
                fed = {item.name: inputs[item.name] for item in engine.spec.inputs}
                _call_often(lambda: engine.run(fed, check_values=False), seconds=_CALLS_S if folder else 0)
            traces = sorted(room.glob("trace*.json"))
            if not traces:
                return None
            profile = read_onnxruntime_trace(traces[0], ceilings)
            return _keep(profile, row, traces[0], folder)
    if row.backend == PYTORCH and row.name.startswith(EAGER) and folder is not None:
        graph, _ = graph_source(source, row.scope, "")
        return None if graph is None else _profile_torch(graph, inputs, row, ceilings, folder)
    return None


def _profile_torch(
    graph: ExportGraph, inputs: Mapping[str, Array], row: RowReport, ceilings: Ceilings | None, folder: Path
) -> Profile:
    import torch
    from torch.profiler import ProfilerActivity, profile

    kind, _ = parse_device(row.device)
    call = _torch_call(graph, inputs, row.device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (kind == "cuda")
    threads = torch.get_num_threads()
    if row.threads:
        torch.set_num_threads(row.threads)
    try:
        for _ in range(WARM_CALLS):
            call()
        with profile(activities=activities, with_flops=True) as trace:
            calls, call_ms = _call_often(call, warm=0)
    finally:
        torch.set_num_threads(threads)
    spent = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    rate = ceilings.multiply_adds_per_second.get("fp32", 0.0) if ceilings else 0.0
    events = [event for event in trace.key_averages() if getattr(event, spent) > 0]
    total = sum(getattr(event, spent) for event in events)
    nodes = tuple(
        ProfiledNode(
            event.key,
            event.key.removeprefix("aten::"),
            event.count // calls,
            getattr(event, spent) / calls / 1e3,
            getattr(event, spent) / total,
            # torch counts a multiplication and an addition as two.
            event.flops / 2 / calls / rate * 1e3 if event.key in _TORCH_PRODUCTS and rate else None,
        )
        for event in sorted(events, key=lambda event: -getattr(event, spent))
    )
    with _room(folder) as room:
        path = room / "trace.json"
        trace.export_chrome_trace(str(path))
        return _keep(Profile("", "", "", calls, call_ms, nodes), row, path, folder)


def _torch_call(graph: ExportGraph, inputs: Mapping[str, Array], device: str) -> Callable[[], object]:
    """Return a call of the reference on the CPU, or of the export module on a GPU (never done so far)."""
    import torch

    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    if parse_device(device)[0] != "cuda":
        return lambda: graph.reference(tensors)
    module = copy.deepcopy(graph.module).eval().to(device)

    def call() -> object:
        with torch.inference_mode():
            found = module(*(tensors[item.name].to(device) for item in graph.spec.inputs))
            torch.cuda.synchronize(device)
            return found

    return call


def _call_often(
    call: Callable[[], object], *, warm: int = WARM_CALLS, seconds: float = _CALLS_S
) -> tuple[int, float]:
    """Make warm-up calls and then as many as fit into some seconds; return how many, and their mean ms."""
    for _ in range(warm):
        call()
    start, calls = time.perf_counter(), 0
    while calls < _LEAST_CALLS or (calls < _MOST_CALLS and time.perf_counter() - start < seconds):
        call()
        calls += 1
    return calls, (time.perf_counter() - start) / calls * 1e3


def _keep(profile: Profile, row: RowReport, trace: Path, folder: Path | None) -> Profile:
    """Move a finished trace to where it is kept, and say whose it is."""
    name = ""
    if folder is not None:
        name = f"{file_stem(row.scope, row.name)}.trace.json"
        trace.replace(folder / name)
    return replace(profile, scope=row.scope, row=row.name, trace=name)


@contextmanager
def _room(folder: Path | None) -> Iterator[Path]:
    """Make a temporary folder, within the one where traces are kept so that moving one there is atomic."""
    with tempfile.TemporaryDirectory(prefix=".profile-", dir=folder) as room:
        yield Path(room)
