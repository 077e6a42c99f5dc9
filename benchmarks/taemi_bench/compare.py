"""Two reports side by side: what became slower, less exact or larger beyond noise.

Rows are matched by scope, name, device and sizes; points of sweeps likewise. A row's time is judged by its
ratio to PyTorch eager fp32 of the same scope and moment wherever both reports have that row from the same
PyTorch on as many threads: that cancels a machine that is slower today than it was yesterday, which two runs
on shared hardware nearly always meet. The ratio of milliseconds stands beside it. PyTorch's own row is the
yardstick and is not judged; how far it moved is said. Where there is none, milliseconds are judged, and a
slower machine shows as slower rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from taemi_bench.change import Change, compare_medians
from taemi_bench.machine import Machine
from taemi_bench.matching import Key, Timed, format_sizes, timed_rows
from taemi_bench.report import Report
from taemi_bench.worse import find_worse
from taemi_runtime.errors import UsageError

THRESHOLD = 0.05
Verdict = Literal[
    "slower", "faster", "perhaps slower", "perhaps faster", "within noise", "too few samples", "yardstick"
]


@dataclass(frozen=True)
class RowChange:
    """One row that is in both reports.

    Args:
        scope: Its scope, with the point where it is one of a sweep.
        name: The row.
        device: Where it ran; empty for a point of a sweep whose row stands nowhere else.
        before_ms: Its median in the first report; the mean where the samples are too few for a median.
        after_ms: And in the second.
        milliseconds: How the median changed.
        against_baseline: How its ratio to the baseline's changed; ``None`` without a common yardstick.
        verdict: What the judged one of both says.
        worse: What else became worse: wrong numbers, differences, rank correlation, memory.
    """

    scope: str
    name: str
    device: str
    before_ms: float
    after_ms: float
    milliseconds: Change
    against_baseline: Change | None
    verdict: Verdict
    worse: tuple[str, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether anything about it became worse beyond noise."""
        return self.verdict == "slower" or bool(self.worse)


