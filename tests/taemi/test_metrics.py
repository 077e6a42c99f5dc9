"""The challenge's metric against numpy, and where it has no value."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import stats

from taemi.metrics import pearson
from taemi_runtime.emotions import EMOTIONS


def test_pearson_equals_numpy_and_scipy_on_each_column():
    rng = np.random.default_rng(0)
    predicted, labels = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    expected = [np.corrcoef(predicted[:, column], labels[:, column])[0, 1] for column in range(6)]
    np.testing.assert_allclose(pearson(predicted, labels), expected, atol=1e-12)
    theirs = [stats.pearsonr(predicted[:, column], labels[:, column])[0] for column in range(6)]
    assert pearson(predicted, labels).tolist() == theirs


def test_pearson_ignores_scale_and_shift_and_sees_the_sign():
    labels = np.linspace(0, 1, 20)[:, None]
    np.testing.assert_allclose(pearson(labels * 1e-4 + 0.3, labels), [1.0])
    np.testing.assert_allclose(pearson(-labels, labels), [-1.0])


def test_a_constant_column_counts_as_zero_and_is_named():
    labels = np.linspace(0, 1, 7)[:, None].repeat(6, 1).astype(np.float32)
    predicted = labels.copy()
    predicted[:, 1] = 0.1
    predicted[:, 3] = 0.1 + np.arange(7) * 1e-8  # equal but for rounding
    labels[:, 5] = 0.0
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pearson(predicted, labels, warn=told.append)
    np.testing.assert_allclose(found, [1, 0, 1, 0, 1, 0], atol=1e-6)
    named = f"predictions of {EMOTIONS[1]}, predictions of {EMOTIONS[3]}, labels of {EMOTIONS[5]}"
    assert told == [f"{named}: all 7 clips have one value, there is no correlation and it counts as 0"]
    told.clear()
    assert np.isnan(pearson(predicted, np.full_like(labels, np.nan), warn=told.append)).all()
    assert told == []
