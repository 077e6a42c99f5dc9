"""From a clip's file to scores, with what every stage takes of it."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from taemi_bench.chains import Chain, planned_rows, reference_of, scores_of
from taemi_bench.measured import Judge
from taemi_bench.parity import rank_correlation
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.schedule import Schedule
from taemi_bench.scopes import SCORES, Scope, score_judge
from taemi_bench.setting import Setting
from taemi_runtime.manifest import file_sha256
from taemi_runtime.spec import Array
from taemi_runtime.whole_way import Scored, WholeModel, words_beside

NAME = "file to scores"
INCLUDES = (
    "from a clip's file to named scores: reading and decoding, every encoder, the first graph, the result; "
    "PyTorch does one after the other, as its user would write it, engines what they do in use: stages "
    "run beside one another and may add up to more than the call; words come from a text or subtitle file "
    "beside the clip, nothing listens"
)
SLOW_SECONDS, MAX_SECONDS = 5.0, 60.0
"""A row whose call takes longer than the first is not warmed up; no round begins after the second."""
NO_CLIP = "no --clip was given: name a clip with --clip FILE"


@dataclass
class ClipCalls:
    """Calls on one clip, and what they took by stage.

    Args:
        path: The clip.
        stages: For each row the stages of all its calls in order.
        scores: For each row the scores of its last call, [1, outputs].
        facts: How much of the clip was used.
    """

    path: Path
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    scores: dict[str, Array] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    def score(self, model: WholeModel, name: str, *, in_turn: bool) -> Scored:
        """Make one call and note its stages."""
        found = model.score_file(self.path, words_beside(self.path), in_turn=in_turn)
        self.stages.setdefault(name, []).append(found.stages_ms)
        self.scores[name] = scores_of(found)[SCORES]
        self.facts.update(found.facts)
        return found

    def medians(self, name: str, skip: int) -> dict[str, float]:
        """Return the median of each stage of a row's calls, less the first ones."""
        calls = self.stages.get(name, [])[skip:]
        names = dict.fromkeys(stage for call in calls for stage in call)
        return {stage: statistics.median(call.get(stage, 0.0) for call in calls) for stage in names}


def clip_scope(setting: Setting, chains: Sequence[Chain], calls: ClipCalls) -> Scope:
    """Return the scope of one clip.

    Args:
        setting: What is measured.
        chains: The models, opened whole.
        calls: The clip; notes what calls took.
    """
    name = file_name(calls.path)
    rows = [
        chain.row_of(
            name, functools.partial(calls.score, name=chain.row.name, in_turn=chain.row.backend == PYTORCH)
        )
        for chain in chains
    ]

    def finish(report: RowReport) -> RowReport:
        # Neither the cold call nor the warm-up.
        stages = calls.medians(report.name, 1 + report.warmup_calls)
        return replace(report, stages_ms=stages)

    reference = reference_of(chains)
    judge: Judge | None = None
    if reference is not None:
        eager = reference.row.name
        # Where nothing is said of the whole way, its last graph's gate holds; the correlation that a gate
        # asks for is one over many clips.
        gates = {
            precision: replace(gate, min_rho=None)
            for precision, gate in {**setting.first.gates, **setting.first.chain_gates}.items()
        }
        judge = score_judge(setting.first, gates, lambda: calls.scores[eager])
    return Scope(
        name=name,
        kind="file",
        includes=INCLUDES,
        sizes=calls.facts,
        seed=0,
        inputs_sha256=file_sha256(calls.path),
        rows=rows,
        judge=judge,
        finish=finish,
    )


def file_name(path: Path | None = None) -> str:
    """Return what the scope of a clip is called."""
    return NAME if path is None else f"{NAME}: {path.name}"


def no_clip_scope(setting: Setting) -> Scope:
    """Return the scope where no clip was given: its rows say so."""
    rows = [replace(row, scope=NAME, why=row.why or NO_CLIP) for row, _ in planned_rows(setting)]
    return Scope(NAME, "file", INCLUDES, {}, 0, "", rows)


def clip_schedule(schedule: Schedule) -> Schedule:
    """Return how long a clip is measured: one of which a call takes half a minute is measured a few times."""
    most = max(schedule.seconds, min(schedule.max_seconds, MAX_SECONDS))
    # A call off the clock before each one would double the time of the longest scope; and nobody scores one
    # clip again and again, so that what a call leaves in the caches is no part of the next.
    return replace(schedule, slow_seconds=SLOW_SECONDS, max_seconds=most, settle_call_seconds=0.0)


def with_rho(rows: Sequence[RowReport], clips: Sequence[ClipCalls], reference: str) -> list[RowReport]:
    """Return the rows of all clips with the rank correlation of all clips' scores.

    Args:
        rows: Rows of files' scopes.
        clips: The clips.
        reference: The row that the others are compared with.
    """
    found = []
    for row in rows:
        pairs = [
            (clip.scores[row.name], clip.scores[reference])
            for clip in clips
            if row.name in clip.scores and reference in clip.scores
        ]
        rho = None
        if row.max_abs is not None and pairs:
            got, expected = (np.concatenate(side) for side in zip(*pairs, strict=True))
            rho = rank_correlation(got, expected)
        found.append(replace(row, rho=rho))
    return found