@dataclass(frozen=True)
class Comparison:
    """What changed from one report to another.

    Args:
        before: What the first report is called.
        after: And the second.
        threshold: Changes up to this share are never flagged.
        rows: Every row in both, then every point of a sweep in both.
        only_before: Rows that ran in the first report alone, and why where the second says so.
        only_after: Rows that ran in the second alone.
        warnings: What makes the two hard to compare.
        kind: Always ``taemi-bench-comparison``.
        schema: The schema version.
    """

    before: str
    after: str
    threshold: float
    rows: tuple[RowChange, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    kind: Literal["taemi-bench-comparison"] = "taemi-bench-comparison"
    schema: int = 1

    @property
    def regressions(self) -> tuple[RowChange, ...]:
        """Rows that became worse beyond noise."""
        return tuple(row for row in self.rows if row.regressed)


@dataclass(frozen=True)
class _Judge:
    threshold: float
    absolute: bool
    warnings: list[str] = field(default_factory=list)


def compare_reports(
    before: Report,
    after: Report,
    *,
    names: tuple[str, str] = ("before", "after"),
    threshold: float = THRESHOLD,
    absolute: bool = False,
) -> Comparison:
    """Compare two reports.

    Args:
        before: The first.
        after: The second.
        names: What the two are called.
        threshold: A row is slower when the whole interval of its change lies above ``1 + threshold``.
        absolute: Judge milliseconds even where both have PyTorch's row.

    Raises:
        UsageError: No row ran in both.
    """
    old, new = dict(timed_rows(before)), dict(timed_rows(after))
    common = [key for key in old if key in new]
    if not common:
        raise UsageError(
            f"cannot compare {names[0]} with {names[1]}",
            "no row ran in both with the same scope, name, device and sizes",
            "Measure the same bundle, with the same --size, in both",
        )
    judge = _Judge(threshold, absolute)
    rows = tuple(_compare(old[key], new[key], judge) for key in common)
    why = {(row.scope, row.name, row.device): row.why for row in after.rows if row.why}
    return Comparison(
        before=names[0],
        after=names[1],
        threshold=threshold,
        rows=rows,
        only_before=tuple(_alone(old, new, why)),
        only_after=tuple(_alone(new, old, {})),
        warnings=(*_differences(before, after), *dict.fromkeys(judge.warnings)),
    )


def _compare(old: Timed, new: Timed, judge: _Judge) -> RowChange:
    milliseconds = compare_medians(old.latency.values, new.latency.values)
    against = None
    if old.base is not None and new.base is not None and old.yardstick == new.yardstick:
        against = compare_medians(old.latency.values, new.latency.values, old.base.values, new.base.values)
    yardstick = old.is_base and new.is_base and not judge.absolute
    judged = milliseconds if against is None or judge.absolute else against
    verdict = "yardstick" if yardstick else _verdict(judged, judge.threshold)
    if yardstick and _verdict(milliseconds, judge.threshold) in ("slower", "faster"):
        judge.warnings.append(
            f"{old.scope}: {old.name} itself took {milliseconds.ratio:.2f} times as long: the machine or "
            "PyTorch changed; rows are judged against it"
        )
    elif against is None and not (yardstick or judge.absolute):
        judge.warnings.append(
            f"{old.scope}: rows without the same PyTorch row in both are judged by milliseconds, in which a "
            "slower machine is a slower row"
        )
    return RowChange(
        scope=old.scope,
        name=old.name,
        device=old.row.device if old.row else "",
        before_ms=old.latency.typical,
        after_ms=new.latency.typical,
        milliseconds=milliseconds,
        against_baseline=against,
        verdict=verdict,
        worse=_worse(old, new, judge.threshold),
    )


def _worse(old: Timed, new: Timed, threshold: float) -> tuple[str, ...]:
    if old.row is None or new.row is None:
        return ()
    return tuple(find_worse(old.row, new.row, same_inputs=old.inputs == new.inputs, threshold=threshold))


def _verdict(change: Change, threshold: float) -> Verdict:
    if change.low is None or change.high is None:
        return "too few samples"
    if change.low > 1 + threshold:
        return "slower"
    if change.high < 1 / (1 + threshold):
        return "faster"
    if change.within_noise:
        return "within noise"
    return "perhaps slower" if change.ratio > 1 else "perhaps faster"


def _alone(
    one: dict[Key, Timed], other: dict[Key, Timed], why: dict[tuple[str, str, str], str]
) -> Iterator[str]:
    for key, timed in one.items():
        if key not in other:
            said = why.get((timed.scope, timed.name, timed.row.device), "") if timed.row else ""
            yield f"{timed.scope}, {timed.name} ({key[-1] or 'no sizes'}){f': {said}' if said else ''}"


def _differences(before: Report, after: Report) -> Iterator[str]:
    """Yield what differs between two runs besides the rows."""
    yield from _unlike(_facts(before), _facts(after))
    old = {scope.name: scope for scope in before.scopes}
    for scope in after.scopes:
        earlier = old.get(scope.name)
        if earlier is None:
            continue
        if earlier.sizes != scope.sizes:
            sizes = f"{format_sizes(earlier.sizes)}, now {format_sizes(scope.sizes)}"
            yield f"{scope.name}: sizes differ: {sizes}"
        elif earlier.inputs_sha256 != scope.inputs_sha256:
            yield f"{scope.name}: inputs differ; differences between outputs are not compared"
    for name, report in (("before", before), ("after", after)):
        restless = [scope.name for scope in report.scopes if scope.noise.note]
        if restless:
            yield f"{name}: the machine was not quiet while it measured {', '.join(restless)}"
        if report.interrupted:
            yield f"{name}: interrupted"


def _facts(report: Report) -> dict[str, str]:
    machine: Machine = report.machine
    return {
        "bundle": report.bundle,
        "weights": "trained" if report.trained else "random",
        "threads": str(report.threads),
        "TF32": "on" if report.tf32 else "off",
        "processor": machine.cpu,
        "usable cores": str(machine.cores_usable),
        "system": machine.system,
        "Python": machine.python,
        **{f"environment {name}": value for name, value in machine.thread_variables.items()},
        **machine.packages,
        "GPUs": ", ".join(gpu.name for gpu in machine.gpus) or "none",
        "GPU driver": ", ".join(dict.fromkeys(gpu.driver for gpu in machine.gpus)) or "none",
    }


def _unlike(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, "none"), after.get(name, "none")
        if old != new:
            yield f"{name} differs: {old}, now {new}"


def parse_threshold(text: str) -> float:
    """Read a percentage.

    Raises:
        UsageError: It is none.
    """
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 <= share < 1000:
        raise UsageError(
            f"cannot read --threshold {text}", "expected a percentage from 0% up", "E.g. --threshold 5%"
        )
    return share
