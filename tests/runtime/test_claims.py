"""Headers that claim too much: sizes, streams, lengths and time, and the limits that meet them."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from taemi_runtime.errors import MediaError, UsageError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import read_clip
from taemi_runtime.pipeline import ClipScorer
from tests.runtime.made_clips import (
    PREPROCESSING,
    SAME_CODE,
    Recipe,
    make,
)
from tests.runtime.refusals import refuse


def claim_size(path: Path, width: int, height: int) -> Path:
    """Write a frame size into the header of an mp4."""
    content = bytearray(path.read_bytes())
    entry = [match.start() for match in re.finditer(b"avc1", content)][-1]
    content[entry + 28 : entry + 32] = struct.pack(">HH", width, height)
    path.write_bytes(content)
    return path


def claim_length(path: Path, seconds: int) -> Path:
    """Write a length into the movie, track and media headers of an mp4."""
    content = bytearray(path.read_bytes())
    for kind, rate_at, length_at in ((b"mvhd", 16, 20), (b"mdhd", 16, 20), (b"tkhd", 0, 24)):
        for match in re.finditer(kind, content):
            start = match.start()
            if rate_at:
                content[start + rate_at : start + rate_at + 4] = struct.pack(">I", 1000)
            content[start + length_at : start + length_at + 4] = struct.pack(">I", seconds * 1000)
    path.write_bytes(content)
    return path


def test_a_frame_of_twenty_thousand_by_twenty_thousand_is_refused(tmp_path: Path) -> None:
    path = claim_size(make(tmp_path / "huge.mp4", Recipe(seconds=0.4)), 20_000, 20_000)
    error = refuse(path)
    assert error.found == "its frames have 20000 x 20000 pixels, more than the limit of 36,000,000"
    assert "--max-pixels" in error.fix


def encode_big(path: Path, codec: str, pix_fmt: str, side: int, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.width = video.height = side
        video.pix_fmt = pix_fmt
        for index in range(3):
            grey = np.full((side, side, 3), 99, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(grey).reformat(format=pix_fmt)
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


BIG = [
    ("mp4", "libx264", "yuv420p", {"preset": "ultrafast"}),
    ("mkv", "libx264", "yuv420p", {"preset": "ultrafast"}),
    ("ts", "libx264", "yuv420p", {"preset": "ultrafast"}),
    ("mpg", "mpeg2video", "yuv420p", {}),
    ("avi", "mpeg4", "yuv420p", {}),
    ("flv", "flv", "yuv420p", {}),
    ("webm", "libvpx", "yuv420p", {}),
    ("mov", "png", "rgb24", {}),
    ("gif", "gif", "rgb8", {}),
    ("mkv", "ffv1", "yuv420p", {}),
]


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt", "options"), BIG)
def test_large_frames_are_refused_in_every_container(
    suffix: str, codec: str, pix_fmt: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = encode_big(tmp_path / f"big.{suffix}", codec, pix_fmt, 640, options)
    assert read_clip(path, PREPROCESSING, limits=DecodeLimits(max_pixels=640 * 640)).frames is not None
    error = refuse(path, max_pixels=640 * 640 - 1)
    assert "pixels" in error.found
    assert "409,599" in error.found


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt", "options"), BIG[:2])
def test_a_small_header_over_large_frames_is_refused(
    suffix: str, codec: str, pix_fmt: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = encode_big(tmp_path / f"big.{suffix}", codec, pix_fmt, 640, options)
    if suffix == "mp4":
        claim_size(path, 64, 48)
    else:
        content = path.read_bytes()
        size = struct.pack(">H", 640)
        # PixelWidth and PixelHeight, two bytes each (Matroska, elements B0 and BA).
        patched = content.replace(b"\xb0\x82" + size, b"\xb0\x82\x00\x40").replace(
            b"\xba\x82" + size, b"\xba\x82\x00\x30"
        )
        assert patched != content
        path.write_bytes(patched)
    assert "pixels" in refuse(path, max_pixels=100_000).found


def test_refused_frames_are_never_allocated(tmp_path: Path) -> None:
    side = 4096
    path = encode_big(tmp_path / "big.mp4", "libx264", "yuv420p", side, {"preset": "ultrafast"})
    claim_size(path, 64, 48)
    code = (
        "import resource, sys; from pathlib import Path; from taemi_runtime.media import read_clip\n"
        "from taemi_runtime.limits import DecodeLimits\n"
        "from taemi_runtime.preprocessing import Preprocessing\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: read_clip(Path(sys.argv[1]), Preprocessing(), limits=DecodeLimits(max_pixels=1_000_000))\n"
        "except Exception as error: print(type(error).__name__, (peak() - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, env=SAME_CODE
    )
    assert done.returncode == 0, done.stderr
    name, grown_mib = done.stdout.split()
    assert name == "MediaError"
    assert int(grown_mib) < 12  # One frame is 24 MiB.


def many_streams(path: Path, container_format: str, codec: str, count: int) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        rate_hz = 32_000
        streams = [container.add_stream(codec, rate=rate_hz, layout="mono") for _ in range(count)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "container_format", "codec"),
    [("mkv", "matroska", "pcm_s16le"), ("mov", "mov", "pcm_s16le"), ("avi", "avi", "pcm_s16le")],
)
def test_a_thousand_streams_are_refused(
    suffix: str, container_format: str, codec: str, tmp_path: Path
) -> None:
    # Writers of AVI stop at a hundred.
    count, limit = (90, 80) if suffix == "avi" else (1_000, 128)
    path = many_streams(tmp_path / f"many.{suffix}", container_format, codec, count)
    error = refuse(path, max_streams=limit)
    assert error.found == f"it has more than {limit} streams"
    assert "--max-streams" in error.fix
    assert read_clip(path, PREPROCESSING, limits=DecodeLimits(max_streams=count)).waveform is not None


def test_a_transport_stream_of_many_streams_is_refused(tmp_path: Path) -> None:
    error = refuse(many_streams(tmp_path / "many.ts", "mpegts", "mp2", 100), max_streams=50)
    assert error.found == "it has more than 50 streams"


def test_a_clip_that_claims_a_hundred_hours_is_refused(tmp_path: Path) -> None:
    error = refuse(claim_length(make(tmp_path / "long.mp4", Recipe(seconds=0.4)), 360_000))
    assert error.found == "it claims to last 360,000 s, more than the limit of 86,400 s"
    assert "--max-seconds" in error.fix


def test_a_matroska_that_claims_a_hundred_hours_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "long.mkv", Recipe(seconds=0.4))
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # Duration, a float of eight bytes, in milliseconds
    path.write_bytes(content[:at] + struct.pack(">d", 360_000_000.0) + content[at + 8 :])
    assert refuse(path).found == "it claims to last 360,000 s, more than the limit of 86,400 s"


@pytest.mark.parametrize(
    "content", [b"\0\0\0\x08moov" * 3, b"\0\0\0\1moov", b"\0\0\0\x6cmvhd", b"\0\0\0\1free" + b"\xff" * 8]
)
def test_torn_movie_headers_are_errors_of_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "torn.mp4"
    path.write_bytes(content)
    refuse(path)


def test_timestamps_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "far.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=1)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for second in (0, 1, 360_000):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, dtype=np.uint8))
            frame.pts = second
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    # The length in the header is damaged, so that only the timestamps tell (Matroska, element 4489).
    path.write_bytes(path.read_bytes().replace(b"\x44\x89\x88", b"\xec\x40\x08"))
    assert "claims to last" in refuse(path).found


def test_reading_takes_no_longer_than_allowed(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Recipe(seconds=10, size=(320, 240)))
    # No machine reads ten seconds of video in a tenth of a millisecond, however idle it is.
    error = refuse(path, max_decode_seconds=1e-4)
    assert "takes longer than the limit of 0.0001 s" in error.found or "nothing more was found" in error.found
    assert "--max-decode-seconds" in error.fix


@pytest.mark.parametrize("suffix", ["mp3", "mp4", "wav", "mpg"])
def test_terabytes_of_nothing_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sparse.{suffix}"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    refuse(path, max_decode_seconds=3)


def test_nothing_after_media_is_a_file_that_breaks_off(tmp_path: Path) -> None:
    path = make(tmp_path / "tail.ts", Recipe(seconds=1, rate_hz=48_000))
    os.truncate(path, 1 << 40)
    clip = read_clip(path, PREPROCESSING, limits=DecodeLimits(max_decode_seconds=3))
    assert clip.vision_seconds == pytest.approx(1.0, abs=0.25)
    assert any("breaks off" in warning and "for 0.3 s" in warning for warning in clip.warnings)


def test_a_rate_of_one_sample_a_second_takes_no_memory(tmp_path: Path) -> None:
    path = make(tmp_path / "slow.wav", Recipe(fps=0, audio_codec="pcm_s16le", seconds=1))
    content = bytearray(path.read_bytes())
    at = content.index(b"fmt ") + 12
    content[at : at + 8] = struct.pack("<II", 1, 2)
    path.write_bytes(content)
    assert "audio track" in refuse(path).found


@pytest.mark.parametrize("limit", ["max_pixels", "max_streams", "max_seconds", "max_decode_seconds"])
@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_limits_are_above_zero(limit: str, number: float) -> None:
    with pytest.raises(UsageError, match=f"--{limit.replace('_', '-')} above 0"):
        DecodeLimits(**{limit: number})


def test_a_limit_reaches_the_scorer(bundle, clips) -> None:
    from taemi_runtime import load

    with load(bundle.folder, device="cpu", limits=DecodeLimits(max_pixels=100)) as scorer:
        assert isinstance(scorer, ClipScorer)
        with pytest.raises(MediaError, match="64 x 48 pixels, more than the limit of 100"):
            scorer.score(clips.both)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-pixels", "100"], 1, "its frames have 64 x 48 pixels, more than the limit of 100"),
        (["--max-streams", "1"], 1, "it has more than 1 streams"),
        (["--max-seconds", "0.1"], 1, "more than the limit of 0.1 s"),
        (["--max-decode-seconds", "1e-9"], 1, "raise the limit: --max-decode-seconds"),
        (["--max-pixels", "0"], 2, "Give --max-pixels above 0"),
    ],
)
def test_limits_on_the_command_line(
    options: list[str], code: int, message: str, bundle, clips, monkeypatch, capsys
) -> None:
    from taemi_runtime import cli

    arguments = [str(clips.both), "--engine", str(bundle.folder), "--format", "json", *options]
    monkeypatch.setattr(sys, "argv", ["taemi-infer", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert message in capsys.readouterr().err
