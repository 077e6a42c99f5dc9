"""What models score labelled clips at several frame rates: the curve over ``--max-fps``, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taemi.corpus import ClipRow
from taemi.data import read_data
from taemi.evaluate.cases import RATE, Robustness
from taemi.evaluate.results import Evaluation
from taemi.evaluate.run import Asked, Tick, evaluate_models
from taemi_runtime.errors import DataError
from taemi_runtime.transcripts import Transcript

RATES = Robustness().max_fps
"""Frames a second of the curve."""
# Intervals are not looked at here.
_RESAMPLES = 100


@dataclass(frozen=True)
class LabelledRates:
    """Correlations along frame rates.

    Args:
        rho: For each model its mean correlation with the labels (Pearson's, the challenge's) at each rate;
            ``None`` where there is none.
        note: What they rest on.
        clip: One of the clips.
        words: What is said in it.
    """

    rho: dict[Path | None, tuple[float | None, ...]]
    note: str
    clip: Path
    words: Transcript


def correlate_rates(
    models: Mapping[Path, str],
    data: Path,
    rates: Sequence[float],
    *,
    most: int,
    split: str = "valid",
    tick: Tick | None = None,
) -> LabelledRates:
    """Score the first clips of a split at several frame rates.

    Args:
        models: Checkpoints, bundles or engine files, and the device of each.
        data: A corpus, whose clips have pictures.
        rates: Frames a second.
        most: How many clips at most.
        split: The split.
        tick: Called with (step, done, total).

    Raises:
        DataError: The corpus has no such split, or vision in it is no pictures.
        TaemiError: A model cannot be opened; see ``evaluate_models``.
    """
    corpus = read_data(data)
    rows = corpus.split(split)[:most]
    corpus = replace(corpus, splits={**corpus.splits, split: rows})
    remarks: list[str] = []
    rho: dict[Path | None, tuple[float | None, ...]] = {}
    for device in dict.fromkeys(models.values()):
        some = [path for path, place in models.items() if place == device]
        asked = Asked(device=device, robustness=Robustness((), (), (), tuple(rates)), resamples=_RESAMPLES)
        found = evaluate_models(some, corpus, split, asked, tick=tick, warn=remarks.append)
        for path, evaluation in zip(some, found, strict=True):
            rho[path] = _means(evaluation, data, remarks)
    row = _first_clip(rows, data)
    synthetic = ", synthetic" if corpus.synthetic else ""
    return LabelledRates(
        rho,
        f"mean correlation (Pearson's) over {len(rows)} clips of {corpus.name}, {split} split{synthetic}",
        row.media,
        Transcript.given(row.transcript),
    )


def _means(evaluation: Evaluation, data: Path, remarks: Sequence[str]) -> tuple[float | None, ...]:
    curve = next((curve for curve in evaluation.curves if curve.kind == RATE), None)
    if curve is None:
        raise DataError(f"cannot look at {data} at several frame rates", "; ".join(remarks))
    means = [point.figures.mean for point in curve.points if point.level is not None]
    return tuple(None if math.isnan(mean) else mean for mean in means)


def _first_clip(rows: Sequence[ClipRow], data: Path) -> ClipRow:
    for row in rows:
        if row.media.is_file():
            return row
    raise DataError(f"cannot time a clip of {data}", "no clip of it is there")
