"""Decode workers and scoring lanes: every clip once, whatever dies, hangs or fails on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taemi_runtime import load, pool
from taemi_runtime.delivery import Order, Scored
from taemi_runtime.errors import BundleError, EngineError, UsageError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.messages import Layout, open_memory
from taemi_runtime.parallel import Request, score_parallel
from taemi_runtime.pool import DecodePool, Task
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.scale import Scale, choose_scale
from taemi_runtime.transcripts import Transcript

SAID = "I won the race today"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers inherit descriptors")


def left():
    """Threads and children of ours that are still there."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("taemi-")]
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pid = None
    return threads, pid


@pytest.fixture
def scorer(bundle):
    with load(bundle.folder, device="cpu", asr="none", clip_scores=False, threads=1) as opened:
        yield opened
    assert left()[0] == []


def requests(paths, said=SAID):
    return [Request(index, path, lambda _: Transcript.given(said)) for index, path in enumerate(paths)]


def values(outcome):
    assert isinstance(outcome, ClipResult), outcome
    return list(outcome.intensities.values())


def score(scorer, paths, scale=Scale(workers=2, lanes=2, threads=1, batch=3), **options):  # noqa: B008
    found = sorted(score_parallel(scorer, requests(paths), scale, **options), key=lambda item: item.index)
    assert [item.index for item in found] == list(range(len(paths)))
    return [item.outcome for item in found]


def test_clips_have_the_scores_of_each_alone_and_failures_stay_their_own(scorer, clips, tmp_path):
    paths = [clips.both, clips.broken, clips.second, tmp_path / "nowhere.mp4", clips.sound, clips.silent] * 3
    found = score(scorer, paths)
    for path, outcome in zip(paths, found, strict=True):
        if path in (clips.broken, paths[3]):
            assert isinstance(outcome, ClipFailure)
            assert outcome.error.startswith(f"cannot read {path} as media: ")
            continue
        alone = scorer.score(path, SAID)
        np.testing.assert_allclose(values(outcome), values(alone), atol=1e-5)
        assert (outcome.clip, outcome.clip_seconds) == (str(path), alone.clip_seconds)
        assert (outcome.audio, outcome.vision, outcome.text) == (alone.audio, alone.vision, alone.text)


def test_one_clip_a_batch_gives_the_scores_to_the_last_bit(scorer, clips):
    paths = [clips.both, clips.second, clips.sound, clips.silent] * 2
    found = score(scorer, paths, Scale(workers=1, lanes=1, threads=1, batch=1))
    assert [values(one) for one in found] == [values(scorer.score(path, SAID)) for path in paths]


