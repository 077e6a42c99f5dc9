"""From scores to correlations: of every case with its interval, along curves, and between models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taemi.evaluate.cases import CONDITIONS, NOTHING, Robustness
from taemi.evaluate.resampling import Interval, Resampled, resample
from taemi.evaluate.results import Curve, Difference, Evaluation, Figures, Point, Sampling
from taemi.metrics import pearson


def figures_of(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    names: Sequence[str],
    sampling: Sampling,
    notes: list[str],
) -> list[Figures]:
    """Correlate the scores of every case with the labels.

    Args:
        scores: [clips, cases, outputs] float32.
        labels: [clips, outputs] float32, NaN where there are none.
        names: What the cases are called.
        sampling: How intervals are made.
        notes: What is doubtful is added here, a sentence each.
    """
    rho = []
    for case in range(scores.shape[1]):
        told: list[str] = []
        rho.append(pearson(scores[:, case], labels, warn=told.append))
        # Where nothing is looked at nothing else is to be expected.
        notes += [f"{names[case]}: {text}" for text in told if names[case] != NOTHING]
    if not np.isfinite(labels).all():
        return [Figures(tuple(found.tolist()), float(found.mean())) for found in rho]
    drawn = resample(scores, labels, resamples=sampling.resamples, seed=sampling.seed)
    drawn = Resampled(np.stack(rho), drawn.draws, drawn.without)
    each, mean = drawn.intervals(sampling.confidence), drawn.mean().intervals(sampling.confidence)
    return [
        Figures(
            tuple(found.tolist()),
            float(found.mean()),
            tuple(Interval(*ends) for ends in each[:, case].T.tolist()),
            Interval(*mean[:, case].tolist()),
        )
        for case, found in enumerate(rho)
    ]


def curves_of(figures: Sequence[Figures], robustness: Robustness) -> tuple[Curve, ...]:
    """Put the figures of curves together; they come after the conditions, in the order of the levels."""
    rest = iter(figures[len(CONDITIONS) :])
    return tuple(
        Curve(kind, (Point(None, figures[0]), *(Point(level, next(rest)) for level in levels)))
        for kind, levels in robustness.curves()
    )


def compare(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Compare models with the first one; all were scored on the same clips by ``evaluate_models``."""
    first = evaluations[0]
    predicted = np.stack([item.predicted for item in evaluations], axis=1)
    gaps = [float(np.abs(item.predicted - first.predicted).max()) for item in evaluations]
    if not np.isfinite(first.labels).all():
        nothing = (float("nan"),) * predicted.shape[2]
        return [Difference(float("nan"), None, nothing, (), gap) for gap in gaps]
    sampling = first.sampling
    found = resample(predicted, first.labels, resamples=sampling.resamples, seed=sampling.seed).minus(0)
    each, mean = found.intervals(sampling.confidence), found.mean().intervals(sampling.confidence)
    return [
        Difference(
            item.mean_rho - first.mean_rho,
            Interval(*mean[:, place].tolist()),
            tuple((np.array(item.whole.rho) - first.whole.rho).tolist()),
            tuple(Interval(*ends) for ends in each[:, place].T.tolist()),
            gaps[place],
        )
        for place, item in enumerate(evaluations)
    ]
