"""``taemi-infer`` as a user meets it: streams, formats, exit codes, and every message word for word."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import taemi_runtime
from taemi_runtime import job_scorer
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.pipeline import ClipScorer

ROOT = Path(__file__).parents[2]
SAID = "I won the race today"
BROKEN = (
    "its content is no audio or video that is known here (Invalid data found when processing input). "
    "Give a video or audio file, such as mp4, mkv, webm, mov, wav or mp3"
)


@pytest.fixture
def mixed(clips, tmp_path):
    """A folder of two good clips and a broken one, with a transcript for the first."""
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(clips.both, folder / "00007.mp4")
    shutil.copy(clips.broken, folder / "00008.mp4")
    shutil.copy(clips.silent, folder / "deep" / "00009.MP4")
    (folder / "notes.md").write_text("no clip")
    shutil.copy(clips.both, folder / ".hidden.mp4")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "00007.txt").write_text(f"\ufeff{SAID}\n")
    return folder


def scores(found):
    assert list(found["intensities"]) == list(EMOTIONS)
    return np.array(list(found["intensities"].values()))


def clipped(values):
    return np.clip(values, 0, 1)


def test_json_of_one_clip_is_one_object_on_stdout(infer, bundle, clips):
    code, out, err = infer(
        clips.both, "--engine", bundle.folder, "--transcript", SAID, "--format", "json", "--threads", 1
    )
    assert code == 0
    found = json.loads(out)
    np.testing.assert_allclose(scores(found), clipped(bundle.expected(clips.both, SAID)), atol=2e-6)
    assert found["modalities"]["text"] == {
        "present": True,
        "tokens": 5,
        "transcript": SAID,
        "source": "given",
    }
    assert err == f"engine: {bundle.folder / 'fusion.onnx'} (onnxruntime-cpu, fp32, cpu, 1 thread)\n"


def test_raw_leaves_the_scores_alone(infer, make_bundle, clips):
    made = make_bundle(bias=np.array([-3, 3, 0, 0, 0, 0], dtype=np.float32))
    _, out, _ = infer(clips.both, "--engine", made.folder, "--format", "json", "--raw")
    np.testing.assert_allclose(scores(json.loads(out)), made.expected(clips.both), atol=5e-6)
    _, out, _ = infer(clips.both, "--engine", made.folder, "--format", "json")
    np.testing.assert_allclose(scores(json.loads(out)), clipped(made.expected(clips.both)), atol=5e-6)


def test_json_of_several_clips_is_a_list_with_errors_in_their_place(infer, bundle, mixed, clips):
    code, out, err = infer(
        mixed, "--engine", bundle.folder, "--transcripts", mixed.parent / "texts", "--format", "json"
    )
    assert code == 1
    first, broken, deep = json.loads(out)
    assert [item["index"] for item in (first, broken, deep)] == [0, 1, 2]
    assert first["clip"] == str(mixed / "00007.mp4")
    np.testing.assert_allclose(scores(first), clipped(bundle.expected(clips.both, SAID)), atol=2e-6)
    assert first["modalities"]["text"]["source"] == "file"
    path = mixed / "00008.mp4"
    assert broken == {"clip": str(path), "index": 1, "error": f"cannot read {path} as media: {BROKEN}"}
    np.testing.assert_allclose(scores(deep), clipped(bundle.expected(clips.silent)), atol=2e-6)
    assert deep["modalities"]["text"]["source"] == "none"
    assert f"error: cannot read {path} as media: {BROKEN}\n" in err
    lacking = f"2 of 3 clips have no transcript in {mixed.parent / 'texts'} (NAME.txt, .vtt or .srt)"
    assert f"warning: {lacking}\n" in err
    assert re.search(r"^taemi-infer: \d+\.\d s, 3 clips, 1 failed$", err, re.MULTILINE)


def test_jsonl_is_one_line_a_clip(infer, bundle, mixed):
    code, out, _ = infer(mixed, "--engine", bundle.folder, "--format", "jsonl")
    assert code == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert ["error" in line for line in lines] == [False, True, False]


def test_csv_starts_with_the_challenge_header(infer, bundle, mixed, clips):
    code, out, _ = infer(mixed, "--engine", bundle.folder, "--format", "csv")
    assert code == 1
    assert out.splitlines()[0].startswith(
        "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy,clip,clip_seconds,audio"
    )
    first, broken, deep = csv.DictReader(io.StringIO(out))
    assert [row["Filename"] for row in (first, broken, deep)] == ["00007", "00008", "00009"]
    found = np.array([float(first[name]) for name in EMOTIONS])
    np.testing.assert_allclose(found, clipped(bundle.expected(clips.both)), atol=2e-6)
    assert (first["audio"], first["vision"], first["text"], first["error"]) == ("true", "true", "false", "")
    assert deep["audio"] == "false"
    assert broken["Joy"] == broken["audio"] == ""
    assert broken["clip"] == str(mixed / "00008.mp4")
    assert broken["error"].startswith("cannot read")


def test_a_table_of_one_clip_has_a_line_for_each_score(infer, bundle, clips):
    code, out, _ = infer(clips.silent, "--engine", bundle.folder)
    assert code == 0
    expected = clipped(bundle.expected(clips.silent))
    for name, value in zip(EMOTIONS, expected, strict=True):
        assert re.search(rf"^{name} +{value:.3f} ", out, re.MULTILINE)
    assert "audio: missing, the clip has no audio track" in out
    assert "vision: 6 frames, 0.6 s" in out
    assert "text: missing, there is no transcript" in out


def test_a_table_of_several_has_a_row_for_each(infer, bundle, mixed, clips):
    code, out, err = infer(mixed, "--engine", bundle.folder)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "clip"
    assert all(name in lines[0] for name in EMOTIONS)
    values = [f"{value:.3f}" for value in clipped(bundle.expected(clips.silent))]
    assert lines[3].split() == [str(mixed / "deep" / "00009.MP4"), *values, "audio,", "text"]
    assert lines[4] == f"error: cannot read {mixed / '00008.mp4'} as media: {BROKEN}"
    assert "cannot read" not in err


def test_untrained_models_say_so_everywhere(infer, make_bundle, clips):
    made = make_bundle(trained=False)
    warning = f"warning: {made.folder} is untrained: its scores mean nothing\n"
    for form, mark in {
        "json": '"untrained": true',
        "jsonl": '"untrained": true',
        "csv": ",true,,\n",
        "table": "untrained weights: the scores mean nothing\n",
    }.items():
        _, out, err = infer(clips.both, "--engine", made.folder, "--format", form, "--quiet")
        assert mark in out
        assert err == warning


def test_quiet_keeps_errors_only(infer, bundle, mixed):
    code, _, err = infer(mixed, "--engine", bundle.folder, "--format", "json", "--quiet")
    assert code == 1
    assert err == f"error: cannot read {mixed / '00008.mp4'} as media: {BROKEN}\n"


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "table"])
def test_out_holds_what_stdout_would(infer, bundle, mixed, tmp_path, form):
    out = tmp_path / "new" / "results"
    code, stdout, err = infer(mixed, "--engine", bundle.folder, "--format", form, "--out", out)
    assert (code, stdout) == (1, "")
    content = out.read_text()
    assert re.search(rf"^taemi-infer: .* s, 3 clips, 1 failed, .*B, {out}$", err, re.MULTILINE)
    _, stdout, _ = infer(mixed, "--engine", bundle.folder, "--format", form)

    def timeless(text):
        return re.sub(r'"timings_ms": \{[^}]*\}', "", text)

    assert timeless(content) == timeless(stdout)
    assert [path.name for path in out.parent.iterdir()] == ["results"]


def test_globs_and_repeated_names(infer, bundle, mixed):
    _, out, _ = infer(
        f"{mixed}/**/0000[79].*", mixed / "00007.mp4", "--engine", bundle.folder, "--format", "jsonl"
    )
    names = [Path(json.loads(line)["clip"]).name for line in out.splitlines()]
    assert names == ["00007.mp4", "00009.MP4"]


def test_inputs_that_lead_nowhere_are_errors_in_their_place(infer, bundle, clips, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, out, err = infer(
        "none.mp4", empty, "*.nothing", clips.both, "--engine", bundle.folder, "--format", "json"
    )
    assert code == 1
    none, folder, pattern, good = json.loads(out)
    assert none == {"clip": "none.mp4", "index": 0, "error": "there is no such file or folder"}
    assert folder["error"].startswith("the folder holds no clip (looked for .3g2, ")
    assert pattern == {"clip": "*.nothing", "index": 2, "error": "the pattern matches no clip"}
    assert "intensities" in good
    assert "error: none.mp4: there is no such file or folder\n" in err


def test_nothing_is_loaded_when_there_is_nothing_to_score(infer, tmp_path):
    # The engine is damaged, and nobody looks at it.
    (tmp_path / "manifest.json").write_text("{")
    code, out, err = infer("none.mp4", "--engine", tmp_path, "--format", "json")
    assert code == 1
    assert json.loads(out)["error"] == "there is no such file or folder"
    assert "manifest" not in err


def test_a_transcript_that_is_no_text_fails_its_clip_only(infer, bundle, mixed):
    texts = mixed.parent / "texts"
    (texts / "00009.txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    code, out, _ = infer(
        mixed, "--engine", bundle.folder, "--transcripts", texts, "--format", "jsonl", "--quiet"
    )
    first, _, deep = map(json.loads, out.splitlines())
    assert code == 1
    assert "intensities" in first
    assert deep["error"].startswith(f"cannot read transcript {texts / '00009.txt'}: it is no text in UTF-8")


def test_an_empty_transcript_is_a_missing_modality(infer, bundle, clips):
    code, out, _ = infer(clips.both, "--engine", bundle.folder, "--transcript", " ", "--format", "json")
    text = json.loads(out)["modalities"]["text"]
    assert code == 0
    assert (text["present"], text["why"], text["source"]) == (False, "the transcript is empty", "given")


def test_a_defect_in_one_clip_does_not_stop_the_others(infer, bundle, mixed, monkeypatch):
    score = ClipScorer.score

    def fail_once(self, path, *rest):
        if Path(path).name == "00007.mp4":
            raise ZeroDivisionError("by zero")
        return score(self, path, *rest)

    monkeypatch.setattr(ClipScorer, "score", fail_once)
    code, out, err = infer(mixed, "--engine", bundle.folder, "--format", "jsonl")
    first, _, deep = map(json.loads, out.splitlines())
    assert code == 1
    assert first["error"] == "ZeroDivisionError: by zero (a defect of taemi; --debug shows where)"
    assert "intensities" in deep
    assert "Traceback" not in err
    _, _, err = infer(mixed, "--engine", bundle.folder, "--format", "jsonl", "--debug")
    assert "Traceback" in err
    assert "fail_once" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to score: no INPUT was given. Try: taemi-infer clip.mp4 --engine PATH"),
        (["CLIP"], "cannot score clips: no --engine was given. Name a bundle: --engine NAME.taemi"),
        (
            ["CLIP", "--engine", "none.taemi"],
            "cannot open engine none.taemi: there is no such file or folder. Check the path of --engine",
        ),
        (
            ["CLIP", "SECOND", "--engine", "BUNDLE", "--transcript", "hi"],
            "cannot give one --transcript to 2 clips: each clip has its own. "
            "Put NAME.txt, .vtt or .srt files into a folder: --transcripts DIR",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--transcript", "hi", "--transcripts", "."],
            "cannot take two transcripts: --transcript and --transcripts. Give one of them",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--transcripts", "nowhere"],
            "cannot read transcripts in nowhere: there is no such folder. "
            "Name a folder of NAME.txt, NAME.vtt or NAME.srt files",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--device", "gpu"],
            "cannot use device 'gpu': it has no meaning. Give auto, cpu, cuda or cuda:N",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--max-fps", "0"],
            "cannot sample 0.0 frames a second. Give --max-fps above 0",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--out", "FOLDER"],
            "cannot write FOLDER: it is a folder. Name a file in a folder that can be written",
        ),
        (
            ["CLIP", "--engine", "BUNDLE", "--out", "CLIP/results.json"],
            "cannot write CLIP/results.json: File exists. Name a file in a folder that can be written",
        ),
        (
            ["CLIP", "--engine", "CLIP"],
            "cannot open engine CLIP: files that end in .mp4 are not known. --engine takes a bundle folder "
            "(NAME.taemi), an ONNX graph (.onnx), a TensorRT plan (.plan) or a checkpoint (.pt)",
        ),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(infer, bundle, clips, tmp_path, arguments, message):
    names = {"CLIP": clips.both, "SECOND": clips.second, "BUNDLE": bundle.folder, "FOLDER": tmp_path}

    def fill(text):
        for name, path in names.items():
            text = text.replace(name, str(path))
        return text

    code, out, err = infer(*map(fill, arguments))
    assert (code, out, err) == (2, "", f"error: {fill(message)}\n")


@pytest.mark.parametrize(
    "arguments", [["--format", "xml"], ["--threads", "-1"], ["--bogus"], ["--max-fps", "fast"]]
)
def test_options_that_do_not_parse_have_exit_code_2(infer, bundle, clips, arguments):
    code, out, err = infer(clips.both, "--engine", bundle.folder, *arguments)
    assert (code, out) == (2, "")
    assert arguments[0] in err


def test_an_unwritable_output_is_refused_before_the_work(infer, bundle, clips, monkeypatch, tmp_path):
    monkeypatch.setattr(job_scorer, "open_model", lambda *_, **__: pytest.fail("the model was opened"))
    code, _, err = infer(clips.both, "--engine", bundle.folder, "--out", tmp_path)
    assert code == 2
    assert f"cannot write {tmp_path}" in err


def test_engines_that_do_not_run_have_exit_code_1(infer, make_bundle, clips):
    made = make_bundle()
    path = made.folder / "audio.onnx"
    size = path.stat().st_size
    path.write_bytes(b"bad")
    code, out, err = infer(clips.both, "--engine", made.folder, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: cannot use {path}: it has 3 bytes, the manifest says {size}. ")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(infer, tmp_path, clips, monkeypatch):
    with pytest.raises(Exception, match=r"there is no manifest\.json"):
        infer(clips.both, "--engine", tmp_path, "--debug")


@pytest.mark.parametrize("form", ["json", "csv", "table", "jsonl"])
def test_what_was_done_is_written_when_interrupted(infer, bundle, mixed, monkeypatch, tmp_path, form):
    score = ClipScorer.score

    def stop_at_last(self, path, *rest):
        if Path(path).name == "00009.MP4":
            raise KeyboardInterrupt
        return score(self, path, *rest)

    monkeypatch.setattr(ClipScorer, "score", stop_at_last)
    out = tmp_path / "results"
    code, _, err = infer(mixed, "--engine", bundle.folder, "--format", form, "--out", out, "--quiet")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted: 2 of 3 clips done"
    content = out.read_text()
    assert "00007.mp4" in content
    assert "00009" not in content
    if form == "json":
        assert len(json.loads(content)) == 2


def start(*arguments):
    """Start the console script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "taemi_runtime.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT between processes")
