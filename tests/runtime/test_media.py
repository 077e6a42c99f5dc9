"""Reading clips: real files of many kinds, encoded here, and files that are no clips."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from taemi_runtime.errors import MediaError
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing, VisionPreprocessing

PREPROCESSING = Preprocessing(vision=VisionPreprocessing(height=32, width=32))
TONE_HZ = 440


@dataclass
class Recipe:
    """What a test clip is made of; a rate of 0 leaves the track out."""

    seconds: float = 2.0
    fps: int = 25
    size: tuple[int, int] = (64, 48)
    rate_hz: int = 16_000
    layout: str = "mono"
    video_codec: str = "h264"
    audio_codec: str = "aac"
    audio_delay_s: float = 0.0
    video_delay_s: float = 0.0
    pix_fmt: str = "yuv420p"
    matrix: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None


def tone(rate_hz: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(
        np.float32
    )


def grey(index: int) -> int:
    """The grey level of a frame, which tells frames apart after coding."""
    return 20 + 8 * (index % 27)


def make(path: Path, recipe: Recipe | None = None, waveform: np.ndarray | None = None) -> Path:
    """Encode a clip: grey frames that brighten, and a tone on every channel."""
    recipe = recipe or Recipe()
    with av.open(str(path), "w") as container:
        video = audio = None
        if recipe.fps:
            video = container.add_stream(recipe.video_codec, rate=recipe.fps)
            video.width, video.height = recipe.size
            video.pix_fmt = recipe.pix_fmt
            if recipe.matrix:
                video.set_display_matrix(recipe.matrix)
        if recipe.rate_hz:
            audio = container.add_stream(recipe.audio_codec, rate=recipe.rate_hz, layout=recipe.layout)
        if video is not None:
            shift = round(recipe.video_delay_s * recipe.fps)
            for index in range(round(recipe.seconds * recipe.fps)):
                pixels = recipe.pixels
                if pixels is None:
                    pixels = np.full((*recipe.size[::-1], 3), grey(index), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts = index + shift
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            if waveform is None:
                channels = audio.codec_context.layout.nb_channels
                waveform = np.repeat(tone(recipe.rate_hz, recipe.seconds)[None], channels, axis=0)
            frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=recipe.layout)
            frame.sample_rate = recipe.rate_hz
            frame.time_base = Fraction(1, recipe.rate_hz)
            frame.pts = round(recipe.audio_delay_s * recipe.rate_hz)
            fit = av.AudioResampler(
                audio.codec_context.format.name,
                recipe.layout,
                recipe.rate_hz,
                audio.codec_context.frame_size or 1024,
            )
            for part in fit.resample(frame) + fit.resample(None):
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    """Write [samples, channels] int16."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(samples.shape[1])
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes(samples.astype("<i2").tobytes())
    return path


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size)))
    return float(np.fft.rfftfreq(waveform.size, 1 / 16_000)[spectrum.argmax()])


def levels(clip: Clip) -> np.ndarray:
    assert clip.frames is not None
    return clip.frames.mean(axis=(1, 2, 3))


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


ONE = 65_536
CORNERS = np.zeros((48, 64, 3), dtype=np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32], CORNERS[24:, 32:] = 30, 90, 150, 210


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


def test_damage_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=4))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3_000] = bytes(3_000)
    path.write_bytes(content)
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is not None
    assert clip.frames is not None
    assert clip.audio_seconds > 1
    assert len(clip.frames) > 25
    assert clip.warnings
    np.testing.assert_allclose(levels(clip)[:20], [grey(index) for index in range(20)], atol=6)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4"])
