"""Several clips scored together: the same scores as alone, and every failure its own clip's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime import load
from taemi_runtime.batching import DecodedClip
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.transcripts import Transcript
from tests.runtime.tiny_bundle import HOP, PREPROCESSING, WINDOW
from tests.runtime.tiny_clips import make_clip

SAID = {"both": "I won the race today", "second": "the race", "sound": None, "silent": "won"}


@pytest.fixture(scope="module")
def several(clips, tmp_path_factory):
    """Paths of many lengths with their transcripts, one of more than two calls of frames."""
    long = make_clip(tmp_path_factory.mktemp("long") / "long.mp4", seconds=4.0)
    return {**{getattr(clips, name): said for name, said in SAID.items()}, long: "I won"}


def decoded(scorer, several):
    return [
        DecodedClip(clip, Transcript.given(said), decode_ms=spent)
        for path, said in several.items()
        for clip, spent in [scorer.decoder.decode(path)]
    ]


def values(result):
    assert isinstance(result, ClipResult), result
    return np.array(list(result.intensities.values()))


@pytest.mark.parametrize("changes", [{}, {"tokens": True}, {"fixed": True}], ids=str)
def test_a_batch_gives_the_scores_of_each_alone(make_bundle, several, changes):
    made = make_bundle(**changes)
    with load(made.folder, device="cpu", clip_scores=False, asr="none") as scorer:
        together = scorer.score_batch(decoded(scorer, several))
        alone = [scorer.score(path, said) for path, said in several.items()]
    for one, other, (path, said) in zip(together, alone, several.items(), strict=True):
        np.testing.assert_allclose(values(one), values(other), atol=1e-5)
        np.testing.assert_allclose(values(one), made.expected(path, said), atol=1e-5)
        assert (one.clip, one.audio, one.vision, one.text) == (
            str(path),
            other.audio,
            other.vision,
            other.text,
        )
        assert one.warnings == other.warnings


def test_clips_share_calls(bundle, several):
    with load(bundle.folder, device="cpu", asr="none") as scorer:
        calls = {}
        for name in ("fusion", "audio", "vision", "text"):
            engine = scorer.model.engine(name)

            def run(inputs, *, name=name, run=engine.run, **options):
                calls.setdefault(name, []).append(len(next(iter(inputs.values()))))
                return run(inputs, **options)

            engine.run = run
        scorer.score_batch(decoded(scorer, several))
    # Frames: 6, 9, none, 6 and 40, of which 4, 8, 4 and 40 go in whole calls, and 2, 1 and 2 are left. Of the
    # sounds two are of nearly one length.
    assert calls["fusion"] == [5]
    assert sorted(calls["audio"]) == [1, 1, 2]
    assert sorted(calls["vision"]) == [1] + [4] * 15
    assert calls["text"] == [4]


def test_integer_graphs_take_clips_one_by_one(bundle, several):
    with load(bundle.folder, device="cpu", asr="none") as scorer:
        sizes = []
        for name in ("fusion", "audio", "vision", "text"):
            engine = scorer.model.engine(name)
            engine.info = replace(engine.info, precision="int8")

            def run(inputs, *, run=engine.run, name=name, **options):
                sizes.append(len(next(iter(inputs.values()))) if name != "vision" else 1)
                return run(inputs, **options)

            engine.run = run
        together = scorer.score_batch(decoded(scorer, several))
        alone = [scorer.score(path, said) for path, said in several.items()]
    assert set(sizes) == {1}
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def test_waveforms_of_a_fixed_length_share_calls_whatever_their_lengths(make_bundle, several):
    audio = AudioPreprocessing(convs=((WINDOW, HOP),), padded_samples=80_000)
    made = make_bundle(preprocessing=Preprocessing(audio, PREPROCESSING.vision, PREPROCESSING.text))
    with load(made.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        batch = [item for item in decoded(scorer, several) if item.clip.waveform is not None]
        together = scorer.score_batch(batch)
        alone = [scorer.score(item.clip.path, item.said) for item in batch]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(values(one), values(other), atol=1e-5)


def test_a_bad_clip_fails_alone(bundle, several):
    with load(bundle.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        batch = decoded(scorer, several)
        waveform = batch[1].clip.waveform.copy()
        waveform[7] = np.nan
        batch[1] = replace(batch[1], clip=replace(batch[1].clip, waveform=waveform))
        wrong = np.zeros((3, 3, 5, 5), np.uint8)
        batch[3] = replace(batch[3], clip=replace(batch[3].clip, frames=wrong))
        found = scorer.score_batch(batch)
        alone = [scorer.score(path, said) for path, said in several.items()]
    assert [type(one) for one in found] == [ClipResult, ClipFailure, ClipResult, ClipFailure, ClipResult]
    assert "1 of its 15360 samples are NaN or infinite" in found[1].error
    assert "pixels" in found[3].error
    for index in (0, 2, 4):
        np.testing.assert_allclose(values(found[index]), values(alone[index]), atol=1e-5)


def test_features_that_are_not_finite_fail_alone_in_a_shared_call(bundle, several, monkeypatch):
    with load(bundle.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        batch = decoded(scorer, several)
        see = scorer.encoder.see

        def spoil(pixels):
            features = see(pixels)
            # The clip whose pictures these are, wherever they lie in a shared call.
            bad = (pixels.reshape(len(pixels), -1)[:, :5] == batch[1].clip.frames[0].reshape(-1)[:5]).all(1)
            return np.where(bad[:, None], np.float32(np.inf), features)

        monkeypatch.setattr(scorer.encoder, "see", spoil)
        found = scorer.score_batch(batch)
    assert [type(one) for one in found].count(ClipFailure) == 1
    assert "input fusion.vision is not finite where it is valid" in found[1].error


def test_no_clip_gives_no_outcome(bundle):
    with load(bundle.folder, device="cpu", asr="none") as scorer:
        assert scorer.score_batch([]) == []


def test_a_clips_share_of_the_time_adds_up(bundle, several):
    with load(bundle.folder, device="cpu", asr="none") as scorer:
        found = scorer.score_batch(decoded(scorer, several))
    for one in found:
        spent = one.timings_ms
        parts = [spent.decode, spent.audio, spent.vision, spent.asr, spent.text, spent.fusion]
        assert spent.total == pytest.approx(sum(parts))
        assert spent.fusion > 0
