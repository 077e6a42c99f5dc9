"""A scope: rows that compute the same thing, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from taemi_bench.measured import Judge, Tick, measure_rows, meter
from taemi_bench.nvidia_smi import Gpu
from taemi_bench.parity import RowParity, measure_parity
from taemi_bench.row_report import RowReport
from taemi_bench.rows import Row
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import ScopeKind, ScopeReport
from taemi_runtime.spec import Array, Arrays, Gate, GraphSpec

SCORES = "scores"


@dataclass(frozen=True)
class Scope:
    """What is measured in one interleaved run.

    Args:
        name: As in ``ScopeReport``, like the next five.
        kind: What one call computes.
        includes: The same in a sentence.
        sizes: Lengths or facts.
        seed: Seed of the inputs.
        inputs_sha256: Their digest.
        rows: The rows, opened; measuring closes them.
        judge: Compares a row with the reference; ``None`` where there is none.
        finish: Adds to a row's report what only the scope knows.
    """

    name: str
    kind: ScopeKind
    includes: str
    sizes: dict[str, int]
    seed: int
    inputs_sha256: str
    rows: Sequence[Row]
    judge: Judge | None = None
    finish: Callable[[RowReport], RowReport] = lambda report: report


def measure_scope(
    scope: Scope, schedule: Schedule, progress: Tick | None = None, *, gpus_before: Sequence[Gpu] = ()
) -> tuple[ScopeReport, list[RowReport]]:
    """Time the rows of a scope against each other, and compare what they compute.

    Args:
        scope: The scope.
        schedule: How long it is measured.
        progress: Called with (scope, rounds done, rounds expected).
        gpus_before: What the GPUs did before anything of this run was on them.
    """
    measured = measure_rows(
        scope.rows,
        schedule,
        judge=scope.judge,
        progress=meter(scope.name, schedule, progress),
        gpus_before=gpus_before,
    )
    report = ScopeReport(
        name=scope.name,
        kind=scope.kind,
        includes=scope.includes,
        sizes=scope.sizes,
        seed=scope.seed,
        inputs_sha256=scope.inputs_sha256,
        rounds=measured.rounds,
        seconds=measured.seconds,
        stopped=measured.stopped,
        noise=measured.noise,
    )
    return report, [scope.finish(row) for row in measured.rows]


def score_judge(first: GraphSpec, gates: Mapping[str, Gate], expected: Callable[[], Array]) -> Judge:
    """Return what compares scores with PyTorch's.

    Args:
        first: The graph that gives the scores.
        gates: How far they may be apart, by precision.
        expected: Returns PyTorch's scores, [clips, outputs]; called when a row is judged.
    """
    scores = next(item for item in first.outputs if item.labels)

    def judge(got: Arrays, precision: str) -> RowParity:
        wanted = expected()
        item = replace(scores, name=SCORES, shape=wanted.shape)
        spec = replace(first, outputs=(item,), gates=dict(gates))
        return measure_parity(spec, {}, {}, got, {SCORES: wanted}, precision)

    return judge