def test_ctrl_c_leaves_whole_lines_and_exit_code_130(bundle, clips, tmp_path):
    for index in range(200):
        (tmp_path / f"{index:03}.mp4").hardlink_to(clips.both)
    with start(tmp_path, "--engine", bundle.folder, "--format", "jsonl", "--ordered", "--quiet") as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # Not communicate, which knows nothing of what readline has taken ahead.
        rest, err = process.stdout.read(), process.stderr.read()
    lines = [first, *rest.splitlines(keepends=True)]
    assert process.returncode == 130
    # In order; after the last one whose turn had come, those that were done ahead of theirs.
    indices = [json.loads(line)["index"] for line in lines]
    assert indices == sorted(set(indices))
    assert err == f"interrupted: {len(lines)} of 200 clips done\n"


def test_a_reader_that_goes_away_is_no_traceback(bundle, clips, tmp_path):
    for index in range(50):
        (tmp_path / f"{index:03}.mp4").hardlink_to(clips.silent)
    process = start(tmp_path, "--engine", bundle.folder, "--format", "jsonl", "--quiet")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()
    assert err == ""


def test_names_that_are_no_text_are_still_written(infer, bundle, clips, tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        shutil.copy(clips.both, tmp_path / name)
    except OSError:
        pytest.skip("this file system takes no such name")
    code, out, _ = infer(tmp_path, "--engine", bundle.folder, "--format", "json")
    assert code == 0
    assert json.loads(out)["clip"] == str(tmp_path / name)


def test_version_and_help(infer):
    code, out, _ = infer("--version")
    assert (code, out) == (0, f"taemi {taemi_runtime.__version__}\n")
    code, out, _ = infer("--help")
    assert code == 0
    for option in ("--engine", "--transcripts", "--device", "--format", "--out", "--doctor"):
        assert option in out
