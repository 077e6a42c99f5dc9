"""Live sources: their own pace, a machine that is too slow, stops and returns."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
import pytest

import taemi_runtime
from taemi_runtime.errors import MediaError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.over_time.events import Sight, Unseen
from taemi_runtime.over_time.inbox import MOST_FRAMES
from taemi_runtime.over_time.live import open_live
from taemi_runtime.over_time.named import GIVE_UP_S, NamedSource
from taemi_runtime.over_time.session import Session
from taemi_runtime.over_time.sources import FileSource
from tests.runtime import lossless
from tests.runtime.lossless import FPS, RATE_HZ, cut
from tests.runtime.stepped import FakeClock, Synthetic, live, make_slow
from tests.runtime.tiny_bundle import PREPROCESSING

SAME = 2e-6
CAMERA = "lavfi:testsrc=size=64x48:rate=10:duration=4[out0];sine=frequency=200:duration=4[out1]"


@pytest.fixture(scope="module")
def scorer(bundle):
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none", clip_scores=False) as opened:
        opened.prepare()
        yield opened


@pytest.fixture
def quick(make_bundle):
    """A model that listens to one second at a time."""
    made = make_bundle(
        "quick.taemi",
        preprocessing=replace(PREPROCESSING, audio=replace(PREPROCESSING.audio, max_seconds=1.0)),
    )
    with taemi_runtime.load(made.folder, device="cpu", asr="none", clip_scores=False) as opened:
        opened.prepare()
        yield opened


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "long.mkv"
    return lossless.write(path, lossless.sound(41.0), lossless.pictures(41.0))


def scores(result):
    return np.array(list(result.intensities.values()))


def test_a_fast_machine_scores_every_window_when_its_time_has_come(scorer, long):
    clock = FakeClock()
    results = list(live(scorer, open_live(str(long), scorer.decoder), 2.0, clock))
    same = list(scorer.predict_windows(long, hop=2.0))
    assert [result.start_s for result in results] == [result.start_s for result in same]
    for one, other in zip(results, same, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=SAME)
        assert (one.skipped, one.dropped_frames) == (0, 0)
        assert one.late_s <= 0.2  # a frame and a block of sound
    assert clock.time_s - 1000 == pytest.approx(41.0, abs=0.2)


def test_a_slow_machine_skips_windows_and_counts_them(scorer, long, monkeypatch):
    work = FakeClock()
    make_slow(monkeypatch, scorer, work, "audio", lambda: 5.0)
    session = live(scorer, open_live(str(long), scorer.decoder), 2.0, FakeClock(), work)
    results = list(session)
    # Windows end at 12, 14, ..., 40 and 41 s; each takes 5 s, after which the newest is the next.
    assert [result.end_s for result in results] == [12, 16, 22, 26, 32, 36, 41]
    assert [result.skipped for result in results] == [0, 1, 2, 1, 2, 1, 2]
    assert session.windows.skipped == 9
    assert max(result.late_s for result in results) < 5.0 + 2.0 + 0.2
    assert [result.index for result in results] == list(range(7))
    assert session._feed.most_frames <= MOST_FRAMES
    monkeypatch.undo()
    same = {result.start_s: result for result in scorer.predict_windows(long, hop=2.0)}
    for result in results:
        np.testing.assert_allclose(scores(result), scores(same[result.start_s]), atol=SAME)


def test_a_machine_that_cannot_look_at_every_frame_drops_some_and_counts_them(scorer, long, monkeypatch):
    work = FakeClock()
    make_slow(monkeypatch, scorer, work, "vision", lambda: scorer.encoder.frames_a_call / 2)
    session = live(scorer, open_live(str(long), scorer.decoder), 2.0, FakeClock(), work)
    results = list(session)
    assert session._feed.most_frames <= MOST_FRAMES
    assert session.windows.dropped == sum(result.dropped_frames for result in results) > 0
    # Two frames a second are all that it can do, and those are spread over each window.
    assert all(8 <= result.vision.frames <= 32 for result in results)
    assert all(result.vision.seconds_used > 0 for result in results)
    # What was too slow left no backlog: the last result is about the source's last seconds.
    assert results[-1].end_s == pytest.approx(41.0, abs=0.1)
    assert results[-1].audio.seconds_used == pytest.approx(results[-1].end_s - results[-1].start_s, abs=0.1)


def test_frames_that_nobody_takes_for_long_are_thinned_evenly(scorer, monkeypatch):
    work = FakeClock()
    make_slow(monkeypatch, scorer, work, "audio", lambda: 20.0)
    session = live(scorer, Synthetic(100.0), 2.0, FakeClock(), work)
    results = list(session)
    # 200 frames come while a window is scored.
    assert session._feed.most_frames == MOST_FRAMES
    assert session.windows.dropped > 100
    for result in results[1:]:
        assert 20 <= result.vision.frames < 120
        assert result.vision.seconds_used > 10


class SlowEyes(Synthetic):
    """A source whose every frame takes a while to look at, as face search in large frames does."""

    def __init__(self, length_s: float, clock: FakeClock, look_s: float) -> None:
        super().__init__(length_s)
        self._clock = clock
        self._look_s = look_s

    def events(self, has_time, stop):
        for event in super().events(has_time, stop):
            if isinstance(event, Sight):
                if not has_time():
                    yield Unseen(event.time_s)
                    continue
                self._clock.time_s += self._look_s
            yield event


@pytest.mark.parametrize(("look_s", "least"), [(0.05, 120), (0.3, 30)])
def test_a_source_that_takes_too_long_to_read_keeps_its_pace_by_leaving_frames_out(scorer, look_s, least):
    clock = FakeClock()
    session = live(scorer, SlowEyes(60.0, clock, look_s), 4.0, clock)
    results = list(session)
    assert [result.end_s for result in results] == [12.0 + 4 * k for k in range(13)]
    # A tenth of a second is what each frame may take. Rows stay about a second late at most.
    assert max(result.late_s for result in results) < 1.0 + 2 * look_s + 0.2
    assert all(least <= result.vision.frames <= 120 for result in results)
    assert all(result.audio.seconds_used == 12.0 for result in results)
    assert (session.windows.dropped > 0) == (look_s > 0.1)


def test_sound_that_nobody_takes_becomes_a_gap_and_no_queue(scorer, monkeypatch):
    work = FakeClock()
    waits = iter([100.0])
    make_slow(monkeypatch, scorer, work, "audio", lambda: next(waits, 0.0))
    session = live(scorer, Synthetic(140.0), 2.0, FakeClock(), work)
    most = 0
    for _ in session:
        most = max(most, session.windows.kept[0])
    assert most <= (30 + 12 + 2 + 1) * RATE_HZ
    assert session.windows.skipped >= 40


@pytest.mark.parametrize("gap_s", [3.0, 600.0])
def test_after_a_gap_in_a_file_windows_begin_anew(scorer, tmp_path, gap_s):
    samples, frames = lossless.sound(36.0), lossless.pictures(36.0)
    path = lossless.write(tmp_path / "gap.mkv", samples, frames, jumps=((16.0, gap_s),))
    results = list(scorer.predict_windows(path, hop=4.0))
    back_s = 16 + gap_s
    starts = [result.start_s for result in results]
    assert starts == pytest.approx([0, 4, back_s, back_s + 4, back_s + 8], abs=0.05)
    ends = [result.end_s for result in results]
    assert ends == pytest.approx([12, 16, back_s + 12, back_s + 16, back_s + 20], abs=0.05)
    assert [result.gap_s for result in results] == [None, None, pytest.approx(gap_s, abs=0.05), None, None]
    assert results[2].warnings == (f"nothing came for {gap_s:.1f} s before this window",)
    for result in results:
        moved_s = gap_s if result.start_s >= 16 else 0.0
        piece = lossless.write(
            tmp_path / "cut.mkv",
            cut(samples, result.start_s - moved_s, result.end_s - moved_s, RATE_HZ),
            cut(frames, result.start_s - moved_s, result.end_s - moved_s, FPS),
        )
        np.testing.assert_allclose(scores(result), scores(scorer.predict(piece)), atol=SAME)


def test_timestamps_that_start_over_begin_a_stretch(scorer, tmp_path):
    one = lossless.write(tmp_path / "one.mkv", lossless.sound(14.0), lossless.pictures(14.0))
    with av.open(str(one)) as reader, av.open(str(tmp_path / "one.ts"), "w") as writer:
        video = writer.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = writer.add_stream("mp2", rate=48_000, layout="mono")
        for frame in reader.decode(audio=0, video=0):
            if isinstance(frame, av.AudioFrame):
                for part in av.AudioResampler("s16", "mono", 48_000, 1152).resample(frame):
                    part.pts = None
                    writer.mux(sound.encode(part))
            else:
                for packet in video.encode(frame.reformat(64, 48, "yuv420p")):
                    writer.mux(packet)
        for stream in (video, sound):
            writer.mux(stream.encode(None))
    content = (tmp_path / "one.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(content + content)
    results = list(scorer.predict_windows(tmp_path / "two.ts", hop=20.0))
    assert len(results) == 2
    assert results[1].warnings[0].startswith("the source's timestamps started over before this window")
    assert results[1].start_s >= results[0].end_s - 0.5
    assert results[1].vision.frames == pytest.approx(results[0].vision.frames, abs=3)


def test_a_source_that_ends_and_returns_goes_on_with_its_gap(scorer):
    clock = FakeClock()
    session = live(scorer, NamedSource(CAMERA, scorer.decoder, clock=clock), 2.0, clock)
    results = list(itertools.islice(session, 3))
    assert [result.gap_s is None for result in results] == [True, False, False]
    for before, after in itertools.pairwise(results):
        assert after.start_s - before.end_s == pytest.approx(after.gap_s, abs=1e-6)
        assert "the source stopped (it ended) and came back before this window" in after.warnings
        assert after.vision.frames == 40
        assert after.audio.seconds_used == pytest.approx(4.0, abs=0.01)


def test_a_source_that_stays_away_ends_in_an_error_after_what_it_gave(scorer, monkeypatch):
    clock = FakeClock()
    source = NamedSource(CAMERA, scorer.decoder, clock=clock)
    opened, tries = source._open, []

    def once():
        tries.append(clock.time_s)
        if len(tries) > 1:
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        return opened()

    monkeypatch.setattr(source, "_open", once)
    results = []
    with pytest.raises(MediaError, match=r"it stopped \(Connection refused\) and did not come back for 60 s"):
        results.extend(live(scorer, source, 2.0, clock))
    waits = np.diff(tries)[1:]
    assert waits[0] == pytest.approx(1.0, abs=0.1)
    assert max(waits) == pytest.approx(8.0, abs=0.1)
    assert tries[-1] - tries[1] >= GIVE_UP_S - 8


def test_results_before_an_error_are_given(scorer, monkeypatch):
    clock = FakeClock()
    source = NamedSource(CAMERA, scorer.decoder, clock=clock)
    opened, tries = source._open, []

    def once():
        tries.append(1)
        if len(tries) > 1:
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        return opened()

    monkeypatch.setattr(source, "_open", once)
    session = iter(live(scorer, source, 2.0, clock))
    assert next(session).end_s == pytest.approx(4.0, abs=0.05)
    with pytest.raises(MediaError):
        next(session)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere.mp4", "there is no such file or device"),
        ("nosuchformat:x", "nosuchformat is no input format of FFmpeg"),
        ("", "it is a folder"),
    ],
)
def test_sources_that_are_none_are_refused(scorer, name, found):
    with pytest.raises(MediaError, match=found):
        open_live(name, scorer.decoder)


def test_options_reach_ffmpeg_and_limits_hold_for_named_sources(bundle):
    with taemi_runtime.load(
        bundle.folder, device="cpu", asr="none", limits=DecodeLimits(max_pixels=1000)
    ) as small:
        with pytest.raises(MediaError, match="64 x 48 pixels, more than the limit of 1,000"):
            list(small.predict_live(CAMERA))
        source = open_live("lavfi:testsrc", small.decoder, options={"nosuchoption": "1"})
        assert isinstance(source, NamedSource)
        with pytest.raises(MediaError):
            list(Session(small, source, 2.0, live=True))


def test_the_sound_of_a_fast_microphone_stays_with_its_timestamps(scorer, tmp_path):
    # 20 s of samples whose timestamps say 19.4 s, as of a clock that is 3 % fast.
    samples = lossless.sound(20.0)
    path = tmp_path / "fast.mkv"
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for start in range(0, samples.size, 320):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 320], "s16", "mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = round(start * 0.97)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    clock = FakeClock()
    results = list(live(scorer, NamedSource(f"matroska:{path}", scorer.decoder, clock=clock), 4.0, clock))
    assert results[-1].end_s == pytest.approx(19.4, abs=0.12)
    assert [len(result.warnings) for result in results] == [0, 0, 0]
    # A file's timestamps may be wrong: every sample counts.
    assert list(scorer.predict_windows(path, hop=4.0))[-1].end_s == pytest.approx(20.0, abs=0.01)


def test_an_unreachable_source_says_so_at_once(scorer):
    start = time.monotonic()
    with pytest.raises(
        MediaError, match=r"cannot open tcp://127\.0\.0\.1:1: Connection refused\. --live takes"
    ):
        list(scorer.predict_live("tcp://127.0.0.1:1"))
    assert time.monotonic() - start < 5


def test_a_file_really_plays_at_its_own_pace(quick, tmp_path):
    path = lossless.write(tmp_path / "two.mkv", lossless.sound(2.0), lossless.pictures(2.0))
    start = time.monotonic()
    came_s = []
    for result in quick.predict_live(str(path), hop=0.5):
        came_s.append((result.end_s, time.monotonic() - start))
    assert [end_s for end_s, _ in came_s] == [1.0, 1.5, 2.0]
    assert all(at_s >= end_s - 0.05 for end_s, at_s in came_s)


def test_closing_a_live_iterator_stops_its_thread(quick):
    found = quick.predict_live("lavfi:sine=frequency=200", hop=0.25)
    assert next(found).end_s == 1.0
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "taemi-source"]


def test_a_pipe_in_the_file_system_is_a_live_source(quick, tmp_path):
    import os

    path = lossless.write(tmp_path / "one.mkv", lossless.sound(1.5), lossless.pictures(1.5))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    found = quick.predict_live(str(pipe), hop=0.5)
    assert next(found).vision.frames == 10
    found.close()
    writer.join()
    assert isinstance(open_live(str(pipe), quick.decoder), NamedSource)
    assert isinstance(open_live(str(path), quick.decoder), FileSource)
    assert Path(open_live(str(path), quick.decoder).name) == path


_SENDER = """
import sys, time, av, numpy as np
from fractions import Fraction
time.sleep(float(sys.argv[3]))
with av.open(f"udp://127.0.0.1:{sys.argv[1]}?pkt_size=1316", "w", format="mpegts") as writer:
    video = writer.add_stream("mpeg2video", rate=25)
    video.width, video.height, video.pix_fmt, video.gop_size = 64, 48, "yuv420p", 5
    sound = writer.add_stream("mp2", rate=16000, layout="mono")
    start, blocks = time.monotonic(), 0
    for index in range(int(sys.argv[2])):
        grey = np.full((48, 64, 3), index % 200, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey).reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        writer.mux(video.encode(frame))
        while blocks * 1152 / 16000 < index / 25:
            wave = (8000 * np.sin(np.arange(1152) / 9)).astype(np.int16)
            block = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
            block.sample_rate, block.pts, block.time_base = 16000, blocks * 1152, Fraction(1, 16000)
            writer.mux(sound.encode(block))
            blocks += 1
        time.sleep(max(0, start + index / 25 - time.monotonic()))
"""


@pytest.mark.slow
def test_a_network_stream_that_stops_and_returns(quick):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quick.decoder = replace(quick.decoder, limits=DecodeLimits(max_decode_seconds=80))
    command = [sys.executable, "-c", _SENDER, str(port), "150"]
    senders = [subprocess.Popen([*command, "0"])]
    found = []
    for result in quick.predict_live(f"udp://127.0.0.1:{port}", hop=0.5):
        found.append(result)
        if len(senders) == 1 and result.end_s > 4.5:
            senders[0].wait()
            senders.append(subprocess.Popen([*command, "1"]))
        if len(senders) == 2 and any(one.gap_s is not None for one in found[:-1]):
            break
    for sender in senders:
        sender.kill()
        sender.wait()
    (back,) = [one for one in found if one.gap_s is not None]
    # The second sender waited for a second; what its first packets' stamps reach back is no gap.
    assert back.gap_s > 0.5
    assert found[-1].late_s < 0.5 + back.gap_s / 2  # the stop did not make what follows late
    assert back.start_s == pytest.approx(found[found.index(back) - 1].end_s + back.gap_s, abs=0.6)
    assert all(one.vision.frames >= 15 and one.audio.seconds_used > 0.5 for one in found if not one.partial)
