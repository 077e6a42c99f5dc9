"""What the command line's tests cannot see: terminals, and values that JSON does not know."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import pytest

from taemi_runtime.cli import Format
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.engine import EngineInfo
from taemi_runtime.results import AudioUse, ClipFailure, ClipResult, TextUse, Timings, VisionUse
from taemi_runtime.writers import FORMATS, open_writer


class Terminal(io.StringIO):
    def isatty(self):
        return True


def result(clip="clips/00001.mp4", score=0.5, *, text=True, warnings=()):
    return ClipResult(
        clip=clip,
        clip_seconds=2.0,
        intensities=dict.fromkeys(EMOTIONS, score),
        audio=AudioUse(True, 99, 2.0),
        vision=VisionUse(True, 50, seconds_used=2.0),
        text=TextUse(text),
        engine=EngineInfo("b.taemi/fusion.onnx", "onnxruntime-cpu", "fp32", "cpu"),
        timings_ms=Timings(),
        warnings=warnings,
    )


def test_every_format_of_the_command_line_has_a_writer():
    assert {item.value for item in Format} == set(FORMATS)


@pytest.mark.parametrize(("columns", "short"), [(80, True), (120, False)])
def test_a_table_fits_the_terminal(monkeypatch, columns, short):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    writer = FORMATS["table"](stream, EMOTIONS, 3)
    writer.add(0, result())
    writer.add(1, result(text=False))
    writer.add(2, ClipFailure("bad.mp4", "cannot read bad.mp4: no media"))
    writer.finish()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    head = next(line for line in lines if "clip" in line)
    assert ("Determination" in head) is not short
    assert ("Determ" in head) is True
    assert max(map(len, lines)) <= columns
    assert lines[-1] == "error: cannot read bad.mp4: no media"
    assert sum("0.500" in line for line in lines) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_warnings_are_in_every_format(name):
    stream = io.StringIO()
    writer = FORMATS[name](stream, EMOTIONS, 3)
    writer.add(0, result("a.mp4", warnings=("the file ends after 1.00 s", "two faces, or more")))
    writer.add(1, result("b.mp4"))
    writer.add(2, ClipFailure("c.mp4", "no media"))
    writer.finish()
    text = stream.getvalue()
    if name == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["warnings"] for row in rows] == ["the file ends after 1.00 s; two faces, or more", "", ""]
        assert [row["error"] for row in rows] == ["", "", "no media"]
        assert [row["clip"] for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    elif name == "table":
        notes = [line for line in text.splitlines() if line.startswith("note: ")]
        assert notes == ["note: a.mp4: the file ends after 1.00 s", "note: a.mp4: two faces, or more"]
    else:
        assert text.count("two faces, or more") == 1


def test_a_failure_names_its_clip_once():
    assert ClipFailure("a.mp4", "cannot read a.mp4").message == "cannot read a.mp4"
    assert ClipFailure("a.mp4", "no such file").message == "a.mp4: no such file"


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_json_never_holds_nan(name):
    def write():
        writer = FORMATS[name](io.StringIO(), EMOTIONS, 1)
        writer.add(0, result(score=float("nan")))
        writer.finish()

    with pytest.raises(ValueError, match="not JSON compliant"):
        write()


@pytest.mark.parametrize("name", ["json", "csv", "table"])
def test_a_failure_leaves_the_old_file(name, tmp_path):
    out = tmp_path / "results"
    out.write_text("old")
    with contextlib.suppress(RuntimeError), open_writer(name, out, EMOTIONS, 2) as writer:
        writer.add(0, result())
        raise RuntimeError
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_json_lines_are_there_as_soon_as_they_are_written(tmp_path):
    out = tmp_path / "results"
    with open_writer("jsonl", out, EMOTIONS, 2) as writer:
        writer.add(0, result("é.mp4"))
        assert json.loads(out.read_text(encoding="utf-8"))["clip"] == "é.mp4"


def test_a_cut_of_the_json_object_of_a_single_clip_is_a_list(tmp_path):
    # Asked for two, done with one: still a list, as a reader of several clips expects.
    out = tmp_path / "results"
    with open_writer("json", out, EMOTIONS, 2) as writer:
        writer.add(0, result())
    assert len(json.loads(out.read_text())) == 1
    with open_writer("json", out, EMOTIONS, 1) as writer:
        writer.add(0, result())
    assert json.loads(out.read_text())["clip"] == str(Path("clips/00001.mp4"))
