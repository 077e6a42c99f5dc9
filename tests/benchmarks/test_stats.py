from __future__ import annotations

import math

import numpy as np
import pytest

from taemi_bench.stats import Latency, median_interval, percentile, ratio_per_round, samples_needed


def test_a_summary_by_hand():
    found = Latency.from_values([4.0, 1.0, 3.0, 2.0])
    assert (found.count, found.total, found.mean, found.min, found.max) == (4, 10.0, 2.5, 1.0, 4.0)
    assert found.stdev == pytest.approx(math.sqrt(5 / 3))
    assert found.values == (4.0, 1.0, 3.0, 2.0)
    assert found.p50 is None


def test_no_samples_are_no_summary_and_one_has_no_deviation():
    assert Latency.from_values([]) is None
    assert Latency.from_values([2.0]).stdev is None


@pytest.mark.parametrize(("percent", "needed"), [(50, 10), (90, 50), (95, 100), (99, 500)])
def test_a_percentile_needs_five_samples_beyond_it(percent, needed):
    assert samples_needed(percent) == needed
    samples = sorted(np.random.default_rng(percent).gamma(2.0, size=needed))
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent))
    assert percentile(samples[1:], percent) is None


def test_percentiles_agree_with_numpy_and_nothing_is_clipped():
    samples = np.random.default_rng(0).lognormal(size=731)
    samples[5] = 1e6
    found = Latency.from_values(samples.tolist())
    expected = np.percentile(samples, [50, 90, 95, 99])
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(list(expected))
    assert found.mean == pytest.approx(samples.mean())
    assert found.stdev == pytest.approx(samples.std(ddof=1))
    assert found.max == 1e6


@pytest.mark.parametrize(
    # Ranks of published tables of the sign test's interval for the median, counted from 0 here.
    ("count", "below"),
    [(6, 0), (8, 0), (9, 1), (10, 1), (20, 5), (30, 9), (50, 17), (100, 39)],
)
def test_the_interval_of_the_median(count, below):
    found = median_interval(count)
    exact = 1 - 2 * sum(math.comb(count, k) for k in range(below + 1)) / 2**count
    wider = exact - 2 * math.comb(count, below + 1) / 2**count
    assert found == (below, pytest.approx(exact))
    assert exact >= 0.95 > wider


def test_five_rounds_are_too_few_for_an_interval_and_thousands_do_not_underflow():
    assert median_interval(5) is None
    below, confidence = median_interval(5000)
    # Normal approximation: n / 2 - 1.96 sqrt(n) / 2.
    assert below == pytest.approx(2500 - 0.98 * math.sqrt(5000), abs=1.5)
    assert 0.95 <= confidence < 0.952


def test_the_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = np.sort(rng.exponential(size=(4000, 20)), axis=1)
    below, confidence = median_interval(20)
    covered = (draws[:, below] <= math.log(2)) & (math.log(2) <= draws[:, -1 - below])
    assert covered.mean() == pytest.approx(confidence, abs=0.015)


def test_a_ratio_round_by_round_by_hand():
    found = ratio_per_round([2.0, 4.0, 6.0, 8.0, 10.0, 120.0], [1.0, 2.0, 2.0, 4.0, 2.0, 4.0])
    # Ratios 2, 2, 3, 2, 5, 30.
    assert (found.median, found.low, found.high, found.rounds) == (2.5, 2.0, 30.0, 6)
    assert found.confidence == pytest.approx(1 - 2 / 64)
    assert (found.spread_low, found.spread_high) == (2.0, 30.0)


def test_nine_of_ten_rounds_lie_in_the_spread():
    found = ratio_per_round([float(value) for value in range(1, 41)], [1.0] * 40)
    assert (found.spread_low, found.spread_high) == (3.0, 38.0)
    assert (found.spread_low, found.spread_high) != (found.low, found.high)


def test_what_slows_both_rows_of_a_round_cancels():
    rng = np.random.default_rng(2)
    slow = rng.uniform(1.0, 20.0, size=60)
    found = ratio_per_round((slow * 3.0).tolist(), slow.tolist())
    assert (found.low, found.median, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_only_rounds_that_both_rows_finished_count():
    assert ratio_per_round([1.0] * 40, [1.0] * 5) is None
    assert ratio_per_round([1.0] * 40, [1.0] * 7).rounds == 7
