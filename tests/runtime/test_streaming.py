"""One clip as a pipeline: the same scores, whatever the timing, and no thread that outlives the clip."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from taemi_runtime import load
from taemi_runtime.asr.listener import Listener
from taemi_runtime.batching import DecodedClip
from taemi_runtime.errors import BundleError, EngineError, MediaError
from taemi_runtime.media import read_clip
from taemi_runtime.tracks import VideoTrack
from taemi_runtime.transcripts import Transcript
from tests.runtime.made_clips import Recipe, make
from tests.runtime.tiny_clips import make_clip

ROOT = Path(__file__).parents[2]
SAID = "I won the race today"


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("taemi-")]


def values(result):
    return list(result.intensities.values())


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A clip longer than what is used of sound, with 130 frames: more than eight calls."""
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", seconds=13.0)


@pytest.fixture
def scorer(bundle):
    with load(bundle.folder, device="cpu", asr="none", clip_scores=False) as opened:
        yield opened
    assert threads() == []


def in_turn(scorer, path, said=None):
    """Score a clip stage by stage, with no thread: what the pipeline must give to the last bit."""
    clip, decode_ms = scorer.decoder.decode(path)
    (result,) = scorer.score_batch([DecodedClip(clip, Transcript.given(said), decode_ms=decode_ms)])
    return result


@pytest.mark.parametrize("name", ["both", "second", "sound", "silent", "long"])
@pytest.mark.parametrize("said", [None, SAID])
def test_scores_are_those_of_one_stage_after_the_other_to_the_last_bit(scorer, clips, long, name, said):
    path = long if name == "long" else getattr(clips, name)
    one, other = scorer.score(path, said), in_turn(scorer, path, said)
    assert values(one) == values(other)
    assert (one.audio, one.vision, one.text) == (other.audio, other.vision, other.text)
    assert one.warnings == other.warnings
    assert threads() == []


def test_features_are_those_of_one_stage_after_the_other(scorer, long):
    streamed = scorer.features(long, SAID)
    clip, _ = scorer.decoder.decode(long)
    encoded = scorer.encode(clip, Transcript.given(SAID))
    assert streamed.inputs.keys() == encoded.inputs.keys()
    for name, array in streamed.inputs.items():
        np.testing.assert_array_equal(array, encoded.inputs[name])


@pytest.mark.parametrize("slow", ["decode", "vision", "audio", "text"])
def test_scores_do_not_depend_on_which_stage_is_slow(scorer, long, monkeypatch, slow):
    expected = values(scorer.score(long, SAID))
    calls = []

    def delay(function):
        def delayed(*arguments):
            time.sleep(0.003 if slow == "decode" else 0.05)
            calls.append(len(arguments[0]) if slow == "vision" else 1)
            return function(*arguments)

        return delayed

    if slow == "decode":
        monkeypatch.setattr(VideoTrack, "part", delay(VideoTrack.part))
    else:
        name = {"vision": "see", "audio": "hear", "text": "read"}[slow]
        monkeypatch.setattr(scorer.encoder, name, delay(getattr(scorer.encoder, name)))
    assert values(scorer.score(long, SAID)) == expected
    if slow == "vision":
        assert calls == [4] * 32 + [2]


def test_frames_are_encoded_while_later_ones_are_still_being_decoded(scorer, long, monkeypatch):
    seen = threading.Event()
    see = scorer.encoder.see
    monkeypatch.setattr(scorer.encoder, "see", lambda pixels: (seen.set(), see(pixels))[1])
    # The last frames are not decoded before the first ones are encoded: without a pipeline this never ends.
    part = VideoTrack.part

    def wait(track, start, count):
        if start:
            assert seen.wait(20), "nothing is encoded while the clip is decoded"
        return part(track, start, count)

    monkeypatch.setattr(VideoTrack, "part", wait)
    assert scorer.score(long).vision.frames == 130


def test_sound_is_encoded_as_soon_as_its_twelve_seconds_are_there(scorer, monkeypatch, tmp_path):
    clip = make(tmp_path / "clip.mkv", Recipe(seconds=15, fps=10))
    expected = values(in_turn(scorer, clip))
    heard = threading.Event()
    hear = scorer.encoder.hear
    monkeypatch.setattr(scorer.encoder, "hear", lambda waveforms: (heard.set(), hear(waveforms))[1])
    part = VideoTrack.part

    def wait(track, start, count):
        if start >= 128 and len(track._kept) > 145:
            assert heard.wait(20), "the sound is whole and nobody encodes it"
        return part(track, start, count)

    monkeypatch.setattr(VideoTrack, "part", wait)
    assert values(scorer.score(clip)) == expected