def test_a_file_that_breaks_off_keeps_its_beginning(suffix: str, tmp_path: Path) -> None:
    codecs = (
        {"video_codec": "libvpx", "audio_codec": "libopus", "rate_hz": 48_000} if suffix == "webm" else {}
    )
    path = make(tmp_path / f"clip.{suffix}", Recipe(seconds=4, **codecs))
    content = path.read_bytes()
    if suffix == "mp4":
        content = with_index_first(content)
    path.write_bytes(content[: len(content) * 6 // 10])
    clip = read_clip(path, PREPROCESSING)
    assert clip.frames is not None
    assert clip.waveform is not None
    assert 1 < clip.audio_seconds < 3.5
    assert any("ends after" in warning or "breaks off" in warning for warning in clip.warnings)


def with_index_first(content: bytes) -> bytes:
    """Rewrite an mp4 so that its index stands before the media, as files for the web have it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.mp4", Path(folder) / "b.mp4"
        source.write_bytes(content)
        with (
            av.open(str(source)) as reader,
            av.open(str(target), "w", options={"movflags": "faststart"}) as writer,
        ):
            streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
            for packet in reader.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)
        return target.read_bytes()


def test_numbers_that_are_not_finite_count_as_silence(tmp_path: Path) -> None:
    waveform = tone(16_000, 1.0)[None].copy()
    waveform[0, 100:110] = np.nan
    waveform[0, 200] = np.inf
    recipe = Recipe(fps=0, audio_codec="pcm_f32le", seconds=1)
    clip = read_clip(make(tmp_path / "nan.wav", recipe, waveform), PREPROCESSING)
    assert clip.waveform is not None
    assert np.isfinite(clip.waveform).all()
    assert clip.warnings == ("11 samples of the audio track are NaN or infinite and count as silence",)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, dtype=np.uint8))))
        frame = av.AudioFrame.from_ndarray(tone(16_000, 0.064)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is not None
    assert clip.frames is None
    assert clip.vision_why == "the clip has no video track, only a cover picture"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("text.mp4", b"this is a text, not a clip\n" * 40, "no audio or video"),
        ("notes.txt", b"this is a text, not a clip\n" * 40, "no audio or video"),
        ("empty.mp4", b"", "empty (0 bytes)"),
        ("noise.mp4", np.random.default_rng(0).bytes(60_000), ""),
        ("noise.mp3", np.random.default_rng(1).bytes(60_000), ""),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n", ""),
        ("list.ffconcat", b"ffconcat version 1.0\nfile clip.mp4\n", "no audio or video container"),
        ("list.mp4", b"ffconcat version 1.0\nfile clip.mp4\n", "no audio or video container"),
    ],
)
def test_what_is_no_media_is_an_error_in_three_parts(
    name: str, content: bytes, found: str, tmp_path: Path
) -> None:
    # The files that the playlists name exist, so that following them would succeed.
    make(tmp_path / "clip.mp4", Recipe(seconds=0.2))
    make(tmp_path / "clip.ts", Recipe(seconds=0.2))
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_clip(path, PREPROCESSING)
    assert caught.value.asked == f"cannot read {path} as media"
    assert found in caught.value.found
    assert caught.value.found
    assert "mp4" in caught.value.fix


def test_missing_files_and_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_clip(tmp_path / "none.mp4", PREPROCESSING)
    with pytest.raises(MediaError, match="folder"):
        read_clip(tmp_path, PREPROCESSING)
    # A URL is a path like any other here.
    with pytest.raises(MediaError, match="no such file"):
        read_clip(Path("http://localhost/clip.mp4"), PREPROCESSING)


def test_an_mp4_without_its_index_is_called_incomplete(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:3_000])
    with pytest.raises(MediaError, match="incomplete"):
        read_clip(path, PREPROCESSING)


def test_a_track_that_cannot_be_decoded_is_missing_beside_one_that_can(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=1, rate_hz=48_000, audio_codec="libopus"))
    # Another codec's name over the same packets.
    content = path.read_bytes().replace(b"A_OPUS", b"A_FLAC")
    path.write_bytes(content)
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is None
    assert clip.audio_why == "nothing of the audio track can be decoded"
    assert clip.frames is not None
    assert any("damaged packets of the audio track" in warning for warning in clip.warnings)


def test_a_codec_without_a_decoder_is_a_missing_modality(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=1, rate_hz=48_000, audio_codec="libopus"))
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_NONE"))
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is None
    assert clip.audio_why
    assert clip.frames is not None


def test_tracks_that_appear_midway_do_not_stop_it(tmp_path: Path) -> None:
    # Half way, the sound goes on under another number, which nothing announced.
    path = make(tmp_path / "clip.ts", Recipe(seconds=8, rate_hz=48_000))
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 376 * 188, len(content), 188):
        number = (content[start + 1] & 0x1F) << 8 | content[start + 2]
        begins_a_packet = content[start + 1] & 0x40
        if number == 257 and begins_a_packet:
            content[start + 2] = 0x2C
    path.write_bytes(content)
    clip = read_clip(path, PREPROCESSING)
    assert clip.frames is not None
    assert clip.waveform is not None
    assert len(clip.frames) == 200
    assert 3 < clip.audio_seconds < 8


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "ts"])
def test_random_damage_gives_a_clip_or_a_media_error(suffix: str, tmp_path: Path) -> None:
    codecs = {
        "webm": {"video_codec": "libvpx", "audio_codec": "libopus", "rate_hz": 48_000},
        "avi": {"video_codec": "mpeg4", "audio_codec": "libmp3lame", "rate_hz": 44_100},
        "ts": {"rate_hz": 48_000},
    }
    content = make(tmp_path / f"whole.{suffix}", Recipe(seconds=1, **codecs.get(suffix, {}))).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    outcomes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        # Headers and media in turn.
        reach = 3_000 if seed % 2 else len(content)
        for place in rng.integers(0, min(reach, len(content)), 12):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            clip = read_clip(path, PREPROCESSING)
        except MediaError:
            outcomes.add("error")
            continue
        outcomes.add("clip")
        assert (clip.waveform is None) == bool(clip.audio_why)
        assert (clip.frames is None) == bool(clip.vision_why)
        assert clip.waveform is None or np.isfinite(clip.waveform).all()
    assert "clip" in outcomes


def test_odd_file_names_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data:clip.mp4", "a b%d'\".mp4", "-i.mp4", "gr\u00fc\u00df\U0001f600.mp4"):
        make(tmp_path / "clip.mp4", Recipe(seconds=0.2)).rename(tmp_path / name)
        assert read_clip(Path(name), PREPROCESSING).waveform is not None


def test_reading_says_nothing_on_stderr(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=2))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2_000] = bytes(2_000)
    path.write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from taemi_runtime.media import read_clip\n"
        "from taemi_runtime.preprocessing import Preprocessing\n"
        "print(len(read_clip(Path(sys.argv[1]), Preprocessing()).warnings))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert int(done.stdout) > 0
