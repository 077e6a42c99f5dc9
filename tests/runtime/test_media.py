"""Reading clips: real files of many kinds, encoded here."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from taemi_runtime.media import read_clip
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing, VisionPreprocessing
from tests.runtime.made_clips import (
    CORNERS,
    ONE,
    PREPROCESSING,
    TONE_HZ,
    Recipe,
    grey,
    levels,
    make,
    peak_hz,
    write_wav,
)


@pytest.mark.parametrize(
    ("suffix", "recipe"),
    [
        ("mp4", Recipe()),
        ("mp4", Recipe(rate_hz=44_100, layout="stereo")),
        ("mp4", Recipe(rate_hz=48_000, layout="5.1")),
        ("mov", Recipe(rate_hz=48_000)),
        ("mkv", Recipe(rate_hz=8_000)),
        ("webm", Recipe(rate_hz=48_000, video_codec="libvpx", audio_codec="libopus")),
        ("avi", Recipe(rate_hz=44_100, video_codec="mpeg4", audio_codec="libmp3lame")),
    ],
)
def test_ordinary_containers_give_a_tone_and_every_frame(suffix: str, recipe: Recipe, tmp_path: Path) -> None:
    clip = read_clip(make(tmp_path / f"clip.{suffix}", recipe), PREPROCESSING)
    assert clip.waveform is not None
    assert clip.frames is not None
    assert clip.waveform.dtype == np.float32
    assert clip.waveform.size == pytest.approx(32_000, abs=1_200)
    # Channels are averaged, so the level does not depend on their number (5.1 has a silenced bass channel).
    assert np.sqrt(np.mean(clip.waveform[4_000:28_000] ** 2)) == pytest.approx(0.5 / 2**0.5, rel=0.2)
    assert peak_hz(clip.waveform) == pytest.approx(TONE_HZ, abs=2)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (50, 3, 32, 32)
    np.testing.assert_allclose(levels(clip), [grey(index) for index in range(50)], atol=6)
    assert clip.seconds == pytest.approx(2.0, abs=0.15)
    assert clip.audio_seconds == clip.waveform.size / 16_000
    assert clip.vision_seconds == pytest.approx(2.0, abs=0.05)
    assert (clip.audio_truncated, clip.vision_truncated) == (False, False)
    assert (clip.audio_why, clip.vision_why, clip.warnings) == ("", "", ())


@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz"),
    [("wav", "pcm_s16le", 22_050), ("mp3", "libmp3lame", 44_100), ("m4a", "aac", 16_000)],
)
def test_sound_alone_is_a_clip_without_vision(suffix: str, codec: str, rate_hz: int, tmp_path: Path) -> None:
    recipe = Recipe(fps=0, rate_hz=rate_hz, audio_codec=codec)
    clip = read_clip(make(tmp_path / f"sound.{suffix}", recipe), PREPROCESSING)
    assert clip.waveform is not None
    assert peak_hz(clip.waveform) == pytest.approx(TONE_HZ, abs=2)
    assert clip.frames is None
    assert clip.vision_why == "the clip has no video track"
    assert clip.vision_seconds == 0


def test_pictures_alone_are_a_clip_without_audio(tmp_path: Path) -> None:
    clip = read_clip(make(tmp_path / "silent.mp4", Recipe(rate_hz=0)), PREPROCESSING)
    assert clip.waveform is None
    assert clip.audio_why == "the clip has no audio track"
    assert clip.audio_seconds == 0
    assert clip.frames is not None
    assert len(clip.frames) == 50


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    sound = read_clip(path, PREPROCESSING, vision=False)
    sight = read_clip(path, PREPROCESSING, audio=False)
    assert (sound.frames, sound.vision_why) == (None, "video was not asked for")
    assert (sight.waveform, sight.audio_why) == (None, "audio was not asked for")
    both = read_clip(path, PREPROCESSING)
    assert sound.waveform is not None
    assert sight.frames is not None
    np.testing.assert_array_equal(sound.waveform, both.waveform)
    np.testing.assert_array_equal(sight.frames, both.frames)


def test_sixteen_bit_samples_at_the_right_rate_are_kept_exactly(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_767, (5_000, 1))
    clip = read_clip(write_wav(tmp_path / "a.wav", samples, 16_000), PREPROCESSING)
    assert clip.waveform is not None
    np.testing.assert_allclose(clip.waveform, samples[:, 0] / 32_768, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_are_averaged(channels: int, tmp_path: Path) -> None:
    # Three and five channels are written without a named layout, as recorders do.
    samples = np.random.default_rng(channels).integers(-20_000, 20_000, (4_000, channels))
    clip = read_clip(write_wav(tmp_path / "a.wav", samples, 16_000), PREPROCESSING)
    assert clip.waveform is not None
    np.testing.assert_allclose(clip.waveform, samples.mean(axis=1) / 32_768, atol=1e-6)


def test_twelve_seconds_and_four_hundred_frames_are_kept(tmp_path: Path) -> None:
    clip = read_clip(make(tmp_path / "long.mp4", Recipe(seconds=18)), PREPROCESSING)
    assert clip.waveform is not None
    assert clip.frames is not None
    assert clip.waveform.size == 192_000
    assert len(clip.frames) == 400
    assert (clip.audio_truncated, clip.vision_truncated) == (True, True)
    assert (clip.audio_seconds, clip.vision_seconds) == (12.0, pytest.approx(16.0))
    assert clip.seconds == pytest.approx(18.0, abs=0.1)


def test_a_clip_of_exactly_the_limits_is_not_truncated(tmp_path: Path) -> None:
    limits = Preprocessing(
        audio=AudioPreprocessing(max_seconds=2.0),
        vision=VisionPreprocessing(height=8, width=8, max_frames=50),
    )
    clip = read_clip(make(tmp_path / "clip.mp4"), limits)
    assert clip.waveform is not None
    assert clip.frames is not None
    assert (clip.waveform.size, len(clip.frames)) == (32_000, 50)
    assert (clip.audio_truncated, clip.vision_truncated) == (False, False)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    code = (
        "import gc, resource, sys; from pathlib import Path; from taemi_runtime.media import read_clip\n"
        "from taemi_runtime.preprocessing import *\n"
        "gc.disable()  # frames in reference cycles would pile up\n"
        "small = AudioPreprocessing(max_seconds=0.5), VisionPreprocessing(height=8, width=8)\n"
        "clip = read_clip(Path(sys.argv[1]), Preprocessing(*small))\n"
        "print(len(clip.frames), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks_mib = []
    for seconds in (4, 16):
        path = make(tmp_path / f"{seconds}.mp4", Recipe(seconds=seconds, size=(640, 480)))
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        frames, peak_mib = map(int, done.stdout.split())
        assert frames == seconds * 25
        peaks_mib.append(peak_mib)
    # 300 more frames of 640 x 480 are 132 MiB as decoded and 264 MiB as RGB.
    assert peaks_mib[1] < peaks_mib[0] + 40


@pytest.mark.parametrize(
    ("max_fps", "step"), [(None, 1), (30.0, 1), (60.0, 1), (15.0, 2), (10.0, 3), (6.0, 5)]
)
def test_frames_are_sampled_on_a_grid_of_timestamps(max_fps: float | None, step: int, tmp_path: Path) -> None:
    # webm rounds timestamps to milliseconds: 0, 33, 67, 100, ...
    recipe = Recipe(seconds=1, fps=30, rate_hz=0, video_codec="libvpx")
    preprocessing = Preprocessing(vision=VisionPreprocessing(height=8, width=8, max_fps=max_fps))
    clip = read_clip(make(tmp_path / "clip.webm", recipe), preprocessing)
    np.testing.assert_allclose(levels(clip), [grey(index) for index in range(0, 30, step)], atol=6)
    assert clip.vision_seconds == pytest.approx(1.0, abs=0.01)


def test_a_varying_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    path = tmp_path / "varying.mp4"
    times_ms = [0, 10, 20, 30, 500, 510, 1000, 1490, 1500]
    with av.open(str(path), "w") as container:
        video = container.add_stream("h264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey(index), dtype=np.uint8))
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    preprocessing = Preprocessing(vision=VisionPreprocessing(height=8, width=8, max_fps=2.0))
    clip = read_clip(path, preprocessing)
    np.testing.assert_allclose(levels(clip), [grey(index) for index in (0, 4, 6, 8)], atol=6)


@pytest.mark.parametrize(
    ("matrix", "corners"),
    [
        ((ONE, 0, 0, ONE), [[30, 90], [150, 210]]),
        ((0, ONE, -ONE, 0), [[150, 30], [210, 90]]),  # a phone held upright: a quarter turn clockwise
        ((-ONE, 0, 0, -ONE), [[210, 150], [90, 30]]),
        ((0, -ONE, ONE, 0), [[90, 210], [30, 150]]),
        ((-ONE, 0, 0, ONE), [[90, 30], [210, 150]]),  # a mirror image, as front cameras write
        ((ONE, 0, 0, -ONE), [[150, 210], [30, 90]]),
        ((0, ONE, ONE, 0), [[30, 150], [90, 210]]),
        ((0, -ONE, -ONE, 0), [[210, 90], [150, 30]]),
    ],
)
def test_frames_stand_upright(
    matrix: tuple[int, int, int, int], corners: list[list[int]], tmp_path: Path
) -> None:
    a, b, c, d = matrix
    recipe = Recipe(seconds=0.2, rate_hz=0, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30), pixels=CORNERS)
    clip = read_clip(make(tmp_path / "turned.mp4", recipe), PREPROCESSING)
    assert clip.frames is not None
    np.testing.assert_allclose(clip.frames[-1, 0][8::16, 8::16], corners, atol=6)


def test_colours_survive(tmp_path: Path) -> None:
    bars = np.zeros((48, 96, 3), dtype=np.uint8)
    bars[:, :32], bars[:, 32:64], bars[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    recipe = Recipe(seconds=0.2, rate_hz=0, size=(96, 48), pixels=bars)
    clip = read_clip(make(tmp_path / "bars.mp4", recipe), PREPROCESSING)
    assert clip.frames is not None
    middle = clip.frames[0][:, 16, [5, 16, 26]].T
    np.testing.assert_allclose(middle, [(200, 40, 40), (40, 200, 40), (40, 40, 200)], atol=12)


def test_audio_that_starts_late_follows_silence(tmp_path: Path) -> None:
    clip = read_clip(make(tmp_path / "late.mkv", Recipe(audio_delay_s=0.5)), PREPROCESSING)
    assert clip.waveform is not None
    assert not clip.waveform[:7_500].any()
    assert np.abs(clip.waveform[8_500:12_000]).max() > 0.4
    assert clip.audio_seconds == pytest.approx(2.5, abs=0.08)


def test_audio_that_starts_after_everything_used_is_missing(tmp_path: Path) -> None:
    preprocessing = Preprocessing(audio=AudioPreprocessing(max_seconds=0.4))
    clip = read_clip(make(tmp_path / "late.mkv", Recipe(audio_delay_s=0.5)), preprocessing)
    assert clip.waveform is None
    assert "begins after" in clip.audio_why


def test_a_late_picture_is_sampled_by_the_clips_clock(tmp_path: Path) -> None:
    preprocessing = Preprocessing(vision=VisionPreprocessing(height=8, width=8, max_fps=5.0))
    clip = read_clip(make(tmp_path / "late.mkv", Recipe(video_delay_s=0.4, seconds=1.0)), preprocessing)
    np.testing.assert_allclose(levels(clip), [grey(index) for index in (0, 5, 10, 15, 20)], atol=6)
