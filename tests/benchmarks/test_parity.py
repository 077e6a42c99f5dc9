from __future__ import annotations

import numpy as np
import pytest

from taemi_bench.parity import measure_parity, rank_correlation
from taemi_runtime.draw import draw_inputs
from tests.benchmarks.toys import FRAMES

LADDER = np.arange(12, dtype=np.float32)


def test_rank_correlation_by_hand():
    assert rank_correlation(LADDER**3, LADDER) == pytest.approx(1)
    assert rank_correlation(-LADDER, LADDER) == pytest.approx(-1)
    # Two neighbours of five change places: 1 - 6 * 2 / (5 * 24).
    assert rank_correlation(np.array([1, 2, 3, 5, 4]), np.arange(5)) == pytest.approx(0.9)


@pytest.mark.parametrize(
    "got", [np.zeros(12), np.where(LADDER == 3, np.nan, LADDER), np.where(LADDER == 3, np.inf, LADDER)]
)
def test_there_is_none_where_it_has_no_meaning(got):
    assert rank_correlation(got, LADDER) is None
    assert rank_correlation(LADDER, np.zeros(12)) is None
    assert rank_correlation(LADDER[:1], LADDER[:1]) is None


def test_what_is_masked_does_not_count():
    inputs = draw_inputs(FRAMES, {"batch": 1}, ragged=False, poison=False)
    inputs["x_mask"][:, 6:] = False
    expected = {"y": np.random.default_rng(0).standard_normal((1, 12, 3)).astype(np.float32)}
    got = {"y": expected["y"].copy()}
    got["y"][:, 6:] = 1e6
    found = measure_parity(FRAMES, {}, inputs, got, expected, "fp32")
    assert (found.rho, found.max_abs, found.passed) == (pytest.approx(1), 0.0, True)
    got["y"][:, :6] *= -1
    assert measure_parity(FRAMES, {}, inputs, got, expected, "fp32").rho == pytest.approx(-1)
