"""``taemi-infer --hop``, ``--live`` and ``--plot`` as a user meets them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.manifest import describe_file, read_manifest
from tests.runtime import lossless
from tests.runtime.made_clips import SAME_CODE
from tests.runtime.tiny_bundle import PREPROCESSING, audio_spec, model, save_manifest, tensor

NOISE = "lavfi:sine=frequency=200"


@pytest.fixture
def quick(make_bundle):
    """A bundle that listens to one second at a time."""
    audio = replace(PREPROCESSING.audio, max_seconds=1.0)
    return make_bundle("quick.taemi", preprocessing=replace(PREPROCESSING, audio=audio)).folder


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    return lossless.write(path, lossless.sound(17.0), lossless.pictures(8.0))


def test_json_lines_have_a_window_each(infer, bundle, long):
    code, out, err = infer(long, "--engine", bundle.folder, "--hop", 2, "--format", "jsonl", "--asr", "none")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["index"], row["start_s"], row["end_s"], row["partial"]) for row in rows] == [
        (0, 0.0, 12.0, False),
        (1, 2.0, 14.0, False),
        (2, 4.0, 16.0, False),
        (3, 6.0, 17.0, True),
    ]
    assert list(rows[0]["intensities"]) == list(EMOTIONS)
    assert rows[0]["modalities"]["vision"]["frames"] == 80
    assert rows[0]["modalities"]["text"] == {
        "present": False,
        "tokens": 0,
        "transcript": "",
        "source": "none",
        "why": "there is no transcript",
    }
    assert (rows[0]["skipped"], rows[0]["dropped_frames"], "late_s" in rows[0]) == (0, 0, False)
    assert set(rows[0]["timings_ms"]) == {"decode", "audio", "vision", "asr", "text", "fusion", "total"}
    assert re.search(r"^taemi-infer: \d+\.\d s, 4 windows$", err, re.MULTILINE)


def test_all_formats_say_the_same(infer, bundle, long, tmp_path):
    command = (long, "--engine", bundle.folder, "--hop", 5, "--transcript", "I won")
    _, lines, _ = infer(*command, "--format", "jsonl")
    rows = [json.loads(line) for line in lines.splitlines()]
    _, out, _ = infer(*command, "--format", "json")
    whole = json.loads(out)
    _, out, _ = infer(*command, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(out)))
    _, text, _ = infer(*command)
    assert len(rows) == len(whole) == len(table) == 2
    for row, one, cells in zip(rows, whole, table, strict=True):
        assert {**row, "timings_ms": 0} == {**one, "timings_ms": 0}
        assert {name: float(cells[name]) for name in EMOTIONS} == row["intensities"]
        assert (float(cells["start_s"]), float(cells["end_s"])) == (row["start_s"], row["end_s"])
        assert (cells["audio"], cells["vision"], cells["text"]) == ("true", "true", "true")
        assert cells["transcript"] == "I won"
        shown = [f"{score:.3f}" for score in row["intensities"].values()]
        assert " ".join(shown) in re.sub(" +", " ", text)
    assert "0:00 - 0:12" in text
    assert "0:05 - 0:17" in text


def test_reasons_for_what_is_missing_are_in_the_csv(infer, bundle, long):
    _, out, _ = infer(long, "--engine", bundle.folder, "--hop", 10, "--format", "csv", "--asr", "none")
    _, second = csv.DictReader(io.StringIO(out))
    assert second["vision"] == "false"
    assert second["missing"] == (
        "vision: the window has no frame of the video track; text: there is no transcript"
    )


def test_several_clips_have_their_windows_one_after_the_other(infer, bundle, long, clips, tmp_path):
    for source in (long, clips.both, clips.broken):
        shutil.copy(source, tmp_path)
    code, out, err = infer(tmp_path, "--engine", bundle.folder, "--hop", 8, "--format", "jsonl")
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["clip"]).name for row in rows] == ["both.mp4", "broken.mp4", "long.mkv", "long.mkv"]
    assert [row.get("index") for row in rows] == [0, None, 0, 1]
    assert rows[1]["error"].startswith("cannot read")
    assert f"error: {rows[1]['error']}" in err
    assert re.search(r"3 windows, 1 failed$", err, re.MULTILINE)


def test_a_live_file_has_the_rows_of_its_windows(infer, quick, tmp_path):
    path = lossless.write(tmp_path / "a.mkv", lossless.sound(2.0), lossless.pictures(2.0))
    out = tmp_path / "rows.csv"
    code, shown, err = infer("--live", path, "--engine", quick, "--hop", 0.5, "--format", "csv", "--out", out)
    assert (code, shown) == (0, "")
    rows = list(csv.DictReader(out.open()))
    assert [float(row["end_s"]) for row in rows] == [1.0, 1.5, 2.0]
    assert all(float(row["late_s"]) < 5 for row in rows)
    assert re.search(r"^taemi-infer: \d+\.\d s, 3 windows, .*rows\.csv$", err, re.MULTILINE)


def test_raw_samples_come_from_stdin(quick, tmp_path):
    samples = lossless.sound(1.5)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "taemi_runtime.cli", "--live", "-", "--engine", str(quick)),
            *("--hop", "0.5", "--format", "jsonl", "--live-pcm", "s16le:16000"),
        ],
        input=samples.astype("<i2").tobytes(),
        capture_output=True,
        env=SAME_CODE,
        timeout=60,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["end_s"] for row in rows] == [1.0, 1.5]
    assert {row["clip"] for row in rows} == {"-"}
    assert rows[0]["modalities"]["vision"]["why"] == "raw PCM has no video track"


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_picture_shows_every_score(infer, bundle, long, tmp_path, form):
    picture = tmp_path / "deep" / f"scores.{form}"
    code, _, _ = infer(long, "--engine", bundle.folder, "--hop", 2, "--plot", picture, "--asr", "none")
    assert code == 0
    if form == "png":
        with Image.open(picture) as image:
            assert image.width == 2000
            colours = {colour for _, colour in image.getcolors(1 << 20)}
        # Each score's line in its colour, and the strips of what is present.
        for colour in ("0072b2", "d55e00", "009e73", "cc79a7", "56b4e9", "e69f00", "7a8fa6"):
            assert tuple(bytes.fromhex(colour)) in colours
        return
    tree = ElementTree.parse(picture).getroot()
    texts = [item.text for item in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert [name for name in texts if name in EMOTIONS] == list(EMOTIONS)
    assert {"audio", "vision", "text", "0:00"} <= set(texts)
    assert any("4 windows of 12 s" in text for text in texts)
    lines = list(tree.iter("{http://www.w3.org/2000/svg}polyline"))
    assert sum(len(line.get("points").split()) == 4 for line in lines) == len(EMOTIONS)


REFUSALS = [
    (("--hop", "0"), "cannot score a window every 0 s: a hop is a number of seconds above 0. Try --hop 2"),
    (
        ("--hop", "nan"),
        "cannot score a window every nan s: a hop is a number of seconds above 0. Try --hop 2",
    ),
    (
        ("--plot", "x.svg"),
        "cannot draw x.svg: neither --hop nor --live was given. "
        "Give --hop SECONDS to score windows over time",
    ),
    (("--hop", "2", "--plot", "x.jpg"), "cannot draw x.jpg: its suffix is .jpg. End it in .svg or .png"),
    (
        ("--hop", "2", "--plot", "/proc/x.svg"),
        "cannot write /proc/x.svg: No such file or directory. Name a file in a folder that can be written",
    ),
    (
        ("--hop", "2", "--asr-seconds", "10"),
        "cannot listen to the first 10 s only: over time every window is listened to. "
        "Leave --asr-seconds out",
    ),
    (
        ("--hop", "2", "--live-pcm", "s16le:16000"),
        "cannot use --live-pcm or --live-option: no --live was given. Give --live SOURCE, too",
    ),
    (
        ("--live", "x.mp4"),
        "cannot score CLIP beside --live x.mp4: a live source is the only one. Give one of them",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[message[:30] for _, message in REFUSALS])
def test_wrong_arguments_are_refused_before_the_work(infer, bundle, clips, monkeypatch, arguments, message):
    monkeypatch.setattr("taemi_runtime.job_scorer.open_model", None)
    code, out, err = infer(clips.both, "--engine", bundle.folder, *arguments)
    assert (code, out, err) == (2, "", f"error: {message.replace('CLIP', str(clips.both))}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--live", "-", "--live-pcm", "u8:16000"), "cannot read raw samples as u8:16000"),
        (("--live", "x", "--live-option", "framerate"), "cannot use --live-option framerate"),
    ],
)
def test_wrong_live_arguments_are_refused_before_the_work(infer, bundle, monkeypatch, arguments, message):
    monkeypatch.setattr("taemi_runtime.job_scorer.open_model", None)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = infer("--engine", bundle.folder, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_one_picture_or_transcript_is_for_one_clip(infer, bundle, clips):
    for name, value in (("--plot", "x.svg"), ("--transcript", "I won")):
        code, _, err = infer(clips.both, clips.second, "--engine", bundle.folder, "--hop", 1, name, value)
        assert code == 2
        assert err.startswith(f"error: cannot give one {name} to 2 clips")


def test_a_source_that_cannot_be_opened_is_a_failure_row(infer, quick):
    code, out, err = infer("--live", "tcp://127.0.0.1:1", "--engine", quick, "--format", "json")
    assert code == 1
    (row,) = json.loads(out)
    assert row["error"].startswith("cannot open tcp://127.0.0.1:1: Connection refused")
    assert f"error: {row['error']}" in err


def test_a_source_that_cannot_be_one_is_refused_before_the_work(infer, bundle, monkeypatch):
    monkeypatch.setattr("taemi_runtime.job_scorer.open_model", None)
    code, out, err = infer("--live", "nowhere.mp4", "--engine", bundle.folder)
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: cannot open nowhere.mp4: there is no such file or device. --live takes a file"
    )


def test_with_nothing_to_score_nothing_is_loaded(infer, bundle, monkeypatch):
    monkeypatch.setattr("taemi_runtime.job_scorer.open_model", None)
    code, out, err = infer("nowhere.mp4", "--engine", bundle.folder, "--hop", 2, "--format", "json")
    assert code == 1
    assert json.loads(out) == [{"clip": "nowhere.mp4", "error": "there is no such file or folder"}]
    assert "error: nowhere.mp4: there is no such file or folder\n" in err


def test_clips_without_the_transcript_that_others_have_are_told(infer, bundle, clips, tmp_path):
    (tmp_path / "both.txt").write_text("I won")
    command = (clips.both, clips.second, "--engine", bundle.folder, "--hop", 1, "--asr", "none")
    code, out, err = infer(*command, "--transcripts", tmp_path, "--format", "jsonl")
    assert code == 0
    assert [json.loads(line)["modalities"]["text"]["present"] for line in out.splitlines()] == [True, False]
    assert f"warning: 1 of 2 clips have no transcript in {tmp_path} (NAME.txt, .vtt or .srt)\n" in err


def start(*arguments):
    """Start the console script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "taemi_runtime.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=SAME_CODE,
    )


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_ctrl_c_ends_a_live_source_within_a_second_and_leaves_whole_rows(quick, tmp_path, form):
    picture = tmp_path / "scores.svg"
    process = start(
        "--live", NOISE, "--engine", quick, "--hop", 0.1, "--format", form, "--quiet", "--plot", picture
    )
    head = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    sent_s = time.monotonic()
    rest, err = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=60) == 130
    took_s = time.monotonic() - sent_s
    content = "".join(head) + rest
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(content)))
        assert all(row["error"] == "" and row["Joy"] for row in rows)
    else:
        rows = json.loads(content) if form == "json" else [json.loads(line) for line in content.splitlines()]
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    assert len(rows) >= 3
    # A busy machine may have skipped some.
    assert re.fullmatch(rf"interrupted: {len(rows)} windows done(, \d+ skipped)?\n", err)
    assert "</svg>" in picture.read_text()
    assert took_s < 3  # a second, and what starting to leave takes on a busy machine


