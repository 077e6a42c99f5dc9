"""Measuring a bundle: every engine of every graph, side by side with PyTorch, on the same inputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from taemi_bench.further import Found, Further, FurtherRun, check_further
from taemi_bench.graph_rows import graph_ways
from taemi_bench.machine import Machine, read_machine
from taemi_bench.measured import Judge, Tick
from taemi_bench.memory import MemoryMeter, engine_bytes, job_for
from taemi_bench.openvino_row import OPENVINO
from taemi_bench.parity import measure_parity
from taemi_bench.pytorch_rows import EAGER, fresh_compile_cache, tensors_to_arrays, torch_settings
from taemi_bench.report import Report
from taemi_bench.row_report import Memory, RowReport
from taemi_bench.rows import PYTORCH, Row, RowChoice, Way, open_rows
from taemi_bench.schedule import Schedule, Stop
from taemi_bench.scope_report import GRAPH_INCLUDES, ScopeReport
from taemi_bench.scopes import Scope, measure_scope
from taemi_bench.selection import choose_devices, choose_graphs, choose_sizes, graph_source
from taemi_bench.setting import SEED, Setting
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.host import usable_cores
from taemi_runtime.spec import Array, Arrays, GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph, ExportSource

INTERRUPTED: Stop = "interrupted"


def run_bundle(
    bundle: Bundle,
    source: ExportSource | None,
    *,
    source_note: str = "no checkpoint was given",
    graphs: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    schedule: Schedule | None = None,
    threads: int = 0,
    device: str = "auto",
    choice: RowChoice | None = None,
    memory_seconds: float = 0.0,
    further: Further | None = None,
    progress: Tick | None = None,
) -> Report:
    """Time every engine of a bundle against PyTorch, and measure how far apart their outputs are.

    All rows of a graph get the same drawn inputs, never zeros: arithmetic on zeros can be faster.

    Args:
        bundle: The bundle.
        source: The checkpoint that it was made from, opened; PyTorch's rows come from it.
        source_note: Why there is no ``source``.
        graphs: Names of the graphs to measure; all when empty.
        sizes: Lengths by ``SYMBOL`` or ``GRAPH.SYMBOL``; typical ones where unsaid.
        schedule: How long each graph is measured.
        threads: Threads of every row on the CPU; 0 is every physical core that may be used.
        device: ``auto`` (the CPU, and CUDA where usable), ``cpu``, ``cuda`` or ``cuda:N``.
        choice: Which rows; all but slow ones when ``None``.
        memory_seconds: How long measuring memory may take, in processes of its own; 0 leaves it out.
        further: What else is measured: further scopes, and sweeps; nothing when ``None``.
        progress: Called with (graph, rounds done, rounds expected).

    Returns:
        The report; after Ctrl-C it holds the rounds that were finished.

    Raises:
        UsageError: A graph or an axis does not exist, or no row has a word of ``choice`` in its name.
        InputError: A length is out of range.
        DeviceError: A CUDA device was asked for by name and cannot be used.
    """
    schedule = schedule or Schedule()
    names = choose_graphs(bundle, graphs)
    chosen = choose_sizes({name: bundle.manifest.graphs[name] for name in names}, sizes or {})
    devices = choose_devices(device)
    threads = threads or usable_cores()
    machine = read_machine()
    choice = choice or RowChoice()
    check_choice(bundle, names, devices, choice)
    if further is not None:
        check_further(further, bundle, names)
    found_scopes: list[ScopeReport] = []
    found_rows: list[RowReport] = []
    more = Found()
    with contextlib.ExitStack() as stack:
        stack.enter_context(fresh_compile_cache())
        meter_of = None
        if memory_seconds:
            path = source.checkpoint if source is not None else None
            job = job_for(bundle.folder, bundle.manifest.graphs, path, chosen, threads, devices)
            meter_of = stack.enter_context(MemoryMeter(job, memory_seconds))
        given = _Given(bundle, schedule, threads, devices, choice, machine, meter_of, progress)
        for name in names:
            scope, rows = _measure_graph(given, name, chosen[name], *graph_source(source, name, source_note))
            found_scopes.append(scope)
            found_rows += rows
            if scope.stopped == INTERRUPTED:
                break
        else:
            if further is not None:
                more = _measure_further(given, source, source_note, chosen, found_rows, further)
    manifest = bundle.manifest
    return Report(
        bundle=bundle.folder.resolve().name,
        family=manifest.family,
        trained=manifest.trained,
        source=manifest.source.name if manifest.source else "",
        device=device,
        threads=threads,
        machine=machine,
        schedule=schedule,
        scopes=(*found_scopes, *more.scopes),
        rows=(*found_rows, *more.rows),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sweeps=tuple(more.sweeps),
        cut=more.cut,
    )


def check_choice(bundle: Bundle, names: Sequence[str], devices: Sequence[str], choice: RowChoice) -> None:
    """Refuse words that stand in no row's name, before anything is opened.

    Args:
        bundle: The bundle.
        names: The graphs that are measured.
        devices: The devices that get rows.
        choice: The words.

    Raises:
        UsageError: Names the word and the rows.
    """
    found = []
    for name in names:
        # Names depend on neither inputs nor checkpoint.
        found += [way.name for way in graph_ways(bundle, name, {}, None, "", threads=1, devices=devices)]
    choice.check(found)


@dataclass(frozen=True)
class _Given:
    """What every graph of a run is measured with."""

    bundle: Bundle
    schedule: Schedule
    threads: int
    devices: Sequence[str]
    choice: RowChoice
    machine: Machine
    memory: MemoryMeter | None
    progress: Tick | None


def _measure_graph(
    given: _Given, name: str, sizes: Mapping[str, int], source: ExportGraph | None, source_note: str
) -> tuple[ScopeReport, list[RowReport]]:
    bundle, schedule = given.bundle, given.schedule
    spec = bundle.manifest.graphs[name]
    inputs = draw_inputs(spec, sizes, seed=SEED, ragged=False, poison=False)
    ways = graph_ways(bundle, name, inputs, source, source_note, threads=given.threads, devices=given.devices)
    with contextlib.nullcontext() if source is None else torch_settings(given.threads):
        interrupted = False
        try:
            rows = open_rows(ways, given.choice, _labelled(given, f"{name}: opening"))
        except KeyboardInterrupt:
            interrupted = True
            rows = [replace(way.row, why=way.row.why or "interrupted before it was measured") for way in ways]
        judge = None if source is None else _judge(spec, sizes, inputs, source)
        scope = Scope(name, "graph", GRAPH_INCLUDES, spec.sizes(sizes), SEED, digest(inputs), rows, judge)
        report, found = measure_scope(scope, schedule, given.progress, gpus_before=given.machine.gpus)
    if not (interrupted or report.stopped == INTERRUPTED):
        tick = _labelled(given, f"{name}: memory of")
        try:
            for place, row in enumerate(found):
                if tick is not None and given.memory is not None and row.latency_ms is not None:
                    tick(row.name, place, len(found))
                found[place] = replace(row, memory=_memory(given, row))
        except KeyboardInterrupt:
            interrupted = True
    return replace(report, stopped=INTERRUPTED) if interrupted else report, found


def _measure_further(
    given: _Given,
    source: ExportSource | None,
    source_note: str,
    chosen: Mapping[str, Mapping[str, int]],
    measured: Sequence[RowReport],
    further: Further,
) -> Found:
    bundle, threads = given.bundle, given.threads

    def build(name: str, inputs: Arrays, devices: Sequence[str]) -> list[Row]:
        graph, note = graph_source(source, name, source_note)
        ways = graph_ways(bundle, name, inputs, graph, note, threads=threads, devices=devices)
        some = [way for way in ways if _is_plain(way) and not given.choice.why_not(way)]
        return open_rows(some, given.choice)

    def judge(name: str, inputs: Arrays) -> Judge | None:
        graph, _ = graph_source(source, name, source_note)
        spec = bundle.manifest.graphs[name]
        return None if graph is None else _judge(spec, chosen[name], inputs, graph)

    setting = Setting(bundle, source, source_note, given.devices, threads, given.choice)
    with contextlib.nullcontext() if source is None else torch_settings(threads):
        return FurtherRun(
            setting, further, chosen, given.schedule, build, judge, measured, given.progress
        ).run()


def _is_plain(way: Way) -> bool:
    """Whether a row is PyTorch as most run it, or one of the bundle's engines: sweeps have those."""
    return way.name.startswith(EAGER) if way.row.backend == PYTORCH else way.row.backend != OPENVINO


def _labelled(given: _Given, what: str) -> Tick | None:
    """Return what reports progress of something that is done row by row."""
    progress = given.progress
    if progress is None:
        return None
    return lambda row, done, total: progress(f"{what} {row}", done, total)


def _memory(given: _Given, row: RowReport) -> Memory | None:
    """Return what a row that ran costs in memory; the engine's size is known of every one that has a file."""
    size = engine_bytes(given.bundle.folder, row.file)
    if row.latency_ms is None or given.memory is None:
        return None if size is None else Memory(engine_bytes=size)
    return replace(given.memory.measure(row.scope, row.name), engine_bytes=size)


def _judge(spec: GraphSpec, sizes: Mapping[str, int], inputs: Arrays, source: ExportGraph) -> Judge:
    """Return what compares a row with PyTorch's reference on the CPU, which is computed when asked."""

    @functools.cache
    def expected() -> dict[str, Array]:
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        return tensors_to_arrays(source.reference(tensors))

    return lambda got, precision: measure_parity(spec, sizes, inputs, got, expected(), precision)
