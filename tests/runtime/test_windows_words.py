"""What is said in each window, and what faces found anew in a window change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import taemi_runtime
from taemi_runtime.errors import EngineError
from taemi_runtime.over_time.session import Session
from taemi_runtime.over_time.sources import FileSource
from taemi_runtime.over_time.words import WordsOverTime
from taemi_runtime.transcripts import read_transcript
from tests.runtime import fake_recognisers, lossless
from tests.runtime.drawn_faces import Face, draw, wall
from tests.runtime.lossless import RATE_HZ, cut
from tests.runtime.tiny_bundle import PREPROCESSING

SRT = """1
00:00:01,000 --> 00:00:03,000
I won

2
00:00:13,000 --> 00:00:15,000
the race today

3
00:00:20,500 --> 00:00:21,500
I won
"""


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "long.mkv"
    return lossless.write(path, lossless.sound(26.0), lossless.pictures(26.0))


@pytest.fixture(scope="module")
def scorer(bundle):
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", clip_scores=False) as opened:
        yield opened


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_each_window_has_the_words_of_its_time(scorer, long, tmp_path, suffix):
    file = tmp_path / f"long{suffix}"
    file.write_text("WEBVTT\n\n" * (suffix == ".vtt") + SRT)
    said = read_transcript(file)
    assert said.text == "I won the race today I won"
    results = list(scorer.predict_windows(long, hop=2.0, transcript=said))
    found = [(result.start_s, result.text.transcript) for result in results]
    assert found == [
        (0, "I won"),
        (2, "won the"),  # "won" is in the second half of its cue, "the" in the first third of its own
        (4, "the race today"),
        (6, "the race today"),
        (8, "the race today"),
        (10, "the race today I won"),
        (12, "the race today I won"),
        (14, "race today I won"),
    ]
    assert {result.text.source for result in results} == {"file"}


def test_windows_in_which_nothing_is_said_have_no_text(scorer, long, tmp_path):
    file = tmp_path / "long.srt"
    file.write_text("1\n00:00:00,500 --> 00:00:01,000\nI won\n")
    results = list(scorer.predict_windows(long, hop=7.0, transcript=read_transcript(file)))
    assert [result.text.present for result in results] == [True, False, False]
    assert results[1].text.why == "the subtitles say nothing in this window"
    fresh = scorer.predict_windows(long, hop=7.0, transcript="")
    assert [result.intensities for result in fresh][1:] == [result.intensities for result in results][1:]


def test_plain_text_is_every_windows_and_is_encoded_once(scorer, long, tmp_path, monkeypatch):
    file = tmp_path / "long.txt"
    file.write_text("I won the race")
    engine, calls = scorer.model.engine("text"), []
    run = type(engine).run
    monkeypatch.setattr(
        type(engine), "run", lambda self, *a, **k: (calls.append(self), run(self, *a, **k))[1]
    )
    results = list(scorer.predict_windows(long, hop=2.0, transcript=read_transcript(file)))
    assert {result.text.transcript for result in results} == {"I won the race"}
    assert calls.count(engine) == 1


def test_speech_is_recognised_in_each_windows_own_samples(bundle, tmp_path, monkeypatch):
    import sys

    site = fake_recognisers.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    model = fake_recognisers.write_model(tmp_path / "model", ("I won", 0.01, -0.1))
    speech = fake_recognisers.speech_like(20.0)
    speech[14 * RATE_HZ :] = 0
    samples = (speech * 32_767).astype(np.int16)
    path = lossless.write(tmp_path / "long.mkv", samples, None)
    try:
        with taemi_runtime.load(bundle.folder, device="cpu", asr=model, clip_scores=False) as scorer:
            results = list(scorer.predict_windows(path, hop=4.0))
            import faster_whisper

            heard = [audio for audio, _ in faster_whisper.calls]
    finally:
        sys.modules.pop("faster_whisper", None)
    assert [result.text.transcript for result in results] == ["I won"] * 3
    assert {result.text.source for result in results} == {"faster-whisper"}
    for result, sound in zip(results, heard, strict=True):
        expected = cut(samples, result.start_s, result.end_s, RATE_HZ).astype(np.float32) / 32_768
        np.testing.assert_array_equal(sound, expected)
    assert results[0].timings_ms.asr > 0


def test_silence_is_never_recognised_and_a_recogniser_that_fails_says_so(bundle, tmp_path, monkeypatch):
    import sys

    site = fake_recognisers.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    model = fake_recognisers.write_model(tmp_path / "model", "crash")
    silent = lossless.write(tmp_path / "silent.mkv", np.zeros(13 * RATE_HZ, np.int16), None)
    loud = lossless.write(
        tmp_path / "loud.mkv", (fake_recognisers.speech_like(5.0) * 32_767).astype(np.int16), None
    )
    try:
        with taemi_runtime.load(bundle.folder, device="cpu", asr=model) as scorer:
            (first, second) = scorer.predict_windows(silent, hop=2.0)
            with pytest.raises(
                EngineError, match=r"cannot recognise speech in .*loud.mkv: faster-whisper failed"
            ):
                list(scorer.predict_windows(loud))
    finally:
        sys.modules.pop("faster_whisper", None)
    assert not first.text.present
    assert first.text.why.startswith("no speech was recognised: the sound is silent")
    assert second.text == first.text


def test_sound_at_another_rate_than_recognisers_take_is_not_given_to_them(bundle):
    from taemi_runtime.asr.listener import Listener

    class Ready(Listener):
        def prepare(self):
            self._recogniser = object()
            return True

    slow = replace(PREPROCESSING, audio=replace(PREPROCESSING.audio, rate_hz=8000))
    from taemi_runtime.transcripts import Transcript

    words = WordsOverTime(Transcript(), Ready("none"), slow, "x")
    said = words.said(0, 1, np.zeros(8000, np.float32))
    assert said.why == ("there is no transcript: recognisers take 30 s at 16000 Hz, this is 1 s at 8000 Hz")


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """20 s of a head that moves steadily, leaves for three seconds, and returns."""
    frames = []
    for index in range(200):
        picture = wall(144, 192)
        if not 80 <= index < 110:
            x, y = 96 + 30 * np.sin(index / 12), 70 + 8 * np.cos(index / 9)
            picture = draw(picture, Face(x, y, 34 + 3 * np.sin(index / 20)))
        frames.append(picture)
    frames = np.stack(frames)
    path = tmp_path_factory.mktemp("faces") / "talking.mkv"
    return lossless.write(path, lossless.sound(20.0), frames), frames


def test_faces_are_those_of_the_whole_clip_and_fresh_ones_differ_a_little_at_the_edges(
    bundle, talking, tmp_path
):
    path, frames = talking
    with taemi_runtime.load(
        bundle.folder, device="cpu", asr="none", faces="auto", clip_scores=False
    ) as scorer:
        session = Session(scorer, FileSource(path, scorer.decoder), 4.0)
        kept = []
        see = session.windows._clip
        session.windows._clip = lambda stretch, window, seen: (
            kept.append((window, seen)),
            see(stretch, window, seen),
        )[1]
        results = list(session)
        whole = scorer.decoder.decode(path)[0].frames
        assert whole is not None
        # The crops of the whole clip: 200 frames less those without a face, each encoded once.
        features = scorer.encode(_frames_only(whole), _silent()).inputs["vision"][0]
        changes = []
        at = 0
        for (window, seen), result in zip(kept, results, strict=True):
            count = len(seen.features)
            start = np.flatnonzero((features == seen.features[0]).all(1))[0]
            np.testing.assert_allclose(features[start : start + count], seen.features, atol=1e-6)
            at = max(at, start)
            piece = lossless.write(
                tmp_path / "cut.mkv",
                cut(lossless.sound(20.0), window.start_s, window.end_s, RATE_HZ),
                cut(frames, window.start_s, window.end_s, lossless.FPS),
            )
            fresh = scorer.predict(piece)
            changes.append(np.abs(_scores(fresh) - _scores(result)).max())
            assert abs(fresh.vision.frames - result.vision.frames) <= 4
    assert results[0].vision.left_out > 20
    print(f"fresh boxes change scores by {max(changes):.1e} at most, {np.mean(changes):.1e} in the mean")
    assert 0 < max(changes) < 0.02


def _scores(result):
    return np.array(list(result.intensities.values()))


def _frames_only(frames):
    from pathlib import Path

    from taemi_runtime.media import Clip

    return Clip(Path("w"), 20.0, None, frames, 0.0, 20.0, False, False, "no sound", "", ())


def _silent():
    from taemi_runtime.transcripts import Transcript

    return Transcript("", "given")
