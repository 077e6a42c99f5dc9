"""Windows of long clips: every one is what a fresh run over it gives."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import taemi_runtime
from taemi_runtime.errors import MediaError, UsageError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.over_time.session import Session
from taemi_runtime.over_time.sources import FileSource
from tests.runtime import lossless
from tests.runtime.lossless import FPS, RATE_HZ, cut
from tests.runtime.made_clips import Recipe, make
from tests.runtime.tiny_bundle import PREPROCESSING

SECONDS = 31.0
HOP = 2.5
# Engine runs of one graph over the same numbers; batches of frames may differ in the last bits.
SAME = 2e-6


@pytest.fixture(scope="module")
def samples():
    return lossless.sound(SECONDS)


@pytest.fixture(scope="module")
def frames():
    return lossless.pictures(SECONDS)


@pytest.fixture(scope="module")
def long(tmp_path_factory, samples, frames):
    return lossless.write(tmp_path_factory.mktemp("long") / "long.mkv", samples, frames)


@pytest.fixture(scope="module")
def scorer(bundle):
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", clip_scores=False) as opened:
        yield opened


def scores(result):
    return np.array(list(result.intensities.values()))


def test_every_window_is_what_a_fresh_run_over_a_cut_of_the_file_gives(
    scorer, long, samples, frames, tmp_path
):
    results = list(scorer.predict_windows(long, hop=HOP, transcript="I won"))
    assert [result.index for result in results] == list(range(9))
    assert [result.start_s for result in results] == [k * HOP for k in range(9)]
    assert [result.end_s for result in results] == [min(k * HOP + 12, SECONDS) for k in range(9)]
    assert [result.partial for result in results] == [False] * 8 + [True]
    for result in results:
        piece = lossless.write(
            tmp_path / f"{result.index}.mkv",
            cut(samples, result.start_s, result.end_s, RATE_HZ),
            cut(frames, result.start_s, result.end_s, FPS),
        )
        fresh = scorer.predict(piece, transcript="I won")
        np.testing.assert_allclose(scores(result), scores(fresh), atol=SAME)
        assert result.audio == replace(fresh.audio, truncated=False)
        assert result.vision.frames == fresh.vision.frames
        assert result.vision.seconds_used == pytest.approx(fresh.vision.seconds_used, abs=1e-3)
        assert result.text == fresh.text
    differences = [np.abs(scores(a) - scores(b)).max() for a, b in itertools.pairwise(results)]
    assert min(differences) > 100 * SAME  # neighbours differ, so that a window off by a hop would be seen


def test_a_window_holds_exactly_the_samples_and_frames_of_its_time(scorer, long, samples, frames):
    whole = read_clip(
        long,
        replace(
            PREPROCESSING,
            audio=replace(PREPROCESSING.audio, max_seconds=60.0),
            vision=replace(PREPROCESSING.vision, max_frames=1000),
        ),
    )
    assert whole.waveform is not None
    np.testing.assert_array_equal(whole.waveform, samples.astype(np.float32) / 32_768)
    taken = []
    session = Session(scorer, FileSource(long, scorer.decoder), HOP)
    score = session.windows._clip

    def keep(stretch, window, seen):
        clip = score(stretch, window, seen)
        taken.append((window, clip.waveform, seen.features))
        return clip

    session.windows._clip = keep
    results = list(session)
    for (window, waveform, features), result in zip(taken, results, strict=True):
        np.testing.assert_array_equal(waveform, cut(whole.waveform, window.start_s, window.end_s, RATE_HZ))
        pixels = cut(whole.frames, window.start_s, window.end_s, FPS)
        fresh = scorer.encode(_clip(waveform, pixels), _nothing_said())
        np.testing.assert_allclose(features, fresh.inputs["vision"][0], atol=1e-6)
        np.testing.assert_allclose(scores(result), scorer.fuse(fresh), atol=SAME)


def _clip(waveform, frames):
    seconds = waveform.size / RATE_HZ
    return Clip(Path("w"), seconds, waveform, frames, seconds, seconds, False, False, "", "", ())


def _nothing_said():
    from taemi_runtime.transcripts import Transcript

    return Transcript("", "given")


def test_a_clip_shorter_than_a_window_is_one_window_with_the_clips_scores(scorer, clips):
    (result,) = scorer.predict_windows(clips.both, hop=0.2)
    fresh = scorer.predict(clips.both)
    np.testing.assert_allclose(scores(result), scores(fresh), atol=SAME)
    assert result.partial
    assert (result.start_s, result.end_s) == (0.0, pytest.approx(fresh.clip_seconds, abs=0.1))


@pytest.fixture
def encoded(scorer, monkeypatch):
    """How many frames each call of the vision encoder took."""
    counts = []
    engine = scorer.model.engine("vision")
    run = type(engine).run

    def count(self, inputs, **options):
        if self is engine:
            counts.append(len(inputs["pixels"]))
        return run(self, inputs, **options)

    monkeypatch.setattr(type(engine), "run", count)
    return counts


def test_every_frame_is_encoded_once(scorer, long, encoded):
    results = list(scorer.predict_windows(long, hop=0.5))
    assert len(results) == 39
    assert sum(encoded) == SECONDS * FPS


def test_frames_between_distant_windows_are_not_encoded(scorer, long, encoded):
    results = list(scorer.predict_windows(long, hop=15.0))
    assert [(result.start_s, result.end_s) for result in results] == [(0, 12), (15, 27), (30, 31)]
    assert sum(encoded) == (12 + 12 + 1) * FPS


def test_a_window_takes_the_first_frames_of_it_as_a_clip_does(make_bundle, long, samples, frames, tmp_path):
    few = replace(PREPROCESSING, vision=replace(PREPROCESSING.vision, max_frames=50))
    made = make_bundle("few.taemi", preprocessing=few)
    with taemi_runtime.load(made.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        for result in scorer.predict_windows(long, hop=4.0):
            piece = lossless.write(
                tmp_path / "cut.mkv",
                cut(samples, result.start_s, result.end_s, RATE_HZ),
                cut(frames, result.start_s, result.end_s, FPS),
            )
            fresh = scorer.predict(piece)
            np.testing.assert_allclose(scores(result), scores(fresh), atol=SAME)
            assert result.vision.truncated == fresh.vision.truncated
            assert result.vision.frames == 50


def test_frames_come_from_the_grid_that_a_clip_has(bundle, long, samples, frames, tmp_path):
    with taemi_runtime.load(
        bundle.folder, device="cpu", asr="none", clip_scores=False, max_fps=4.0
    ) as scorer:
        results = list(scorer.predict_windows(long, hop=HOP))
        assert {result.vision.frames for result in results[:-1]} == {48}
        for result in results:
            piece = lossless.write(
                tmp_path / "cut.mkv",
                cut(samples, result.start_s, result.end_s, RATE_HZ),
                cut(frames, result.start_s, result.end_s, FPS),
            )
            # 2.5 s are ten steps of the grid, so that a cut's own grid is the same.
            np.testing.assert_allclose(scores(result), scores(scorer.predict(piece)), atol=SAME)


@pytest.mark.parametrize(("kind", "missing"), [("sound", "vision"), ("sight", "audio")])
def test_a_track_that_is_not_there_is_missing_from_every_window(
    scorer, samples, frames, tmp_path, kind, missing
):
    both = (samples, None) if kind == "sound" else (None, frames)
    path = lossless.write(tmp_path / "half.mkv", *both)
    results = list(scorer.predict_windows(path, hop=5.0))
    assert [result.missing for result in results] == [[missing, "text"]] * 5
    assert (
        getattr(results[0], missing).why == f"the clip has no {'video' if kind == 'sound' else 'audio'} track"
    )


def test_a_track_that_ends_early_is_missing_from_the_windows_after_it(scorer, samples, frames, tmp_path):
    path = lossless.write(tmp_path / "half.mkv", samples, cut(frames, 0, 7, FPS))
    results = list(scorer.predict_windows(path, hop=4.0))
    assert [result.missing for result in results] == [["text"], ["text"], *[["vision", "text"]] * 4]
    assert results[1].vision.frames == 30
    assert results[2].vision.why == "the window has no frame of the video track"
    quiet = lossless.write(tmp_path / "quiet.mkv", cut(samples, 0, 7, RATE_HZ), frames)
    results = list(scorer.predict_windows(quiet, hop=4.0))
    assert [result.missing for result in results] == [["text"], ["text"], *[["audio", "text"]] * 4]
    assert results[1].audio.seconds_used == 3.0
    assert results[2].audio.why == "the window has no sound of the audio track"


def test_resampled_sound_is_that_of_the_whole_file_and_differs_from_a_cut_at_its_edges_only(scorer, tmp_path):
    rate_hz = 44_100
    wave = lossless.sound(20.0, rate_hz=rate_hz)
    path = lossless.write(tmp_path / "cd.mkv", wave, None, rate_hz=rate_hz)
    session = Session(scorer, FileSource(path, scorer.decoder), 4.0)
    taken = []
    make_clip = session.windows._clip
    session.windows._clip = lambda *a: taken.append(make_clip(*a)) or taken[-1]
    results = list(session)
    assert len(results) == 3
    piece = lossless.write(tmp_path / "cut.mkv", cut(wave, 4, 16, rate_hz), None, rate_hz=rate_hz)
    fresh = read_clip(piece, PREPROCESSING).waveform
    difference = np.abs(taken[1].waveform[: fresh.size] - fresh)
    edge = round(0.01 * RATE_HZ)
    print(f"resampled: {difference[edge:-edge].max():.1e} inside, {difference.max():.1e} at the edges")
    assert difference[edge:-edge].max() < 1e-6
    assert difference.max() > 1e-4  # the filter of a cut begins with silence, the whole file's does not
    again = scorer.predict(piece)
    np.testing.assert_allclose(scores(results[1]), scores(again), atol=1e-3)


def test_lossy_clips_of_usual_codecs_have_windows_to_their_end(scorer, tmp_path):
    path = make(tmp_path / "usual.mp4", Recipe(seconds=17.0))
    results = list(scorer.predict_windows(path, hop=3.0))
    assert [result.partial for result in results] == [False, False, True]
    assert results[-1].end_s == pytest.approx(17.0, abs=0.1)
    assert all(result.missing == ["text"] for result in results)


def test_what_is_wrong_with_the_file_is_an_error_or_a_remark(scorer, clips, long, tmp_path):
    with pytest.raises(MediaError, match="its content is no audio or video"):
        list(scorer.predict_windows(clips.broken))
    content = long.read_bytes()
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(content[: len(content) * 2 // 3])
    results = list(scorer.predict_windows(torn, hop=4.0))
    assert len(results) == 4
    assert results[-1].partial
    assert any("ends after" in warning for warning in results[-1].warnings)


def test_limits_hold(bundle, long):
    limits = DecodeLimits(max_seconds=20.0)
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", limits=limits) as scorer:
        with pytest.raises(MediaError, match="it claims to last 31 s, more than the limit of 20 s"):
            list(scorer.predict_windows(long))
    limits = DecodeLimits(max_decode_seconds=1e-6)
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", limits=limits) as scorer:
        with pytest.raises(MediaError, match=r"more was found|takes longer than the limit"):
            list(scorer.predict_windows(long))


@pytest.mark.parametrize("hop", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hop_that_makes_no_sense_is_refused_at_the_call(scorer, long, hop):
    with pytest.raises(UsageError, match="a hop is a number of seconds above 0"):
        scorer.predict_windows(long, hop=hop)


def test_an_iterator_that_is_closed_stops_reading(scorer, long):
    import threading

    found = scorer.predict_windows(long, hop=0.25)
    assert next(found).index == 0
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "taemi-source"]


def test_the_example_of_the_page_runs(bundle, long, tmp_path, monkeypatch, capsys):
    import re
    import shutil

    page = Path(__file__).parents[2] / "docs" / "over-time.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    shutil.copytree(bundle.folder, tmp_path / "ckpt.taemi")
    shutil.copy(long, tmp_path / "long.mp4")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("0.0 12.0 ")


def test_windows_import_no_training_stack(bundle, long):
    import subprocess
    import sys

    from tests.runtime.made_clips import SAME_CODE

    code = (
        "import sys, taemi_runtime\n"
        f"with taemi_runtime.load({str(bundle.folder)!r}, asr='none') as scorer:\n"
        f"    print(len(list(scorer.predict_windows({str(long)!r}, hop=5.0))))\n"
        "print(*{'torch', 'transformers', 'onnx', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=SAME_CODE, check=True, timeout=120
    )
    assert done.stdout.split() == ["5"]


def test_sessions_in_several_threads_have_the_scores_of_one(scorer, long):
    from concurrent.futures import ThreadPoolExecutor

    alone = [result.intensities for result in scorer.predict_windows(long, hop=4.0)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda _: [result.intensities for result in scorer.predict_windows(long, hop=4.0)], range(8)
        )
    for one in found:
        for a, b in zip(one, alone, strict=True):
            np.testing.assert_allclose(list(a.values()), list(b.values()), atol=SAME)
