"""What robustness curves do to clips: as much of it as they say, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from taemi.evaluate.disturbances import add_noise, count_of, cover_frames, drop_words, generator


def rng(name="00001", purpose="noise", seed=1):
    return generator(seed, name, purpose)


@pytest.mark.parametrize("snr_db", [20.0, 5.0, 0.0, -5.0])
def test_noise_has_the_ratio_that_was_asked_for(snr_db):
    waveform = (0.1 + 0.3 * np.sin(np.arange(16_000) / 7)).astype(np.float32)
    noisy = add_noise(waveform, snr_db, rng())
    noise = noisy.astype(np.float64) - waveform
    assert noisy.dtype == np.float32
    ratio = 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(snr_db, abs=1e-3)
    # White: neighbouring samples have nothing in common.
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03


def test_noise_is_one_draw_a_clip_at_every_level():
    waveform = np.sin(np.arange(4000) / 5).astype(np.float32)
    loud, soft = (add_noise(waveform, level, rng()) - waveform for level in (0.0, 20.0))
    np.testing.assert_allclose(loud, 10 * soft, atol=1e-5)
    other = add_noise(waveform, 0.0, rng("00002")) - waveform
    assert abs(np.corrcoef(loud, other)[0, 1]) < 0.1
    silent = np.zeros(100, np.float32)
    assert add_noise(silent, 0.0, rng()) is silent


def test_a_block_covers_half_of_a_frame_and_shares_are_nested():
    frames = np.random.default_rng(0).integers(0, 120, (10, 3, 100, 80)).astype(np.uint8)
    covered, order = cover_frames(frames, rng(purpose="occlusion"))
    again, same = cover_frames(frames, rng(purpose="occlusion"))
    np.testing.assert_array_equal(covered, again)
    np.testing.assert_array_equal(order, same)
    assert sorted(order) == list(range(10))
    corners = set()
    for before, after in zip(frames, covered, strict=True):
        changed = (before != after).all(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (len(rows), len(columns)) == (70, 56)
        assert changed.sum() == 70 * 56
        assert (after[:, changed] == 128).all()
        corners.add((rows[0], columns[0]))
    assert len(corners) > 3
    assert [count_of(share, 10) for share in (0.25, 0.5, 1.0)] == [3, 5, 10]


def test_words_that_are_left_out_are_as_many_as_asked_and_the_rest_keeps_its_order():
    words = [f"w{number}" for number in range(9)]
    left = {}
    for share in (0.2, 0.4, 0.6, 1.0):
        rest = drop_words("  ".join(words), share, rng(purpose="words")).split()
        assert len(rest) == 9 - count_of(share, 9)
        assert rest == [word for word in words if word in rest]
        left[share] = set(rest)
    assert left[0.6] < left[0.4] < left[0.2]
    assert left[1.0] == set()
    assert drop_words("", 0.5, rng()) == ""
    assert drop_words("one", 0.4, rng()) == "one"
