"""Files that are damaged, cut off or no media at all: what is kept, and what is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from taemi_runtime.errors import MediaError
from taemi_runtime.media import read_clip
from tests.runtime.made_clips import (
    PREPROCESSING,
    Recipe,
    grey,
    levels,
    make,
    tone,
    with_index_first,
)


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


def test_damaged_pictures_are_the_same_in_every_run(tmp_path: Path) -> None:
    # Pictures that move: what is patched in them comes from their neighbours.
    rng = np.random.default_rng(5)
    scene = np.kron(rng.integers(0, 256, (40, 60, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(50):
            picture = np.ascontiguousarray(scene[index : index + 240, 2 * index : 2 * index + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    content = whole.read_bytes()
    for number in range(8):
        damaged = bytearray(content)
        for position in rng.integers(300, len(content) - 3_000, 12):
            damaged[position] ^= 0x55
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        found = set()
        for _ in range(4):
            clip = read_clip(path, PREPROCESSING)
            assert clip.frames is not None
            found.add((clip.frames.tobytes(), clip.warnings))
        assert len(found) == 1
