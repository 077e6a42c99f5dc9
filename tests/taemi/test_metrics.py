"""The challenge's metric against numpy, and where it has no value."""

from __future__ import annotations

import numpy as np

from taemi.metrics import pearson


def test_pearson_equals_numpy_on_each_column():
    rng = np.random.default_rng(0)
    predicted, labels = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    expected = [np.corrcoef(predicted[:, column], labels[:, column])[0, 1] for column in range(6)]
    np.testing.assert_allclose(pearson(predicted, labels), expected, atol=1e-12)


def test_pearson_ignores_scale_and_shift_and_sees_the_sign():
    labels = np.linspace(0, 1, 20)[:, None]
    np.testing.assert_allclose(pearson(labels * 1e-4 + 0.3, labels), [1.0])
    np.testing.assert_allclose(pearson(-labels, labels), [-1.0])


def test_a_constant_column_counts_as_zero():
    labels = np.linspace(0, 1, 7)[:, None].repeat(2, 1).astype(np.float32)
    predicted = np.stack([np.full(7, 0.1), labels[:, 0]], 1).astype(np.float32)
    np.testing.assert_allclose(pearson(predicted, labels), [0.0, 1.0], atol=1e-6)
