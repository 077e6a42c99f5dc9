"""Clips that are damaged, gappy, of one picture, or longer than what is used: what is said about them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from taemi_runtime.errors import MediaError
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing, VisionPreprocessing
from tests.runtime.made_clips import (
    PREPROCESSING,
    SAME_CODE,
    Recipe,
    levels,
    make,
    rewrite,
    tone,
    with_index_first,
)


def lost_seconds(clip: Clip, about: str) -> float:
    """The seconds that the warning about something gives as lost."""
    found = [
        re.search(r"([\d.]+) s of (?:it|[\d.]+ s) are lost", item) for item in clip.warnings if about in item
    ]
    assert found, clip.warnings
    assert found[0], clip.warnings
    return float(found[0][1])


def test_a_gap_in_the_sound_is_silence_of_its_length(tmp_path: Path) -> None:
    source = make(tmp_path / "whole.mkv", Recipe(fps=0, audio_codec="pcm_s16le", seconds=3))
    path = rewrite(source, tmp_path / "gap.mkv", lambda _, time_s: not 1 <= time_s < 2)
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is not None
    quiet = np.flatnonzero(np.convolve(np.abs(clip.waveform) < 1e-4, np.ones(200), "same") == 200)
    assert quiet.size / 16_000 == pytest.approx(1.0, abs=0.1)
    assert quiet[0] / 16_000 == pytest.approx(1.0, abs=0.1)
    # What follows the gap is where it was.
    whole = read_clip(source, PREPROCESSING).waveform
    assert whole is not None
    np.testing.assert_allclose(clip.waveform[36_000:47_000], whole[36_000:47_000], atol=1e-3)
    assert clip.audio_seconds == pytest.approx(3.0, abs=0.01)
    (warning,) = clip.warnings
    assert re.fullmatch(
        r"the audio track has gaps of (0\.9|1\.0)\d s in all, which count as silence", warning
    )


def test_timestamps_that_jitter_leave_no_gaps(tmp_path: Path) -> None:
    source = make(tmp_path / "even.mkv", Recipe(fps=0, audio_codec="pcm_s16le", seconds=3))
    rng = np.random.default_rng(3)
    jagged = rewrite(
        source,
        tmp_path / "jagged.mkv",
        lambda *_: True,
        lambda _, time_s: rng.uniform(0, 0.05) * (time_s > 0),
    )
    even, clip = read_clip(source, PREPROCESSING), read_clip(jagged, PREPROCESSING)
    assert even.waveform is not None
    assert clip.waveform is not None
    np.testing.assert_array_equal(clip.waveform, even.waveform)
    assert clip.warnings == ()


def test_sound_that_ends_early_is_as_long_as_it_is(tmp_path: Path) -> None:
    path = rewrite(
        make(tmp_path / "whole.mp4", Recipe(seconds=4)),
        tmp_path / "early.mp4",
        lambda kind, time_s: kind == "video" or time_s < 1.5,
    )
    clip = read_clip(path, PREPROCESSING)
    assert clip.audio_seconds == pytest.approx(1.5, abs=0.1)
    assert clip.vision_seconds == pytest.approx(4.0, abs=0.05)
    assert clip.seconds == pytest.approx(4.0, abs=0.1)
    assert not clip.audio_truncated
    assert clip.warnings == ()


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_file_that_breaks_off_says_how_much_is_lost(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"clip.{suffix}", Recipe(seconds=6))
    content = with_index_first(path.read_bytes()) if suffix == "mp4" else path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    clip = read_clip(path, PREPROCESSING)
    used_s = max(clip.audio_seconds, clip.vision_seconds)
    assert 1 < used_s < 5
    assert lost_seconds(clip, "the file") == pytest.approx(6 - used_s, abs=0.4)


def test_a_file_that_breaks_off_after_what_is_used_is_as_good_as_whole(tmp_path: Path) -> None:
    short = Preprocessing(AudioPreprocessing(max_seconds=1), VisionPreprocessing(16, 16, max_frames=20))
    path = make(tmp_path / "clip.mkv", Recipe(seconds=6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert not [item for item in read_clip(path, short).warnings if "lost" in item]


def test_damaged_packets_say_how_much_of_their_track_is_lost(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mkv", Recipe(seconds=4, video_codec="ffv1", audio_codec="flac"))
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [
            (p.pos, p.size, p.stream.type, float(p.pts * p.time_base)) for p in container.demux() if p.size
        ]
    for at, size, _, time_s in places:
        if 1 <= time_s < 2:
            content[at + 8 : at + size] = bytes(255 for _ in range(size - 8))
    path = tmp_path / "damaged.mkv"
    path.write_bytes(content)
    clip = read_clip(path, PREPROCESSING)
    assert clip.frames is not None
    assert clip.waveform is not None
    # Pictures after the damage wait for the next one that stands for itself, half a second later at most.
    assert 0.9 < lost_seconds(clip, "of the video track") < 1.6
    assert lost_seconds(clip, "of the audio track") == pytest.approx(1.0, abs=0.4)
    whole = read_clip(source, PREPROCESSING)
    assert whole.waveform is not None
    assert clip.audio_seconds == pytest.approx(whole.audio_seconds, abs=0.05)
    np.testing.assert_allclose(clip.waveform[:14_000], whole.waveform[:14_000], atol=1e-4)
    np.testing.assert_allclose(clip.waveform[40_000:60_000], whole.waveform[40_000:60_000], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "gif")]
)
def test_a_still_image_is_a_clip_of_one_picture_and_says_so(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"still.{suffix}"
    Image.fromarray(np.full((48, 64, 3), 120, dtype=np.uint8)).save(path, name)
    for given in (path, path.rename(tmp_path / "still.mp4")):
        clip = read_clip(tmp_path / "still.mp4" if not given.exists() else given, PREPROCESSING)
        assert clip.frames is not None
        np.testing.assert_allclose(levels(clip), [120], atol=6)
        assert clip.waveform is None
        assert clip.audio_why == "the clip has no audio track"
        assert clip.warnings == ("the video is a single picture",)
        assert 0 < clip.vision_seconds <= 0.1


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_photographs_are_read_whatever_their_name(suffix: str, tmp_path: Path) -> None:
    # By such a name FFmpeg would take large ones for the beginning of a picture sequence.
    rng = np.random.default_rng(2)
    grain = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for name in (f"photo.{suffix}", "photo.mp4", "photo001"):
        Image.fromarray(grain).save(tmp_path / name, "JPEG" if suffix == "jpg" else "TIFF")
        clip = read_clip(tmp_path / name, PREPROCESSING)
        assert clip.frames is not None
        assert clip.warnings == ("the video is a single picture",)
    Image.fromarray(grain).convert("CMYK").save(tmp_path / "print.jpg")
    assert read_clip(tmp_path / "print.jpg", PREPROCESSING).frames is not None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_stands_upright_as_its_exif_says(orientation: int, tmp_path: Path) -> None:
    corners = np.zeros((48, 64, 3), dtype=np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = 80, 160, 240
    picture = Image.fromarray(corners)
    exif = picture.getexif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    picture.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    clip = read_clip(tmp_path / "photo.jpg", PREPROCESSING)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg")).resize((32, 32))
    assert clip.frames is not None
    found = clip.frames[0].transpose(1, 2, 0).astype(int)
    for row, column in ((6, 6), (6, 25), (25, 6), (25, 25)):
        np.testing.assert_allclose(found[row, column], np.array(upright)[row, column], atol=12)


@pytest.mark.parametrize("suffix", ["wav", "avi"])
def test_a_riff_file_that_breaks_off_says_how_much_is_lost(suffix: str, tmp_path: Path) -> None:
    recipes = {
        "wav": Recipe(fps=0, audio_codec="pcm_s16le", seconds=4),
        "avi": Recipe(video_codec="mpeg4", audio_codec="libmp3lame", rate_hz=44_100, seconds=4),
    }
    source = make(tmp_path / f"whole.{suffix}", recipes[suffix])
    assert read_clip(source, PREPROCESSING).warnings == ()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    clip = read_clip(cut, PREPROCESSING)
    assert lost_seconds(clip, "the file ends after") == pytest.approx(2, abs=0.6)
    # What streaming programs write where they do not know the length.
    for unknown in (0, 0xFFFFFFFF, 0x7FFFF024):
        content = source.read_bytes()
        cut.write_bytes(content[:4] + unknown.to_bytes(4, "little") + content[8:])
        assert read_clip(cut, PREPROCESSING).warnings == ()


def test_a_track_that_breaks_off_beside_a_whole_one_is_said(tmp_path: Path) -> None:
    # In one long fragment the sound lies behind the pictures: cut there, the pictures are whole.
    whole = make(tmp_path / "whole.mp4", Recipe(seconds=4))
    behind = tmp_path / "behind.mp4"
    options = {"movflags": "empty_moov+delay_moov", "frag_duration": "60000000"}
    with av.open(str(whole)) as reader, av.open(str(behind), "w", options=options) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
    assert read_clip(behind, PREPROCESSING).warnings == ()
    content = behind.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) * 3 // 4])
    clip = read_clip(cut, PREPROCESSING)
    assert clip.frames is not None
    assert len(clip.frames) > 95
    assert clip.audio_seconds < 3
    lost_s = lost_seconds(clip, "the audio track ends after")
    assert lost_s == pytest.approx(4 - clip.audio_seconds, abs=0.15)


def test_a_clip_of_one_frame_keeps_its_sound_and_says_so(tmp_path: Path) -> None:
    path = rewrite(
        make(tmp_path / "whole.mp4", Recipe(seconds=1)),
        tmp_path / "one.mp4",
        lambda kind, time_s: kind == "audio" or time_s < 0.02,
    )
    clip = read_clip(path, PREPROCESSING)
    assert clip.frames is not None
    assert len(clip.frames) == 1
    assert clip.audio_seconds == pytest.approx(1.0, abs=0.1)
    assert clip.warnings == ("the video is a single picture",)


def test_one_frame_of_many_is_no_single_picture(tmp_path: Path) -> None:
    slow = Preprocessing(vision=VisionPreprocessing(16, 16, max_fps=0.5))
    clip = read_clip(make(tmp_path / "clip.mp4", Recipe(seconds=1)), slow)
    assert clip.frames is not None
    assert len(clip.frames) == 1
    assert clip.warnings == ()


def test_an_animated_picture_is_a_silent_clip(tmp_path: Path) -> None:
    pictures = [Image.fromarray(np.full((48, 64, 3), level, dtype=np.uint8)) for level in (40, 90, 140)]
    path = tmp_path / "moving.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    clip = read_clip(path, PREPROCESSING)
    np.testing.assert_allclose(levels(clip), [40, 90, 140], atol=8)
    assert clip.vision_seconds == pytest.approx(0.3, abs=0.05)
    assert clip.warnings == ()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    small = Preprocessing(AudioPreprocessing(max_seconds=1.5), VisionPreprocessing(16, 16, max_frames=30))
    clip = read_clip(make(tmp_path / "long.mp4", Recipe(seconds=3)), small)
    assert clip.warnings == (
        "the audio goes on after the first 1.5 s; the rest is not used",
        "the video goes on after the first 30 frames; the rest is not used",
    )
    assert (clip.audio_seconds, clip.vision_seconds) == (1.5, pytest.approx(1.2))


def test_gaps_and_rates_that_change_midway(tmp_path: Path) -> None:
    """Two recordings in one transport stream, the second at another rate and layout."""
    first = make(tmp_path / "a.ts", Recipe(seconds=1, rate_hz=48_000))
    second = make(tmp_path / "b.ts", Recipe(seconds=1, rate_hz=44_100, layout="stereo"))
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is not None
    assert clip.frames is not None
    assert clip.audio_seconds == pytest.approx(2.0, abs=0.3)
    assert len(clip.frames) >= 49


def test_a_beginning_that_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=2, rate_hz=0, video_codec="mpeg4"))
    with av.open(str(path)) as container:
        at, size = next((p.pos, p.size) for p in container.demux() if p.size)
    content = bytearray(path.read_bytes())
    content[at + 4 : at + size + 4] = bytes(size)
    path.write_bytes(content)
    clip = read_clip(path, PREPROCESSING)
    assert clip.frames is not None
    assert any("lost" in item for item in clip.warnings)


def test_nothing_before_the_damage_is_an_error_with_its_extent(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Recipe(seconds=2, rate_hz=0))
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux() if p.size]
    content = bytearray(path.read_bytes())
    for at, size in places:
        content[at + 4 : at + size] = bytes(size - 4)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="nothing of the video track can be decoded"):
        read_clip(path, PREPROCESSING)


def test_tone_is_what_it_was(tmp_path: Path) -> None:
    path = make(tmp_path / "tone.flac", Recipe(fps=0, audio_codec="flac", rate_hz=96_000, seconds=1))
    clip = read_clip(path, PREPROCESSING)
    assert clip.waveform is not None
    np.testing.assert_allclose(clip.waveform[2_000:14_000], tone(16_000, 1.0)[2_000:14_000], atol=0.01)


def repeat(source: Path, target: Path, times: int, sound_until_s: float) -> Path:
    """Write a clip's packets several times in a row; sound ends early."""
    with av.open(str(target), "w") as writer:
        streams: dict[int, av.stream.Stream] = {}
        for turn in range(times):
            with av.open(str(source)) as reader:
                length_s = reader.duration / av.time_base
                if not streams:
                    streams = {item.index: writer.add_stream_from_template(item) for item in reader.streams}
                for packet in reader.demux():
                    if packet.dts is None:
                        continue
                    shift = round(turn * length_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.stream.type == "audio" and packet.pts * packet.time_base > sound_until_s:
                        continue
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_half_an_hour_takes_the_memory_of_half_a_minute(suffix: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from taemi_runtime.media import read_clip\n"
        "from taemi_runtime.preprocessing import Preprocessing\n"
        "clip = read_clip(Path(sys.argv[1]), Preprocessing())\n"
        "print(len(clip.frames), round(clip.seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    minute = make(tmp_path / "minute.mp4", Recipe(seconds=60, size=(320, 240)))
    peaks_kib = {}
    for seconds in (30, 1_800):
        source = make(tmp_path / "half.mp4", Recipe(seconds=30, size=(320, 240))) if seconds == 30 else minute
        # Sound that ends before the 12 s that are used makes the reader look for it to the very end.
        path = repeat(source, tmp_path / f"{seconds}.{suffix}", max(1, seconds // 60), sound_until_s=5)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=SAME_CODE
        )
        frames, length_s, peak_kib = map(int, done.stdout.split())
        assert (frames, length_s) == (400, seconds)
        peaks_kib[seconds] = peak_kib
    assert peaks_kib[1_800] < 1.2 * peaks_kib[30], peaks_kib
