"""One folder of everything that people have: each file ends in the right result or the right error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runtime.made_clips import CORNERS, ONE, Recipe, make, with_index_first
from tests.runtime.test_hard_media import rewrite

TURNS = {
    90: (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
    180: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30),
}


@dataclass
class Case:
    """A file, and what must come of it.

    ``audio`` and ``vision`` are the seconds that are used, ``None`` for a missing modality.
    """

    write: Callable[[Path], Any]
    audio: float | None = 1.0
    vision: float | None = 1.0
    error: str = ""
    warnings: tuple[str, ...] = field(default=())


def clip(**changes: Any) -> Callable[[Path], Path]:
    return lambda path: make(path, Recipe(**{"seconds": 1.0, **changes}))


def silent(path: Path) -> None:
    make(path, Recipe(seconds=1), np.zeros((1, 16_000), np.float32))


def broken_off(path: Path, share: float = 0.55) -> None:
    content = make(path, Recipe(seconds=4)).read_bytes()
    if path.suffix == ".mp4":
        content = with_index_first(content)
    path.write_bytes(content[: int(len(content) * share)])


def without_index(path: Path) -> None:
    path.write_bytes(make(path).read_bytes()[:3_000])


def damaged(path: Path) -> None:
    content = bytearray(make(path, Recipe(seconds=4)).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3_000] = bytes(3_000)
    path.write_bytes(content)


def one_frame(path: Path) -> None:
    whole = make(path.with_name(".whole.mp4"), Recipe(seconds=1))
    rewrite(whole, path, lambda kind, time_s: kind == "audio" or time_s < 0.02)
    whole.unlink()


def gappy(path: Path) -> None:
    whole = make(path.with_name(".whole.mov"), Recipe(seconds=2, audio_codec="pcm_s16le"))
    rewrite(whole, path, lambda kind, time_s: kind == "video" or not 0.5 <= time_s < 1)
    whole.unlink()


def photograph(path: Path) -> None:
    Image.fromarray(CORNERS).save(path, "PNG")


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


SINGLE = "the video is a single picture"
CASES = {
    "01-plain.mp4": Case(clip()),
    "02-stereo.mov": Case(clip(rate_hz=44_100, layout="stereo")),
    "03-surround.mkv": Case(clip(rate_hz=48_000, layout="5.1", audio_codec="ac3")),
    "04-vp8.webm": Case(clip(rate_hz=48_000, video_codec="libvpx", audio_codec="libopus")),
    "05-vp9.webm": Case(clip(rate_hz=48_000, video_codec="libvpx-vp9", audio_codec="libopus")),
    "06-mpeg4.avi": Case(clip(rate_hz=44_100, video_codec="mpeg4", audio_codec="libmp3lame")),
    "07-broadcast.ts": Case(clip(rate_hz=48_000, video_codec="mpeg2video", audio_codec="mp2")),
    "08-flash.flv": Case(clip(rate_hz=44_100, video_codec="flv", audio_codec="libmp3lame")),
    "09-programme.mpg": Case(clip(rate_hz=48_000, video_codec="mpeg2video", audio_codec="mp2")),
    "10-telephone.wav": Case(clip(fps=0, rate_hz=8_000, audio_codec="pcm_s16le"), vision=None),
    "11-studio.flac": Case(clip(fps=0, rate_hz=96_000, audio_codec="flac", layout="stereo"), vision=None),
    "12-song.mp3": Case(clip(fps=0, rate_hz=44_100, audio_codec="libmp3lame"), vision=None),
    "13-memo.m4a": Case(clip(fps=0), vision=None),
    "14-message.ogg": Case(clip(fps=0, rate_hz=48_000, audio_codec="libopus"), vision=None),
    "15-mute.mp4": Case(clip(rate_hz=0), audio=None),
    "16-turned-90.mp4": Case(clip(matrix=TURNS[90], pixels=CORNERS)),
    "17-turned-180.mp4": Case(clip(matrix=TURNS[180], pixels=CORNERS)),
    "18-turned-270.mov": Case(clip(matrix=TURNS[270], pixels=CORNERS)),
    "19-silence.mp4": Case(silent),
    "20-late-sound.mkv": Case(clip(audio_delay_s=0.5), audio=1.5),
    "21-gap.mkv": Case(gappy, audio=2.0, vision=2.0, warnings=("the audio track has gaps of 0.",)),
    "22-one-frame.mp4": Case(one_frame, vision=0.04, warnings=(SINGLE,)),
    "23-picture.mp4": Case(photograph, audio=None, vision=0.04, warnings=(SINGLE,)),
    "24-moving.gif": Case(clip(rate_hz=0, video_codec="gif", fps=10, pix_fmt="rgb8"), audio=None),
    "25-broken-off.mp4": Case(broken_off, audio=2.2, vision=2.2, warnings=("are lost",)),
    "26-broken-off.mkv": Case(broken_off, audio=2.2, vision=2.2, warnings=("are lost",)),
    "27-damaged.mkv": Case(damaged, audio=4.0, vision=4.0, warnings=("damaged packet",)),
    "28-long.mp4": Case(
        clip(seconds=18.0, fps=25),
        audio=12.0,
        vision=16.0,
        warnings=("the audio goes on after the first 12 s", "the video goes on after the first 400 frames"),
    ),
    "29-empty.mp4": Case(lambda path: path.touch(), error="the file is empty (0 bytes)"),
    "30-no-index.mp4": Case(without_index, error="its index is missing or damaged"),
    "31-notes.mp4": Case(text("these are notes\n" * 99), error="no audio or video"),
    "32-list.mp4": Case(
        text("ffconcat version 1.0\nfile 01-plain.mp4\n"), error="no audio or video container"
    ),
    "33-list.mp3": Case(
        text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n07-broadcast.ts\n"), error="content"
    ),
    "34-noise.mkv": Case(
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(9_000)), error="content"
    ),
    "35-away.mp4": Case(
        lambda path: path.symlink_to("/dev/zero"), error="a link that leads out of the folder"
    ),
    "36-pipe.mp4": Case(os.mkfifo, error="it is no ordinary file"),
}


@pytest.fixture(scope="module")
def outcome(bundle, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any], Path]:
    """What the command line made of the folder."""
    place = tmp_path_factory.mktemp("mixed")
    (place / "clips").mkdir()
    (place / "clips" / "folder.mp4").mkdir()
    (place / "temporary").mkdir()
    for name, case in CASES.items():
        case.write(place / "clips" / name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "taemi_runtime.cli",
            "clips",
            "--engine",
            str(bundle.folder),
            "--format",
            "jsonl",
            "--device",
            "cpu",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(place / "temporary")},
        check=False,
    )
    found = {Path(item["clip"]).name: item for item in map(json.loads, done.stdout.splitlines())}
    return done, found, place


def test_all_are_done_and_the_exit_code_says_that_some_failed(outcome) -> None:
    done, found, place = outcome
    assert done.returncode == 1, done.stderr
    assert sorted(found) == sorted(CASES)
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stdout + done.stderr
    # ONNX Runtime leaves its own file there when it is imported, one for all processes.
    assert {item.name for item in (place / "temporary").iterdir()} <= {".ses"}
    assert sorted(item.name for item in (place / "clips").iterdir()) == sorted([*CASES, "folder.mp4"])


@pytest.mark.parametrize("name", CASES)
def test_each_ends_as_it_should(name: str, outcome) -> None:
    item, case = outcome[1][name], CASES[name]
    if case.error:
        assert case.error in item["error"]
        assert "intensities" not in item
        return
    assert "error" not in item, item
    assert all(0 <= score <= 1 for score in item["intensities"].values())
    for kind, seconds in (("audio", case.audio), ("vision", case.vision)):
        use = item["modalities"][kind]
        assert use["present"] == (seconds is not None)
        assert bool(use.get("why")) == (seconds is None)
        assert use["seconds_used"] == pytest.approx(
            seconds or 0.0, abs=0.15 + 0.25 * ("damaged" in name or "off" in name)
        )
    warnings = item.get("warnings", [])
    assert bool(warnings) == bool(case.warnings)
    for wanted in case.warnings:
        assert any(wanted in warning for warning in warnings), warnings