def slow_bundle(folder: Path) -> None:
    """Make a bundle's audio encoder count to three billion first, which no signal interrupts."""
    spec = audio_spec()
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "zero"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["waveform"], ["loudest"], keepdims=0),
        helper.make_node("Mul", ["loudest", "zero"], ["nothing"]),
        helper.make_node("Loop", ["turns", "yes", "nothing"], ["counted"], body=body),
        helper.make_node("Cast", ["frame_mask"], ["valid"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["valid", "two"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["wide"]),
        helper.make_node("Add", ["wide", "counted"], ["audio"]),
    ]
    constants = [
        tensor("zero", 0.0),
        tensor("turns", 3_000_000_000, np.int64),
        tensor("yes", True, bool),
        tensor("two", [2], np.int64),
        tensor("shape", [1, 1, 3], np.int64),
    ]
    path = folder / "audio.onnx"
    onnx.save(model(spec, nodes, constants), path)
    files = {**read_manifest(folder).files, path.name: describe_file(path, graph="audio", precision="fp32")}
    save_manifest(folder, files=files)


@pytest.mark.parametrize("live", [False, True])
def test_ctrl_c_does_not_wait_for_an_engine_that_is_busy(quick, tmp_path, live):
    slow_bundle(quick)
    path = lossless.write(tmp_path / "a.mkv", lossless.sound(3.0), None)
    out = tmp_path / "rows.json"
    source = ("--live", NOISE) if live else (path, "--hop", 1)
    process = start(*source, "--engine", quick, "--format", "json", "--out", out)
    assert process.stderr.readline().startswith("engine: ")
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    sent_s = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_s < 3
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: 0 windows done"
    assert json.loads(out.read_text()) == []


def test_a_reader_that_goes_away_is_no_traceback(bundle, long):
    process = start(long, "--engine", bundle.folder, "--format", "jsonl", "--quiet", "--hop", 0.05)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()
    assert err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(infer, bundle, long):
    code, _, err = infer(
        long, "--engine", bundle.folder, "--hop", 2, "--format", "jsonl", "--out", "/dev/full", "--quiet"
    )
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: cannot write /dev/full: No space left on device. Free some space, or write to another disk"
    )
