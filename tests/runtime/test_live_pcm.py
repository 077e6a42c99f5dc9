"""Raw PCM as a live source."""

from __future__ import annotations

import numpy as np
import pytest

import taemi_runtime
from taemi_runtime.errors import UsageError
from taemi_runtime.over_time.pcm import PcmFormat, PcmSource
from tests.runtime import lossless
from tests.runtime.lossless import RATE_HZ
from tests.runtime.stepped import FakeClock, live

SAME = 2e-6


@pytest.fixture(scope="module")
def scorer(bundle):
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", clip_scores=False) as opened:
        opened.prepare()
        yield opened


def scores(result):
    return np.array(list(result.intensities.values()))


class Pipe:
    """What a recorder writes, with pauses of the clock."""

    def __init__(self, clock, *blocks: bytes | float) -> None:
        self._clock = clock
        self._blocks = list(blocks)

    def read1(self, size: int, /) -> bytes:
        while self._blocks and isinstance(self._blocks[0], float):
            self._clock.time_s += self._blocks.pop(0)
        if not self._blocks:
            return b""
        block = self._blocks.pop(0)
        if len(block) > size:
            self._blocks.insert(0, block[size:])
        return block[:size]


@pytest.mark.parametrize("form", ["s16le", "s32le", "f32le"])
def test_raw_samples_give_the_scores_of_a_file_of_them(scorer, tmp_path, form):
    samples = lossless.sound(17.0)
    content = {
        "s16le": samples.astype("<i2"),
        "s32le": samples.astype("<i4") * 65_536,
        "f32le": (samples / 32_768).astype("<f4"),
    }[form].tobytes()
    clock = FakeClock()
    # Blocks that cut through samples, as pipes do.
    pipe = Pipe(clock, *(content[at : at + 1001] for at in range(0, len(content), 1001)))
    source = PcmSource(pipe, PcmFormat(form), RATE_HZ, clock)
    results = list(live(scorer, source, 2.5, clock))
    path = lossless.write(tmp_path / "same.wav", samples, None)
    same = list(scorer.predict_windows(path, hop=2.5))
    assert len(results) == len(same) == 3
    for one, other in zip(results, same, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=SAME)
    assert results[0].vision.why == "raw PCM has no video track"


def test_raw_samples_of_another_rate_are_resampled(scorer):
    clock = FakeClock()
    samples = lossless.sound(12.0, rate_hz=48_000)
    source = PcmSource(
        Pipe(clock, samples.astype("<i2").tobytes()), PcmFormat("s16le", 48_000), RATE_HZ, clock
    )
    (result,) = live(scorer, source, 2.5, clock)
    assert result.audio.seconds_used == pytest.approx(12.0, abs=0.01)


def test_a_recorder_that_stops_and_returns_leaves_a_gap(scorer):
    clock = FakeClock()
    content = lossless.sound(13.0).astype("<i2").tobytes()
    source = PcmSource(Pipe(clock, content, 30.0, content), PcmFormat(), RATE_HZ, clock)
    results = list(live(scorer, source, 4.0, clock))
    assert [result.gap_s for result in results] == [None, None, pytest.approx(30.0), None]
    assert results[2].start_s >= 13 + 30
    np.testing.assert_allclose(scores(results[2]), scores(results[0]), atol=SAME)


def test_samples_that_are_no_numbers_count_as_silence(scorer):
    clock = FakeClock()
    samples = (lossless.sound(5.0) / 32_768).astype("<f4")
    samples[100:110] = np.nan
    (result,) = live(
        scorer, PcmSource(Pipe(clock, samples.tobytes()), PcmFormat("f32le"), RATE_HZ, clock), 2, clock
    )
    assert result.warnings == ("10 samples are NaN or infinite and count as silence",)


@pytest.mark.parametrize("text", ["s16le", "s16le:", "u8:16000", "s16le:5", "s16le:1e4", "s16le:16000:2"])
def test_unknown_raw_formats_are_refused(text):
    with pytest.raises(UsageError, match="expected FORMAT:RATE with s16le, s32le, f32le"):
        PcmFormat.parse(text)
