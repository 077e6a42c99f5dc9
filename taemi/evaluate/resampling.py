"""How sure a correlation is: bias-corrected and accelerated bootstrap intervals over clips.

A resample draws as many clips as there are, with replacement. Whatever is compared is computed on the same
resamples, so that the interval of a difference is that of the pairs. Correlations are skewed, the more the
stronger they are, and BCa intervals follow that to second order where percentiles do not (Efron 1987, Better
Bootstrap Confidence Intervals; Efron and Tibshirani 1993, section 14.3).

Resamples are counts of clips: all correlations of all resamples come out of one product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi.metrics import CONSTANT_SPREAD, import_scipy

Values = npt.NDArray[np.float64]

METHOD = "BCa bootstrap over clips"
CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 3407
# Bytes of the counts that are held at a time.
_COUNT_BYTES = 2**25
# The largest variance of values that are within CONSTANT_SPREAD of one another.
_FLAT = CONSTANT_SPREAD**2 / 4


@dataclass(frozen=True)
class Interval:
    """Where a figure may lie, with the confidence of ``CONFIDENCE``.

    Args:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """Correlations as they might have come out. Sums and differences of them are taken along the first axes.

    Args:
        found: [...] of the clips as they are.
        draws: [resamples, ...] of each resample.
        without: [clips, ...] with each clip left out.
    """

    found: Values
    draws: Values
    without: Values

    def mean(self) -> Resampled:
        """Return the mean over the last axis, the outputs."""
        return Resampled(self.found.mean(-1), self.draws.mean(-1), self.without.mean(-1))

    def minus(self, index: int) -> Resampled:
        """Return the difference to one place of the first axis."""
        return Resampled(
            self.found - self.found[index],
            self.draws - self.draws[:, index : index + 1],
            self.without - self.without[:, index : index + 1],
        )

    def intervals(self, confidence: float = CONFIDENCE) -> Values:
        """Return the BCa interval of each figure, [2, ...]: lower and upper ends.

        With z0 the normal quantile of the share of resamples below the figure and a the acceleration from
        leaving clips out, the ends are the resamples' quantiles at
        Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z the normal quantiles of (1 -+ confidence) / 2 (Efron and
        Tibshirani 1993, equations 14.10, 14.14 and 14.15). Where every resample gives one value, both ends
        are that value.
        """
        special = import_scipy("special")
        count = len(self.draws)
        below = ((self.draws < self.found).sum(0) + (self.draws == self.found).sum(0) / 2) / count
        # All below or all above would be infinitely biased.
        z0 = special.ndtri(np.clip(below, 0.5 / count, 1 - 0.5 / count))
        gaps = self.without.mean(0) - self.without
        scale = 6 * (gaps**2).sum(0) ** 1.5
        acceleration = np.divide((gaps**3).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)
        ends = np.zeros((2, *self.found.shape))
        for end, tail in enumerate(((1 - confidence) / 2, (1 + confidence) / 2)):
            moved = z0 + special.ndtri(tail)
            share = special.ndtr(z0 + moved / (1 - acceleration * moved))
            for place in np.ndindex(self.found.shape):
                ends[(end, *place)] = np.quantile(self.draws[(slice(None), *place)], share[place])
        return ends


def resample(
    predicted: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Resampled:
    """Compute correlations on resamples of the clips.

    Args:
        predicted: [clips, cases, outputs], scores of the same clips in several cases.
        labels: [clips, outputs].
        resamples: How many resamples are drawn.
        seed: What they depend on; the same for the same number of clips.

    Returns:
        Pearson's correlation, [cases, outputs] each; 0 where a column is constant.
    """
    clips, cases, outputs = predicted.shape
    # Centred, so that differences of large sums lose nothing.
    p = predicted.astype(np.float64) - predicted.mean(0, dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(0, dtype=np.float64)
    products = [part.reshape(clips, -1) for part in (p, p**2, p * y[:, None])]
    table = np.concatenate([*products, y, y**2], axis=1)
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, cases, outputs))
    step = max(1, _COUNT_BYTES // (8 * clips))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(clips, size=(rows, clips)) + np.arange(rows)[:, None] * clips
        counts = np.bincount(drawn.ravel(), minlength=rows * clips).reshape(rows, clips)
        means = counts.astype(np.float64) @ table / clips
        draws[start : start + rows] = _correlate(means, cases, outputs)
    total = table.sum(0)
    without = _correlate((total - table) / max(1, clips - 1), cases, outputs)
    return Resampled(_correlate(total[None] / clips, cases, outputs)[0], draws, without)


def _correlate(means: Values, cases: int, outputs: int) -> Values:
    """Turn means of p, p^2, p y, y and y^2 into correlations, [..., cases, outputs]."""
    size = cases * outputs
    p, pp, py = (means[:, start : start + size].reshape(-1, cases, outputs) for start in (0, size, 2 * size))
    y, yy = (means[:, None, 3 * size + start : 3 * size + start + outputs] for start in (0, outputs))
    p_variance, y_variance = pp - p**2, yy - y**2
    flat = (p_variance <= _FLAT) | (y_variance <= _FLAT)
    spread = np.sqrt(np.where(flat, 1.0, p_variance * y_variance))
    return np.clip(np.where(flat, 0.0, (py - p * y) / spread), -1.0, 1.0)
