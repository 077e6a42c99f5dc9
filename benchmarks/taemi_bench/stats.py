"""Statistics of latencies: nothing clipped, nothing printed that the samples cannot carry.

A percentile needs samples beyond it. With n samples about n (1 - p) of them lie above percentile p;
below five, one busy moment of the machine moves it at will, and ``None`` stands in its place.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PERCENTS = (50, 90, 95, 99)
SAMPLES_BEYOND = 5
CONFIDENCE = 0.95
SPREAD = 90
"""The percentage of rounds within the range that is printed beside a ratio. The interval of the median
shrinks with the square root of the rounds and knows nothing of what stays for a whole run, such as where
memory lies: of 18 ratios, 5 differed by more than it from one run to the next, and none by more than this
range."""


@dataclass(frozen=True)
class Latency:
    """Latencies of one row, all in milliseconds.

    Args:
        count: Number of samples.
        total: Their sum.
        mean: Their arithmetic mean.
        stdev: Their sample standard deviation (n - 1); ``None`` for a single sample.
        min: The fastest.
        max: The slowest.
        p50: The median; ``None`` below 10 samples.
        p90: ``None`` below 50 samples.
        p95: ``None`` below 100 samples.
        p99: ``None`` below 500 samples.
        values: Every sample in the order of measurement.
    """

    count: int
    total: float
    mean: float
    stdev: float | None
    min: float
    max: float
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    values: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The median, or the mean of samples that are too few for one."""
        return self.mean if self.p50 is None else self.p50

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Latency | None:
        """Summarise samples; ``None`` when there are none."""
        if not values:
            return None
        ordered = sorted(values)
        found = {percent: percentile(ordered, percent) for percent in PERCENTS}
        return cls(
            count=len(ordered),
            total=math.fsum(ordered),
            mean=math.fsum(ordered) / len(ordered),
            stdev=statistics.stdev(ordered) if len(ordered) > 1 else None,
            min=ordered[0],
            max=ordered[-1],
            p50=found[50],
            p90=found[90],
            p95=found[95],
            p99=found[99],
            values=tuple(values),
        )


@dataclass(frozen=True)
class Ratio:
    """How many times faster than its baseline a row is, judged round by round.

    Args:
        median: Median over the rounds of baseline latency / row latency; above 1 is faster.
        low: Lower end of the interval of that median.
        high: Its upper end.
        confidence: The interval's exact confidence level, at least 0.95.
        spread_low: Lower end of where nine of ten rounds lie (``SPREAD``).
        spread_high: Its upper end.
        rounds: Rounds in which both rows have a sample.
    """

    median: float
    low: float
    high: float
    confidence: float
    spread_low: float
    spread_high: float
    rounds: int


def samples_needed(percent: int) -> int:
    """Return how many samples a percentile needs: 5 / (1 - p), e.g. 100 for the 95th."""
    return math.ceil(SAMPLES_BEYOND * 100 / (100 - percent))


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return a percentile of sorted samples, ``None`` when they are too few for it.

    Linear interpolation between closest ranks: definition 7 of Hyndman and Fan, "Sample Quantiles in
    Statistical Packages", The American Statistician 50 (1996), which is numpy's default.

    Args:
        ordered: Samples in ascending order.
        percent: From 1 to 99.
    """
    if len(ordered) < samples_needed(percent):
        return None
    return _interpolate(ordered, percent)


def ratio_per_round(baseline_ms: Sequence[float], row_ms: Sequence[float]) -> Ratio | None:
    """Compare a row with its baseline round by round.

    Both samples of a round were taken within moments of each other, so what slows the whole machine
    down (a neighbour, a clock that drops) slows both and cancels. Position k of both sequences is
    round k; the longer one is cut where the other row stopped.

    Args:
        baseline_ms: One latency a round of the baseline.
        row_ms: And of the row.

    Returns:
        The ratio, or ``None`` with fewer rounds than a 95 % interval needs (6).
    """
    ratios = sorted(base / value for base, value in zip(baseline_ms, row_ms, strict=False) if value > 0)
    interval = median_interval(len(ratios))
    if interval is None:
        return None
    below, confidence = interval
    left_out = len(ratios) * (100 - SPREAD) // 200
    return Ratio(
        median=_interpolate(ratios, 50),
        low=ratios[below],
        high=ratios[-1 - below],
        confidence=confidence,
        spread_low=ratios[left_out],
        spread_high=ratios[-1 - left_out],
        rounds=len(ratios),
    )


def median_interval(count: int, confidence: float = CONFIDENCE) -> tuple[int, float] | None:
    """Return which order statistics enclose the median with the wanted confidence.

    Distribution-free: how many of n independent samples lie below the true median is binomial with
    n trials of probability 1/2, so that the (d+1)-th smallest and the (d+1)-th largest sample enclose
    it with probability 1 - 2 P(B <= d). The largest d that keeps the confidence is taken (W. J.
    Conover, Practical Nonparametric Statistics, 3rd edition, 1999, section 3.2; H. A. David and H. N.
    Nagaraja, Order Statistics, 3rd edition, 2003, section 7.1). It assumes independent rounds: a drift
    that outlasts a round and hits the rows unequally makes the true uncertainty larger.

    Args:
        count: Number of samples.
        confidence: The confidence to reach, below 1.

    Returns:
        d, the number of samples left out at either end, and the confidence reached; ``None`` when even
        the smallest and the largest sample do not reach it.
    """
    # log space: 2 ** -count underflows beyond 1,074 samples.
    allowed = (1 - confidence) / 2
    tail = 0.0
    found: tuple[int, float] | None = None
    for below in range((count + 1) // 2):
        log_chance = (
            math.lgamma(count + 1)
            - math.lgamma(below + 1)
            - math.lgamma(count - below + 1)
            - count * math.log(2)
        )
        tail += math.exp(log_chance)
        if tail > allowed:
            break
        found = (below, 1 - 2 * tail)
    return found


def _interpolate(ordered: Sequence[float], percent: int) -> float:
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