def test_a_modality_that_is_not_there_opens_no_engine(scorer, clips):
    scorer.score(clips.silent)
    assert [scorer.model.is_open(name) for name in ("fusion", "vision", "audio", "text")] == [
        *(True, True, False, False)
    ]
    scorer.score(clips.sound, SAID)
    assert scorer.model.is_open("audio")
    assert scorer.model.is_open("text")


def test_a_graph_that_is_not_needed_may_be_missing(make_bundle, clips):
    made = make_bundle()
    (made.folder / "vision.onnx").unlink()
    with load(made.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        np.testing.assert_allclose(values(scorer.score(clips.sound)), made.expected(clips.sound), atol=2e-6)
        with pytest.raises(BundleError, match=r"vision\.onnx: the manifest lists it and the bundle does not"):
            scorer.score(clips.both)
    assert threads() == []


@pytest.mark.parametrize("stage", ["hear", "see", "read"])
def test_an_error_of_any_stage_ends_the_clip_with_its_message(scorer, long, monkeypatch, stage):
    def fail(*_):
        raise EngineError("cannot run it", f"{stage} failed")

    monkeypatch.setattr(scorer.encoder, stage, fail)
    start = time.monotonic()
    with pytest.raises(EngineError, match=f"{stage} failed"):
        scorer.score(long, SAID)
    assert time.monotonic() - start < 5
    assert threads() == []


def test_an_error_in_the_middle_of_decoding_ends_the_clip_with_its_message(scorer, long, monkeypatch):
    part = VideoTrack.part

    def fail(track, start, count):
        if start >= 64:
            raise MediaError(f"cannot read {long}", "the disk is gone")
        return part(track, start, count)

    monkeypatch.setattr(VideoTrack, "part", fail)
    with pytest.raises(MediaError, match="the disk is gone"):
        scorer.score(long, SAID)
    assert threads() == []
    monkeypatch.undo()
    assert scorer.score(long, SAID).vision.frames == 130


def test_files_that_are_no_media_are_refused_as_ever(scorer, clips):
    with pytest.raises(MediaError, match="its content is no audio or video that is known here"):
        scorer.score(clips.broken, SAID)
    with pytest.raises(MediaError, match="there is no such file"):
        scorer.score("nowhere.mp4")


def test_a_graph_that_breaks_in_the_middle_is_told(make_bundle, clips):
    # The right digest, the right signature, and not a graph that runs.
    import onnx

    from taemi_runtime.manifest import describe_file, read_manifest
    from tests.runtime.tiny_bundle import save_manifest, tensor, vision_model

    made = make_bundle()
    model = vision_model()
    model.graph.initializer[0].CopyFrom(tensor("axes", [2, 9], np.int64))
    path = made.folder / "vision.onnx"
    onnx.save(model, path)
    files = dict(read_manifest(made.folder).files)
    files[path.name] = describe_file(path, graph="vision", precision="fp32")
    save_manifest(made.folder, files=files)
    with load(made.folder, device="cpu", asr="none") as scorer:
        with pytest.raises(EngineError, match=r"cannot (load|run) .*vision\.onnx"):
            scorer.score(clips.both)
        assert scorer.score(clips.sound).audio.present
    assert threads() == []


def test_stages_overlap_and_the_total_is_wall_clock(scorer, long, monkeypatch):
    part, see = VideoTrack.part, scorer.encoder.see
    monkeypatch.setattr(VideoTrack, "part", lambda *a: (time.sleep(0.004), part(*a))[1])
    monkeypatch.setattr(scorer.encoder, "see", lambda pixels: (time.sleep(0.05), see(pixels))[1])
    scorer.prepare(text=False)
    start = time.perf_counter()
    spent = scorer.score(long).timings_ms
    wall_ms = (time.perf_counter() - start) * 1e3
    assert spent.decode + spent.vision > spent.total
    assert max(spent.decode, spent.vision) <= spent.total <= wall_ms
    assert spent.vision > 9 * 50
    assert spent.text == spent.asr == 0


def test_opening_engines_is_no_part_of_the_total(make_bundle, clips, monkeypatch):
    with load(make_bundle().folder, device="cpu", asr="none") as scorer:
        opened = scorer.model._open_graph
        monkeypatch.setattr(scorer.model, "_open_graph", lambda graph: (time.sleep(1.0), opened(graph))[1])
        start = time.perf_counter()
        spent = scorer.score(clips.both).timings_ms
        wall_ms = (time.perf_counter() - start) * 1e3
    assert wall_ms > 1000
    assert spent.total < wall_ms - 500


def test_a_recogniser_listens_beside_the_other_stages(scorer, clips, monkeypatch):
    seen = threading.Event()
    see = scorer.encoder.see
    monkeypatch.setattr(scorer.encoder, "see", lambda pixels: (seen.set(), see(pixels))[1])

    def hear(listener, *_):
        assert seen.wait(20), "frames wait for the transcript"
        return Transcript("I won", "made up")

    monkeypatch.setattr(Listener, "prepare", lambda _: True)
    monkeypatch.setattr(Listener, "hear", hear)
    result = scorer.score(clips.both)
    assert (result.text.transcript, result.text.source) == ("I won", "made up")
    assert result.timings_ms.asr > 0


def test_reading_can_be_watched_and_ended(clips, bundle):
    class EnoughError(Exception):
        pass

    def stop(sound, sight):
        raise EnoughError

    with pytest.raises(EnoughError):
        read_clip(clips.both, bundle.preprocessing, watch=stop)


def mixed_work(clips, long):
    return [
        (clips.both, SAID),
        (clips.second, None),
        (clips.sound, "won"),
        (clips.silent, "the"),
        (long, None),
    ]


def test_eight_threads_on_one_model_give_the_scores_of_each_alone(scorer, clips, long):
    work = mixed_work(clips, long)
    alone = [values(scorer.score(*item)) for item in work]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: values(scorer.score(*work[index % 5])), range(80)))
    assert all(one == alone[index % 5] for index, one in enumerate(found))


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_eight_threads_for_a_minute_give_the_same_scores_and_take_no_more_memory(scorer, clips, long):
    work = mixed_work(clips, long)
    alone = [values(scorer.score(*item)) for item in work]
    end = time.monotonic() + 60
    wrong, sizes, counts = [], [], []

    def run(number):
        index = number
        while time.monotonic() < end:
            if values(scorer.score(*work[index % 5])) != alone[index % 5]:
                wrong.append(index)
            index += 1
            if number == 0:
                sizes.append(resident_bytes())
        counts.append(index - number)

    runners = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert not wrong
    assert len(counts) == 8
    # The first third warms allocators up.
    settled, last = max(sizes[: len(sizes) // 3]), max(sizes[-len(sizes) // 3 :])
    assert last - settled < 24e6, f"{sum(counts)} clips, {settled / 1e6:.0f} MB to {last / 1e6:.0f} MB"


def test_threads_that_look_for_faces_have_detectors_of_their_own(bundle, tmp_path, clips):
    with load(bundle.folder, device="cpu", asr="none", faces="auto") as scorer:
        alone = scorer.score(clips.both).vision
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: scorer.score(clips.both).vision, range(16)))
        assert found == [alone] * 16
        assert 1 <= len(scorer.decoder._idle) <= 4


