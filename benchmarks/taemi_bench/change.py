"""How much a median changed between two runs, with an interval that holds what a machine drifts by itself.

Rounds of one run follow each other within seconds, those of two runs do not: a neighbour, a clock or a page
cache that stays as it is for a whole run sets two runs further apart than the rounds of either. The usual
interval of a median, or a bootstrap over rounds, shrinks with the square root of their number and knows
nothing of that (T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). So nothing
is divided by a square root here. Each run is cut into consecutive segments, as subsampling does (D. Politis,
J. Romano and M. Wolf, Subsampling, 1999, chapter 3), and every segment of one run is compared with every
segment of the other: 95 % of those changes lie in the interval. It says how far two *segments* may lie apart;
two whole runs, each of several segments, lie nearer together unless something changed.

What no segment sees, the interval cannot hold: what differs from process to process and stays for the whole
run, such as where memory lies. The threshold is the margin for that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from taemi_bench.stats import CONFIDENCE

SEGMENTS = 8
# Fewer than so many segments of one sample each say nothing about noise.
FEWEST = 6


@dataclass(frozen=True)
class Change:
    """A ratio of medians, after / before; above 1 is slower.

    Args:
        ratio: The ratio.
        low: Lower end of its interval; ``None`` where a run has too few samples for one.
        high: The upper end.
    """

    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def within_noise(self) -> bool:
        """Whether no change lies in the interval, or there is none to judge by."""
        return self.low is None or self.high is None or self.low <= 1 <= self.high


def compare_medians(
    before: Sequence[float],
    after: Sequence[float],
    before_base: Sequence[float] = (),
    after_base: Sequence[float] = (),
) -> Change:
    """Compare the medians of two runs.

    Args:
        before: A row's samples in the first run, in the order of measurement.
        after: And in the second.
        before_base: Samples of a baseline that was interleaved with the row. Where both runs have one,
            medians are divided by the baseline's of the same segment: that cancels the machine's speed then.
        after_base: And in the second.
    """
    ratio = statistics.median(after) / statistics.median(before)
    if before_base and after_base:
        ratio *= statistics.median(before_base) / statistics.median(after_base)
    old, new = _segments(before, before_base), _segments(after, after_base)
    if min(len(old), len(new)) < FEWEST:
        return Change(ratio)
    ratios = sorted(late / early for late in new for early in old)
    left_out = math.floor(len(ratios) * (1 - CONFIDENCE) / 2)
    # The ratio of the whole runs is no member of the list and must not stand outside of its own interval.
    return Change(ratio, min(ratio, ratios[left_out]), max(ratio, ratios[-1 - left_out]))


def _segments(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the median of each segment, divided by the baseline's of the same time where there is one."""
    count = min(SEGMENTS, len(values), len(base) or len(values))
    medians = [statistics.median(_slice(values, place, count)) for place in range(count)]
    if not base:
        return medians
    return [median / statistics.median(_slice(base, place, count)) for place, median in enumerate(medians)]


def _slice(values: Sequence[float], place: int, count: int) -> Sequence[float]:
    return values[len(values) * place // count : len(values) * (place + 1) // count]