def test_digests_are_of_the_bytes(scorer, clips):
    import hashlib

    work = requests([clips.both, clips.second])
    found = list(score_parallel(scorer, work, Scale(1, 1, 1, 1), digests=True))
    digests = {item.outcome.clip: item.digest for item in found}
    for path in (clips.both, clips.second):
        assert digests[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_transcript_that_cannot_be_read_fails_its_clip_only(scorer, clips):
    def fail(_):
        raise UsageError("cannot read transcript", "it is no text")

    work = [Request(0, clips.both, fail), Request(1, clips.second, lambda _: Transcript())]
    found = {item.index: item.outcome for item in score_parallel(scorer, work, Scale(1, 1, 1, 2))}
    assert found[0].error == "cannot read transcript: it is no text"
    assert isinstance(found[1], ClipResult)


def test_nothing_to_score_ends(scorer):
    assert list(score_parallel(scorer, [], Scale(2, 2, 1, 4))) == []


def test_no_more_is_read_ahead_than_there_is_room_for(scorer, clips):
    taken = []

    def endless():
        for index in range(10_000):
            taken.append(index)
            yield Request(index, clips.both, lambda _: Transcript())

    run = score_parallel(scorer, endless(), Scale(workers=2, lanes=1, threads=1, batch=2))
    for _ in range(3):
        next(run)
    time.sleep(0.5)
    # Outcomes wait for nobody, but clips are decoded only where there is room: 2 workers and 2 ahead.
    run.close()
    count = len(taken)
    time.sleep(0.2)
    assert len(taken) == count < 10_000


@pytest.fixture
def deadly(monkeypatch, tmp_path):
    """Make workers die or hang on clips of certain names, as FFmpeg might: through their own imports."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "deadly.py").write_text(
        "import os, signal, time\n"
        "import taemi_runtime.decoding as decoding\n"
        "read = decoding.read_clip\n"
        "def deadly(path, *rest, **more):\n"
        "    if 'kill' in path.name: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if 'fault' in path.name: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if 'leave' in path.name: os._exit(3)\n"
        "    if 'hang' in path.name: time.sleep(600)\n"
        "    return read(path, *rest, **more)\n"
        "decoding.read_clip = deadly\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(
        "taemi_runtime.worker.START",
        f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); import deadly; {pool_start()}",
    )


def pool_start():
    from taemi_runtime import worker

    return worker.START.split("; ", 2)[2]


def test_a_worker_that_dies_gives_its_clip_a_failure_and_is_replaced(scorer, clips, tmp_path, deadly):
    paths = []
    for index in range(12):
        name = {2: "kill", 5: "fault", 8: "leave"}.get(index, "fine")
        paths.append(tmp_path / f"{index:02}-{name}.mp4")
        paths[-1].hardlink_to(clips.both)
    found = score(scorer, paths)
    expected = values(scorer.score(clips.both, SAID))
    for index, (path, outcome) in enumerate(zip(paths, found, strict=True)):
        how = {2: "signal 9", 5: "signal 11", 8: "exit code 3"}.get(index)
        if how is None:
            np.testing.assert_allclose(values(outcome), expected, atol=1e-5)
            continue
        assert outcome.error.startswith(f"cannot read {path} as media: the process that decoded it died")
        assert how in outcome.error
        assert "--workers" in outcome.error
    assert left() == ([], None)


def test_a_worker_that_hangs_is_ended_after_the_limit(bundle, clips, tmp_path, deadly, monkeypatch):
    monkeypatch.setattr(pool, "_GRACE_S", 0.2)
    paths = [tmp_path / name for name in ("0-fine.mp4", "1-hang.mp4", "2-fine.mp4", "3-fine.mp4")]
    for path in paths:
        path.hardlink_to(clips.both)
    limits = DecodeLimits(max_decode_seconds=1.0)
    with load(bundle.folder, device="cpu", asr="none", clip_scores=False, limits=limits) as scorer:
        found = score(scorer, paths, Scale(workers=1, lanes=1, threads=1, batch=1))
    assert [type(one) for one in found] == [ClipResult, ClipFailure, ClipResult, ClipResult]
    assert "gave no sign of life for 1 s and was ended" in found[1].error
    assert "--max-decode-seconds" in found[1].error
    assert left() == ([], None)


def test_a_worker_that_is_killed_from_outside_costs_at_most_its_clip(scorer, clips):
    killed = []
    run = score_parallel(scorer, requests([clips.both] * 40), Scale(workers=2, lanes=1, threads=1, batch=1))
    found = [next(run)]
    for process in list(run.gi_frame.f_locals["run"]._pool.pids):
        os.kill(process, signal.SIGKILL)
        killed.append(process)
    found += run
    failures = [item for item in found if isinstance(item.outcome, ClipFailure)]
    assert sorted(item.index for item in found) == list(range(40))
    assert len(killed) == 2
    assert len(failures) <= 2
    assert all("signal 9" in item.outcome.error for item in failures)


def test_workers_that_cannot_start_are_one_error_that_says_what_to_do(scorer, clips, monkeypatch):
    monkeypatch.setattr("taemi_runtime.worker.START", "raise SystemExit(7)")
    with pytest.raises(EngineError, match=r"it ended with exit code 7\. Decode in the .*: --workers 0"):
        list(score_parallel(scorer, requests([clips.both] * 4), Scale(2, 1, 1, 1)))
    assert left() == ([], None)


def test_a_source_that_fails_ends_the_run_with_its_error(scorer, clips):
    def source():
        yield Request(0, clips.both, lambda _: Transcript())
        raise ZeroDivisionError("the list is bad")

    with pytest.raises(ZeroDivisionError, match="the list is bad"):
        list(score_parallel(scorer, source(), Scale(1, 1, 1, 1)))
    assert left() == ([], None)


def test_a_fusion_engine_that_cannot_be_opened_ends_the_run(make_bundle, clips):
    made = make_bundle()
    (made.folder / "fusion.onnx").write_bytes(b"bad")
    with load(made.folder, device="cpu", asr="none") as scorer:
        with pytest.raises(BundleError, match="it has 3 bytes, the manifest says"):
            list(score_parallel(scorer, requests([clips.both] * 4), Scale(2, 2, 1, 1)))
    assert left() == ([], None)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_encoder_that_cannot_be_opened_fails_the_clips_that_need_it(make_bundle, clips, caplog, batch):
    made = make_bundle()
    (made.folder / "audio.onnx").unlink()
    with load(made.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        found = score(scorer, [clips.both, clips.silent] * 3, Scale(1, 1, 1, batch))
    for index, outcome in enumerate(found):
        if index % 2:
            np.testing.assert_allclose(values(outcome), made.expected(clips.silent, SAID), atol=1e-5)
        else:
            assert "audio.onnx: the manifest lists it and the bundle does not have it" in outcome.error
    assert caplog.text.count("audio.onnx: the manifest lists it") == 1


def test_a_run_that_nobody_reads_on_leaves_nothing(scorer, clips):
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else set()
    run = score_parallel(scorer, requests([clips.both] * 50), Scale(2, 2, 1, 2))
    next(run)
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < 1.5
    assert left() == ([], None)
    if before:
        assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


def test_a_run_that_is_cut_off_while_workers_start_leaves_nothing(scorer, clips):
    # At once, and while they import what they need.
    for pause_s in (0.0, 0.1, 0.3):
        pool = DecodePool(scorer.decoder, iter([]), lambda _: None, workers=2, ahead=1)
        time.sleep(pause_s)
        pool.close()
        assert left() == ([], None)
        assert pool.pids == []


def test_workers_end_with_the_process_that_started_them(scorer, clips):
    run = score_parallel(scorer, requests([clips.both] * 50), Scale(2, 1, 1, 1))
    next(run)
    decoding = run.gi_frame.f_locals["run"]._pool
    for process in decoding._processes:
        # What the system does with the pipes of a process that is gone.
        os.dup2(os.open(os.devnull, os.O_RDONLY), process._requests.fileno())
    end = time.monotonic() + 10
    while any(process._process.poll() is None for process in decoding._processes if process):
        assert time.monotonic() < end, "a worker outlives its parent"
        time.sleep(0.02)
    run.close()


def test_memory_has_no_name_and_is_bounded_by_what_a_model_takes(bundle):
    layout = Layout.of(bundle.preprocessing, 3)
    assert layout.slot_bytes >= 4 * 192_000 + 400 * 3 * 8 * 8
    assert layout.slot_bytes % 4096 == 0
    descriptor = open_memory(layout.total_bytes)
    try:
        assert os.fstat(descriptor).st_size == layout.total_bytes
        # Nothing is backed by memory before it is written.
        assert os.fstat(descriptor).st_blocks == 0
        if Path("/proc/self/fd").is_dir():
            assert "(deleted)" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
    finally:
        os.close(descriptor)


def test_results_outlive_the_memory_that_they_came_from(scorer, clips):
    found = score(scorer, [clips.both, clips.second, clips.sound] * 4, Scale(1, 1, 1, 1))
    again = [values(one) for one in found]
    assert again == [values(scorer.score(path, SAID)) for path in [clips.both, clips.second, clips.sound] * 4]


def test_a_pool_reads_the_clip_that_the_process_itself_reads(scorer, clips):
    read = []
    ended = threading.Event()

    def deliver(item):
        if item is None:
            ended.set()
        else:
            read.append((item.task.index, item.clip, item.clip.waveform.copy(), item.clip.frames.copy()))
            item.release()

    tasks = iter([Task(0, clips.both), Task(1, clips.second)])
    with DecodePool(scorer.decoder, tasks, deliver, workers=1, ahead=1):
        assert ended.wait(20)
    for index, clip, waveform, frames in read:
        own, _ = scorer.decoder.decode((clips.both, clips.second)[index])
        np.testing.assert_array_equal(waveform, own.waveform)
        np.testing.assert_array_equal(frames, own.frames)
        assert replace(clip, waveform=None, frames=None) == replace(own, waveform=None, frames=None)


@pytest.mark.parametrize(
    ("clips_there", "asked", "cores", "expected"),
    [
        (1, {}, 8, Scale()),
        (3, {}, 8, Scale()),
        (100, {}, 1, Scale()),
        (100, {"workers": 0}, 8, Scale()),
        (100, {}, 2, Scale(2, 2, 1, 4)),
        (100, {}, 6, Scale(6, 6, 1, 4)),
        (100, {}, 64, Scale(16, 8, 8, 4)),
        (100, {"threads": 4}, 8, Scale(8, 2, 4, 4)),
        (100, {"workers": 3, "batch": 16}, 8, Scale(3, 8, 1, 16)),
        (2, {"workers": 5}, 8, Scale(2, 2, 4, 4)),
        (100, {"on_cpu": False}, 16, Scale(16, 2, 0, 8)),
    ],
)
def test_how_much_is_done_at_a_time(clips_there, asked, cores, expected):
    given = {"workers": None, "batch": None, "threads": 0, "on_cpu": True, **asked}
    assert choose_scale(clips_there, cores=cores, **given) == expected


def test_outcomes_are_put_in_order():
    def item(index):
        return Scored(index, ClipFailure(str(index), "no"))

    order = Order([1, 3, 4, 7])
    assert [one.index for index in (3, 4, 1) for one in order.take(item(index))] == [1, 3, 4]
    order = Order()
    assert [one.index for one in order.take(item(2))] == []
    assert [one.index for one in order.take(item(0))] == [0]
    assert [one.index for one in order.rest()] == [2]
    assert list(order.rest()) == []
