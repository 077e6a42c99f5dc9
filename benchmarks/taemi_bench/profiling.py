"""Tracing rows, outside of the timed rounds: by ONNX Runtime, by PyTorch and by OpenVINO's counters.

A traced row is opened anew, as tracing is a property of a session or of what is compiled, and is called with
the inputs that were timed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_bench.openvino_counters import count_openvino
from taemi_bench.openvino_row import OPENVINO
from taemi_bench.ort_trace import read_onnxruntime_trace
from taemi_bench.profiles import Profile, file_stem, row_key
from taemi_bench.pytorch_rows import fresh_compile_cache, pytorch_ways, torch_settings
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.scope_report import ScopeReport
from taemi_bench.selection import graph_source
from taemi_bench.timer import describe_failure
from taemi_bench.torch_trace import trace_pytorch
from taemi_bench.traced_calls import CALLS_S, call_often, warm_up
from taemi_runtime.backends import open_engine
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import EngineError
from taemi_runtime.spec import Arrays, GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

_ONNX_RUNTIME = "onnxruntime-"
_OTHER_SCOPE = "traced are the rows of single graphs, with inputs and outputs in host memory"
_OTHER_LIBRARY = "its library's calls are not traced here; on a GPU, Nsight Systems shows them"


def profile_report(
    report: Report,
    bundle: Bundle,
    source: ExportSource | None,
    ceilings: Mapping[str, Ceilings],
    folder: Path | None,
    *,
    tick: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Profile], dict[str, str]]:
    """Trace the rows of a report that can be traced.

    Args:
        report: What was timed.
        bundle: The bundle.
        source: The checkpoint, for PyTorch's rows.
        ceilings: What each device can do, for the operators' floors.
        folder: Where traces are kept; ``None`` keeps none and looks at ONNX Runtime's rows only.
        tick: Called before each row.

    Returns:
        The profiles, and why other rows that ran have none; both by ``profiles.row_key``.
    """
    scopes = {scope.name: scope for scope in report.scopes if scope.kind == "graph"}
    found: dict[str, Profile] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        if source is not None and folder is not None:
            stack.enter_context(fresh_compile_cache())
            stack.enter_context(torch_settings(report.threads))
        for row in report.rows:
            if row.state != "ran":
                continue
            if why := _why_not(row, scopes, folder):
                missing[row_key(row)] = why
                continue
            tick()
            traced = _Traced(row, scopes[row.scope], bundle, source, ceilings.get(row.device), folder)
            try:
                found[row_key(row)] = traced.profile()
            # One row that does not open twice must not take the report with it, whatever its library raises.
            except Exception as error:
                missing[row_key(row)] = describe_failure(error)
    return found, missing


def _why_not(row: RowReport, scopes: Mapping[str, ScopeReport], folder: Path | None) -> str:
    """Return why a row is not traced; empty when it is."""
    if row.scope not in scopes:
        return _OTHER_SCOPE
    if row.backend.startswith(_ONNX_RUNTIME):
        return ""
    if folder is None:
        return "there is no folder for its trace"
    return "" if row.backend in (PYTORCH, OPENVINO) else _OTHER_LIBRARY


@dataclass(frozen=True)
class _Traced:
    """A row that is to be traced, and what is needed to open it again."""

    row: RowReport
    scope: ScopeReport
    bundle: Bundle
    source: ExportSource | None
    ceilings: Ceilings | None
    folder: Path | None

    def profile(self) -> Profile:
        row = self.row
        spec = self.bundle.manifest.graphs[row.scope]
        free = {symbol.name: self.scope.sizes[symbol.name] for symbol in spec.free_symbols}
        inputs = draw_inputs(spec, free, seed=self.scope.seed, ragged=False, poison=False)
        if row.backend.startswith(_ONNX_RUNTIME):
            return self._onnxruntime(spec, inputs)
        if row.backend == PYTORCH:
            return self._pytorch(spec, inputs)
        found = count_openvino(self.bundle.file(row.file), inputs, row.threads)
        return replace(found, scope=row.scope, row=row.name)

    def _onnxruntime(self, spec: GraphSpec, inputs: Arrays) -> Profile:
        row, path = self.row, self.bundle.file(self.row.file)
        with _room(self.folder) as room:
            options = EngineOptions(device=row.device, threads=row.threads, trace=str(room / "trace"))
            engine = open_engine(path, spec, options, backend=row.backend, precision=row.precision)
            with engine:
                fed = {
                    item.name: inputs[item.name].astype(item.dtype, copy=False) for item in engine.spec.inputs
                }

                def call() -> object:
                    return engine.run(fed, check_values=False)

                warm_up(call)
                call_often(call, seconds=CALLS_S if self.folder else 0)
            trace = next(room.glob("trace*.json"), None)
            if trace is None:
                raise EngineError(f"cannot trace {row.name}", "ONNX Runtime wrote no trace")
            return self._keep(read_onnxruntime_trace(trace, self.ceilings), trace)

    def _pytorch(self, spec: GraphSpec, inputs: Arrays) -> Profile:
        row = self.row
        graph, why = graph_source(self.source, row.scope, "there is no checkpoint")
        ways = pytorch_ways(graph, spec, inputs, row.device, row.threads, why)
        way = next(way for way in ways if way.name == row.name)
        with _room(self.folder) as room:
            trace = room / "trace.json"
            return self._keep(trace_pytorch(way, self.ceilings, trace), trace)

    def _keep(self, profile: Profile, trace: Path) -> Profile:
        """Move a finished trace to where it is kept, and say whose it is."""
        row, name = self.row, ""
        if self.folder is not None:
            name = f"{file_stem(row.scope, row.name)}.trace.json"
            trace.replace(self.folder / name)
        return replace(profile, scope=row.scope, row=row.name, trace=name)


@contextmanager
def _room(folder: Path | None) -> Iterator[Path]:
    """Make a temporary folder, within the one where traces are kept so that moving one there is atomic."""
    with tempfile.TemporaryDirectory(prefix=".profile-", dir=folder) as room:
        yield Path(room)
