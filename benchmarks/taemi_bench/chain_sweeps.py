"""Sweeps of whole models: what is missing, and how many frames a second are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_bench.chains import Chain
from taemi_bench.feature_scope import NAME as FEATURES
from taemi_bench.feature_scope import draw_clips
from taemi_bench.graph_sweeps import (
    LENGTH_SECONDS,
    OTHER_SECONDS,
    PRESENCE,
    condition_name,
    conditions,
    without,
)
from taemi_bench.measured import Tick
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH, Row
from taemi_bench.scope_report import SweepRow
from taemi_bench.sweep import Pace, PlannedPoint, Sweep, item_summary
from taemi_bench.timer import Samples
from taemi_runtime.spec import GraphSpec
from taemi_runtime.whole_way import WholeModel, Words, share_left

if TYPE_CHECKING:
    from taemi.evaluate.rates import LabelledRates

RATE = "max_fps"
# How many labelled clips the correlation beside a rate rests on, at most.
MOST_CLIPS = 64


@dataclass(frozen=True)
class SpokenClip:
    """A clip with what is said in it.

    Args:
        path: The clip.
        words: What is said.
        scope: What scoring it is called.
    """

    path: Path
    words: Words
    scope: str

    def call(self, chain: Chain, **how: Any) -> Row:
        """Return a row that scores it.

        Args:
            chain: The model.
            how: As for ``WholeModel.score_file``.
        """
        in_turn = chain.row.backend == PYTORCH
        return chain.row_of(
            self.scope, lambda model: model.score_file(self.path, self.words, in_turn=in_turn, **how)
        )


def feature_presence(spec: GraphSpec, chains: Sequence[Chain], chosen: Mapping[str, int]) -> Sweep:
    """Return the sweep over what is missing, from features to scores.

    Args:
        spec: The first graph.
        chains: The models, of which it is open.
        chosen: Lengths of its free symbols, typical ones where unsaid.
    """

    def rows(flags: tuple[bool, ...]) -> list[Row]:
        clips = draw_clips(spec, chosen, 1, flags)

        def call(model: WholeModel) -> object:
            return model.score_features(clips)

        return [chain.row_of(FEATURES, call) for chain in chains]

    points = [_condition(spec, chosen, flags, partial(rows, flags)) for flags in conditions(spec)]
    return Sweep(FEATURES, PRESENCE, points, OTHER_SECONDS)


def file_presence(
    spec: GraphSpec, chains: Sequence[Chain], clip: SpokenClip, measured: Sequence[RowReport]
) -> Sweep:
    """Return the sweep over what is missing of a clip: the encoder of what is missing does not run.

    Args:
        spec: The first graph.
        chains: The models, open as a whole.
        clip: The clip.
        measured: The rows of its scope.
    """
    ran = [row for row in measured if row.scope == clip.scope and row.latency_ms is not None]
    longest = max(ran, key=lambda row: sum(row.stages_ms.values()), default=None)

    def rows(flags: tuple[bool, ...]) -> list[Row]:
        return [clip.call(chain, present=flags) for chain in chains]

    points = [
        PlannedPoint(
            condition_name(spec, flags),
            None,
            {},
            partial(rows, flags),
            work=share_left(longest.stages_ms, flags) if longest is not None else 1.0,
        )
        for flags in conditions(spec)
    ]
    notes = {"missing": "tracks of what is missing are not decoded, and its encoder does not run"}
    pace = Pace(sum(row.latency_ms.mean for row in ran if row.latency_ms is not None) / 1e3)
    return Sweep(clip.scope, PRESENCE, points, LENGTH_SECONDS, pace, notes)


def rate_sweep(
    chains: Sequence[Chain], clip: SpokenClip, rates: Sequence[float], labelled: LabelledRates | None
) -> Sweep:
    """Return the sweep over frames a second, with the correlation where labels are at hand.

    Args:
        chains: The models, open as a whole.
        clip: The clip that is timed.
        rates: Frames a second.
        labelled: What the models score labelled clips at each of ``rates``; ``None`` where there are none.
    """
    paths = {chain.row.name: chain.path for chain in chains}

    def summarise(place: int, row: Row, samples: Samples) -> SweepRow:
        found = item_summary(1)(row, samples)
        path = paths[row.name]
        if labelled is None or path not in labelled.rho:
            return found
        return replace(found, rho=labelled.rho[path][place])

    points = [
        PlannedPoint(
            label=f"{rate:g}",
            value=rate,
            sizes={},
            rows=partial(lambda rate: [clip.call(chain, max_fps=rate) for chain in chains], rate),
            work=rate,
            summarise=partial(summarise, place),
        )
        for place, rate in enumerate(rates)
    ]
    notes = {"timed": clip.path.name}
    notes["rho"] = labelled.note if labelled is not None else "no labels: name labelled clips with --data DIR"
    return Sweep(clip.scope, RATE, points, LENGTH_SECONDS, notes=notes)


def labelled_rates(
    chains: Sequence[Chain], rates: Sequence[float], data: Path, progress: Tick | None
) -> LabelledRates:
    """Return what every model that runs scores labelled clips at each rate.

    Args:
        chains: The models.
        rates: Frames a second.
        data: The clips, with their labels.
        progress: Called with (step, done, total).

    Raises:
        TaemiError: The clips cannot be read, or have no pictures.
    """
    from taemi.evaluate.rates import correlate_rates

    models = {chain.path: chain.row.device for chain in chains if chain.model is not None and chain.path}
    return correlate_rates(models, data, rates, most=MOST_CLIPS, tick=progress)


def _condition(
    spec: GraphSpec,
    chosen: Mapping[str, int],
    flags: tuple[bool, ...],
    rows: Callable[[], list[Row]],
) -> PlannedPoint:
    batch = spec.inputs[0].shape[0]
    lengths = {**chosen, batch: 1} if isinstance(batch, str) else dict(chosen)
    return PlannedPoint(condition_name(spec, flags), None, spec.sizes(without(spec, lengths, flags)), rows)
