"""Measuring a bundle: every engine of every graph, side by side with PyTorch, on the same inputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from taemi_bench.further import Found, Further, FurtherRun, check_further
from taemi_bench.machine import read_machine
from taemi_bench.measured import Judge, Tick, measure_rows, meter
from taemi_bench.parity import measure_parity
from taemi_bench.report import Report
from taemi_bench.row_report import RowReport
from taemi_bench.rows import Row, engine_backends, engine_row, pytorch_row, tensors_to_arrays
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import GRAPH_INCLUDES, ScopeReport
from taemi_bench.selection import choose_devices, choose_graphs, choose_sizes, graph_source
from taemi_bench.setting import SEED, Setting
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.host import usable_cores
from taemi_runtime.spec import Array, Arrays, GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph, ExportSource


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
        further: What else is measured: further scopes, and sweeps; nothing when ``None``.
        progress: Called with (graph, rounds done, rounds expected).

    Returns:
        The report; after Ctrl-C it holds the rounds that were finished.

    Raises:
        UsageError: A graph or an axis does not exist.
        InputError: A length is out of range.
        DeviceError: A CUDA device was asked for by name and cannot be used.
    """
    schedule = schedule or Schedule()
    names = choose_graphs(bundle, graphs)
    chosen = choose_sizes({name: bundle.manifest.graphs[name] for name in names}, sizes or {})
    devices = choose_devices(device)
    threads = threads or usable_cores()
    machine = read_machine()
    if further is not None:
        check_further(further, bundle, names)
    found_scopes: list[ScopeReport] = []
    found_rows: list[RowReport] = []
    more = Found()
    for name in names:
        graph, note = graph_source(source, name, source_note)
        measured = _measure_graph(
            bundle, name, chosen[name], graph, note, schedule, threads, devices, progress
        )
        found_scopes.append(measured[0])
        found_rows += measured[1]
        if measured[0].stopped == "interrupted":
            break
    else:
        if further is not None:
            setting = Setting(bundle, source, source_note, devices, threads)
            more = _measure_further(setting, further, chosen, schedule, found_rows, progress)
            found_scopes += more.scopes
            found_rows += more.rows
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
        scopes=tuple(found_scopes),
        rows=tuple(found_rows),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sweeps=tuple(more.sweeps),
        cut=more.cut,
    )


def _measure_further(
    setting: Setting,
    further: Further,
    chosen: Mapping[str, Mapping[str, int]],
    schedule: Schedule,
    measured: Sequence[RowReport],
    progress: Tick | None,
) -> Found:
    source, threads = setting.source, setting.threads

    def build(name: str, inputs: Arrays, devices: Sequence[str]) -> list[Row]:
        graph, note = graph_source(source, name, setting.note)
        return _build_rows(setting.bundle, name, inputs, graph, note, threads, devices)

    def judge(name: str, inputs: Arrays) -> Judge | None:
        graph, _ = graph_source(source, name, setting.note)
        spec = setting.bundle.manifest.graphs[name]
        return None if graph is None else _judge(spec, chosen[name], inputs, graph)

    graph = source.graphs[0] if source is not None else None
    with _torch_settings(graph, threads):
        return FurtherRun(setting, further, chosen, schedule, build, judge, measured, progress).run()


def _measure_graph(
    bundle: Bundle,
    name: str,
    sizes: Mapping[str, int],
    source: ExportGraph | None,
    source_note: str,
    schedule: Schedule,
    threads: int,
    devices: Sequence[str],
    progress: Tick | None,
) -> tuple[ScopeReport, list[RowReport]]:
    spec = bundle.manifest.graphs[name]
    inputs = draw_inputs(spec, sizes, seed=SEED, ragged=False, poison=False)
    with _torch_settings(source, threads):
        rows = _build_rows(bundle, name, inputs, source, source_note, threads, devices)
        judge = None if source is None else _judge(spec, sizes, inputs, source)
        measured = measure_rows(rows, schedule, judge=judge, progress=meter(name, schedule, progress))
    shared = ScopeReport(
        name=name,
        kind="graph",
        includes=GRAPH_INCLUDES,
        sizes=spec.sizes(sizes),
        seed=SEED,
        inputs_sha256=digest(inputs),
        rounds=measured.rounds,
        seconds=measured.seconds,
        stopped=measured.stopped,
        noise=measured.noise,
    )
    return shared, list(measured.rows)


def _build_rows(
    bundle: Bundle,
    name: str,
    inputs: Arrays,
    source: ExportGraph | None,
    source_note: str,
    threads: int,
    devices: Sequence[str],
) -> list[Row]:
    spec = bundle.manifest.graphs[name]
    rows = []
    for device in devices:
        rows.append(pytorch_row(source, spec, inputs, device, threads, source_note))
        for file, entry in bundle.engine_files(name):
            for backend_name in engine_backends(file, device):
                rows.append(
                    engine_row(
                        lambda file=file: bundle.file(file),  # type: ignore[misc]
                        file,
                        entry.precision or "fp32",
                        spec,
                        inputs,
                        backend_name,
                        device,
                        threads,
                    )
                )
    names = [row.name for row in rows]
    for row in rows:
        if names.count(row.name) > 1:
            row.name = f"{row.name}, {row.file}"
    return rows


def _judge(spec: GraphSpec, sizes: Mapping[str, int], inputs: Arrays, source: ExportGraph) -> Judge:
    """Return what compares a row with PyTorch's reference on the CPU, which is computed when asked."""

    @functools.cache
    def expected() -> dict[str, Array]:
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        return tensors_to_arrays(source.reference(tensors))

    return lambda got, precision: measure_parity(spec, sizes, inputs, got, expected(), precision)


@contextlib.contextmanager
def _torch_settings(source: ExportGraph | None, threads: int) -> Iterator[None]:
    """Give PyTorch the engines' threads, and full float32 on CUDA as the engines have it."""
    if source is None:
        yield
        return
    import torch

    threads_before, tf32_before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.backends.cudnn.allow_tf32 = tf32_before