PROGRAM = """
import sys, threading, time, taemi_runtime
from taemi_runtime.backends.onnxruntime_session import OnnxRuntimeEngine
with taemi_runtime.load(sys.argv[1], device="cpu", asr="none") as scorer:
    scorer.prepare()
    scorer.encoder.see = lambda pixels: time.sleep(0.3)
    print("ready", flush=True)
    try:
        for _ in range(100):
            scorer.predict(sys.argv[2])
    except KeyboardInterrupt:
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("taemi-")]
        print("stopped", left, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT between processes")
def test_ctrl_c_ends_a_clip_within_a_second(bundle, long):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(bundle.folder), str(long)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.8)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopped []\n"
    assert time.monotonic() - start < 1.0
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_running_engine_can_be_stopped_for_one_thread_and_serves_on(scorer, clips):
    engine = scorer.model.engine("audio")
    feeds = {
        "waveform": np.zeros((1, 16_000), np.float32),
        "frame_mask": np.ones((1, 49), bool),
    }
    stopped, fine = [], []
    enough = threading.Event()

    def run(errors):
        while not enough.is_set():
            try:
                engine.run(feeds)
            except EngineError as error:
                errors.append(str(error))

    workers = [threading.Thread(target=run, args=(errors,)) for errors in (stopped, fine)]
    for worker in workers:
        worker.start()
    end = time.monotonic() + 20
    while not stopped and time.monotonic() < end:
        engine.stop([workers[0].ident])
    enough.set()
    for worker in workers:
        worker.join()
    assert "terminate" in stopped[0]
    assert not fine
    engine.run(feeds)


def test_the_command_scores_one_clip_without_what_it_does_not_need(make_bundle, clips):
    made = make_bundle()
    (made.folder / "audio.onnx").write_bytes(b"damaged")
    command = [sys.executable, "-m", "taemi_runtime.cli", "--engine", str(made.folder), "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])}

    def run(clip):
        return subprocess.run(
            [*command, str(clip)], capture_output=True, text=True, env=environment, check=False
        )

    done = run(clips.silent)
    assert (done.returncode, json.loads(done.stdout)["modalities"]["audio"]["present"]) == (0, False)
    done = run(clips.both)
    assert (done.returncode, done.stdout) == (1, "")
    assert "audio.onnx: it has 7 bytes, the manifest says" in done.stderr
