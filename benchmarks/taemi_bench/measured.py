"""Timing the rows of one scope in one interleaved run, and comparing what they computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from taemi_bench.device_split import summarise_splits
from taemi_bench.gpu_watch import GpuWatch
from taemi_bench.machine import Noise, judge_noise, read_activity
from taemi_bench.nvidia_smi import Gpu
from taemi_bench.parity import RowParity
from taemi_bench.row_report import DeviceSplit, RowReport
from taemi_bench.rows import PYTORCH, Row
from taemi_bench.schedule import Schedule, Stop
from taemi_bench.stats import Latency, ratio_per_round
from taemi_bench.timer import Samples, Timing, describe_failure, interleave
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Arrays

Tick = Callable[[str, int, int], None]
Judge = Callable[[Arrays, str], RowParity]


@dataclass(frozen=True)
class Measured:
    """What was measured of all rows of a scope.

    Args:
        rows: A report each, in the order of the rows.
        rounds: Finished rounds.
        seconds: How long they took.
        stopped: Why timing ended.
        noise: What else the machine did meanwhile.
    """

    rows: tuple[RowReport, ...]
    rounds: int
    seconds: float
    stopped: Stop
    noise: Noise


def measure_rows(
    rows: Sequence[Row],
    schedule: Schedule,
    *,
    judge: Judge | None,
    progress: Callable[[int, float], None] | None = None,
    gpus_before: Sequence[Gpu] = (),
) -> Measured:
    """Time rows against each other, then compare one call of each with the reference; closes the rows.

    Args:
        rows: Rows of one scope.
        schedule: How long they are measured.
        judge: Compares a row's outputs, at its precision, with the reference; ``None`` where there is none.
        progress: Called after each round with the rounds done and the seconds passed.
        gpus_before: What the GPUs did before anything of this run was on them.
    """
    try:
        timing, noise = time_rows(rows, schedule, progress, gpus_before)
        # After the timing: a row's first call ever is its cold one.
        parities = _parities(rows, timing, judge)
    finally:
        for row in rows:
            row.close()
    reports = tuple(
        _report_row(row, samples, parity, _baseline(rows, timing, row))
        for row, samples, parity in zip(rows, timing.rows, parities, strict=True)
    )
    return Measured(reports, timing.rounds, timing.seconds, timing.stopped, noise)


def time_rows(
    rows: Sequence[Row],
    schedule: Schedule,
    progress: Callable[[int, float], None] | None = None,
    gpus_before: Sequence[Gpu] = (),
) -> tuple[Timing, Noise]:
    """Time rows against each other, and watch what else the machine does; arguments as above."""
    on_gpu = [row for row in rows if row.run is not None and row.device != "cpu"]
    index = parse_device(on_gpu[0].device)[1] if on_gpu else None
    before = read_activity()
    with GpuWatch(index, before=next(iter(gpus_before[index or 0 :]), None)) as watch:
        timing = interleave(rows, schedule, progress=progress)
    noise = judge_noise(before, read_activity(), os.cpu_count() or 1)
    gpu = watch.activity()
    if gpu is not None:
        noise = replace(noise, gpu=gpu, note="; ".join(filter(None, (noise.note, gpu.note))))
    return timing, noise


def _parities(rows: Sequence[Row], timing: Timing, judge: Judge | None) -> list[RowParity | None]:
    if judge is None or timing.stopped == "interrupted":
        return [None] * len(rows)
    found: list[RowParity | None] = []
    for row, samples in zip(rows, timing.rows, strict=True):
        if row.run is None or samples.why:
            found.append(None)
            continue
        try:
            found.append(judge(row.to_arrays(row.run()), row.precision))
        except Exception as error:
            found.append(RowParity("", None, None, 0.0, False, describe_failure(error)))
    return found


def _report_row(row: Row, samples: Samples, parity: RowParity | None, baseline: Samples | None) -> RowReport:
    failed = row.failed or (row.run is not None and bool(samples.why))
    report = RowReport(
        scope=row.scope,
        name=row.name,
        backend=row.backend,
        precision=row.precision,
        device=row.device,
        state="failed" if failed else "not run" if row.run is None else "ran",
        why=samples.why,
        file=row.file,
        versions=row.versions,
        threads=row.threads,
        tf32=row.tf32,
        load_ms=row.load_ms,
        cold_ms=samples.cold_ms,
        warmup_calls=samples.warmup_calls,
        calls_per_round=samples.calls_per_round,
        latency_ms=Latency.from_values(samples.values_ms),
        baseline=baseline.name if baseline else "",
        times_faster=(
            ratio_per_round(baseline.round_medians_ms, samples.round_medians_ms) if baseline else None
        ),
        parity_note="" if row.run is None else "no PyTorch reference was compared",
        split=_split(row, samples),
    )
    if parity is None:
        return report
    report = replace(
        report,
        output=parity.output,
        max_abs=parity.max_abs,
        mean_abs=parity.mean_abs,
        cosine=parity.cosine,
        rho=parity.rho,
        parity_note=parity.note,
    )
    return replace(report, state="failed", why=parity.note) if parity.passed is False else report


def _split(row: Row, samples: Samples) -> DeviceSplit | None:
    """Return where the warm calls spent their time, those that let a turn settle included."""
    return summarise_splits(row.splits[1 + samples.warmup_calls :]) if samples.values_ms else None


def _baseline(rows: Sequence[Row], timing: Timing, row: Row) -> Samples | None:
    """Return the samples of the device's first PyTorch row; ``None`` unless it ran, and for itself."""
    for other, samples in zip(rows, timing.rows, strict=True):
        if other.backend == PYTORCH and other.device == row.device:
            return samples if other is not row and samples.values_ms else None
    return None


def meter(name: str, schedule: Schedule, progress: Tick | None) -> Callable[[int, float], None] | None:
    """Return what turns rounds and seconds into rounds done of rounds expected, for ``interleave``."""
    if progress is None:
        return None

    def tick(rounds: int, seconds: float) -> None:
        pace = seconds / rounds
        expected = max(schedule.rounds, round(schedule.seconds / pace) if pace else 0)
        expected = min(expected, schedule.max_rounds, round(schedule.max_seconds / pace) if pace else rounds)
        progress(name, rounds, max(rounds, expected))

    return tick
