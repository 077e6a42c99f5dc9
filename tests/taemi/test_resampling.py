"""Bootstrap intervals against scipy, against what is known of simulated samples, and where nothing varies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from taemi.evaluate.resampling import resample


def sample(clips, rho, seed, outputs=1):
    """Draw predictions and labels that correlate with rho in the population."""
    rng = np.random.default_rng(seed)
    labels = rng.standard_normal((clips, outputs))
    predicted = rho * labels + np.sqrt(1 - rho**2) * rng.standard_normal((clips, outputs))
    return predicted[:, None], labels


def test_correlations_of_all_clips_of_a_resample_and_without_a_clip_are_scipys():
    predicted, labels = sample(40, 0.5, 1, outputs=6)
    predicted = np.concatenate([predicted, -(predicted**3)], axis=1)
    found = resample(predicted, labels, resamples=50, seed=7)
    drawn = np.random.default_rng(7).integers(40, size=(50, 40))

    def scipys(places):
        return [
            [
                stats.pearsonr(predicted[places, case, output], labels[places, output])[0]
                for output in range(6)
            ]
            for case in range(2)
        ]

    np.testing.assert_allclose(found.found, scipys(np.arange(40)), atol=1e-12)
    for number in (0, 17, 49):
        np.testing.assert_allclose(found.draws[number], scipys(drawn[number]), atol=1e-12)
    np.testing.assert_allclose(found.without[3], scipys(np.delete(np.arange(40), 3)), atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_intervals_are_those_of_scipys_bootstrap(rho):
    predicted, labels = sample(60, rho, 3)
    low, high = resample(predicted, labels, resamples=10_000, seed=0).intervals()[:, 0, 0]
    theirs = stats.bootstrap(
        (predicted[:, 0, 0], labels[:, 0]),
        lambda one, other, axis: stats.pearsonr(one, other, axis=axis).statistic,
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        batch=1000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    # What is left is the draw: the ends of 10,000 resamples scatter by about a fiftieth of the width.
    width = theirs.high - theirs.low
    np.testing.assert_allclose([low, high], [theirs.low, theirs.high], atol=0.04 * width)


def test_intervals_hold_the_true_correlation_as_often_as_they_say_and_shrink_with_clips():
    held = 0
    for seed in range(200):
        predicted, labels = sample(80, 0.6, seed)
        low, high = resample(predicted, labels, resamples=1000, seed=seed).intervals()[:, 0, 0]
        held += low <= 0.6 <= high
    # 95 % of 200 is 190, with a standard deviation of 3; BCa falls a little short at 80 clips.
    assert 180 <= held <= 198
    widths = []
    for clips in (100, 400, 1600):
        ends = resample(*sample(clips, 0.6, 5), resamples=2000, seed=1).intervals()[:, 0, 0]
        widths.append(ends[1] - ends[0])
    np.testing.assert_allclose([widths[0] / widths[1], widths[1] / widths[2]], 2.0, atol=0.5)


def test_nothing_that_is_constant_gives_a_number_that_is_none():
    labels = np.zeros((12, 2))
    labels[0, 0] = 0.5  # a third of the resamples lack that clip
    labels[:, 1] = np.linspace(0, 1, 12)
    predicted = np.random.default_rng(0).uniform(size=(12, 1, 2))
    predicted[:, 0, 1] = 0.3 + 1e-8 * np.arange(12)  # equal but for rounding
    found = resample(predicted, labels, resamples=500, seed=2)
    ends = found.intervals()
    assert np.isfinite(ends).all()
    assert (found.draws[:, 0, 0] == 0).mean() > 0.2
    assert (found.found[0, 1], *ends[:, 0, 1]) == (0.0, 0.0, 0.0)
    one = resample(predicted[:1], labels[:1], resamples=100, seed=2)
    assert not one.intervals().any()
    perfect = resample(labels[:, None, 1:], labels[:, 1:], resamples=200, seed=2)
    np.testing.assert_allclose(perfect.intervals(), 1.0)


def test_differences_rest_on_the_same_clips():
    predicted, labels = sample(200, 0.5, 9, outputs=6)
    nearly = predicted + 0.05 * np.random.default_rng(1).standard_normal(predicted.shape)
    found = resample(np.concatenate([predicted, nearly, predicted], axis=1), labels, seed=4, resamples=2000)
    gap = found.minus(0)
    own = found.mean().intervals()
    between = gap.mean().intervals()
    assert not between[:, 0].any()
    assert not between[:, 2].any()
    # The two vary together: their difference is far surer than either.
    assert between[1, 1] - between[0, 1] < 0.2 * (own[1, 0] - own[0, 0])
    assert between[0, 1] < gap.mean().found[1] < between[1, 1]
    again = resample(np.concatenate([predicted, nearly, predicted], axis=1), labels, seed=4, resamples=2000)
    np.testing.assert_array_equal(found.draws, again.draws)
