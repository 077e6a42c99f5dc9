"""``taemi-infer`` on folders, in a process of its own: killed, interrupted, resumed, its disk full."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taemi_runtime import cli, job
from taemi_runtime.delivery import Scored
from tests.runtime.tiny_clips import make_clip

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="decode workers and signals are POSIX here")


def command(*arguments):
    return [sys.executable, "-m", "taemi_runtime.cli", *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])}


def infer(*arguments):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=120, check=False
    )


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def lines_of(path):
    return [json.loads(raw) for raw in path.read_text().splitlines()]


def children(pid):
    """The decode workers of a process, by their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == pid and stat[0] != "Z":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def running(pids):
    alive = []
    for pid in pids:
        try:
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                alive.append(pid)
        except OSError:
            continue
    return alive


def gone(pids, within_s=10.0):
    end = time.monotonic() + within_s
    while running(pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not running(pids)


@pytest.fixture
def folder(tmp_path):
    """Sixty clips of different content, two of which are none."""
    place = tmp_path / "clips"
    place.mkdir()
    content = [make_clip(tmp_path / f"{number}.mkv", seconds=0.5).read_bytes() for number in range(4)]
    for index in range(60):
        # What follows the last cluster is no part of the clip, and makes its digest its own.
        (place / f"{index:02}.mkv").write_bytes(content[index % 4] + b"\xec\x84" + index.to_bytes(4, "big"))
    for index in (17, 44):
        (place / f"{index}.mkv").write_bytes(b"no media %d" % index * 20)
    return place


@pytest.fixture(scope="module")
def alone(bundle):
    """Scores of one clip at a time, by its bytes."""
    from taemi_runtime import load

    found = {}

    def score(path):
        content = path.read_bytes()
        if content not in found:
            with load(bundle.folder, device="cpu", asr="none") as scorer:
                found[content] = scorer.score(path).intensities
        return found[content]

    return score


def check_all(lines, folder, alone):
    """Every clip once, with its index and its scores, or its failure."""
    clips = sorted(folder.iterdir())
    by_index = {line["index"]: line for line in lines}
    assert len(lines) == len(by_index) == len(clips)
    for index, path in enumerate(clips):
        line = by_index[index]
        assert line["clip"] == str(path)
        if path.stem in ("17", "44"):
            assert line["error"].startswith(f"cannot read {path} as media")
        else:
            scores = np.array(list(line["intensities"].values()))
            np.testing.assert_allclose(scores, list(alone(path).values()), atol=1e-5)


def test_a_folder_is_scored_by_workers_with_the_scores_of_one_clip_at_a_time(bundle, folder, alone, tmp_path):
    out = tmp_path / "scores.jsonl"
    done = infer(folder, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--workers", 2)
    assert done.returncode == 1
    assert "60 clips, 2 failed" in done.stderr
    check_all(lines_of(out), folder, alone)
    ordered = tmp_path / "ordered.jsonl"
    options = ("--workers", 2, "--batch", 3, "--ordered")
    infer(folder, "--engine", bundle.folder, "--format", "jsonl", "--out", ordered, *options)
    assert [line["index"] for line in lines_of(ordered)] == list(range(60))
    check_all(lines_of(ordered), folder, alone)


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_other_forms_come_in_the_order_of_the_inputs(bundle, folder, form):
    done = infer(folder, "--engine", bundle.folder, "--format", form, "--workers", 2, "--batch", 2, "--quiet")
    names = [str(path) for path in sorted(folder.iterdir())]
    if form == "json":
        assert [line["clip"] for line in json.loads(done.stdout)] == names
    elif form == "csv":
        assert [row["clip"] for row in csv.DictReader(done.stdout.splitlines())] == names
    else:
        found = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(str(folder))]
        assert found == [name for name in names if name[-6:-4] not in ("17", "44")]


def test_kill_9_loses_what_was_in_flight_and_resume_does_every_clip_once(bundle, folder, alone, tmp_path):
    out = tmp_path / "scores.jsonl"
    arguments = (folder, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--workers", 2)
    process = start(*arguments, "--batch", 2)
    while not out.exists() or out.read_text().count("\n") < 12:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    assert len(workers) == 2
    assert gone(workers)
    content = out.read_bytes()
    before = content.count(b"\n")
    assert 12 <= before < 60, "the run was over before it was killed"
    # As a power cut or a full disk may leave it.
    out.write_bytes(content + b'{"clip": "torn')
    done = infer(*arguments, "--resume")
    assert done.returncode == 1
    check_all(lines_of(out), folder, alone)
    kept = sum(b'"error"' not in raw for raw in content.splitlines())
    assert f"60 clips, {kept} of them done before, 2 failed" in done.stderr
    # Once more: only what failed is tried again, and nothing changes.
    again = infer(*arguments, "--resume", "--ordered")
    assert "60 clips, 58 of them done before, 2 failed" in again.stderr
    assert [line["index"] for line in lines_of(out)] == list(range(60))
    check_all(lines_of(out), folder, alone)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".mkv") == [
        "clips",
        "scores.jsonl",
    ]


def test_a_resumed_run_of_a_folder_that_is_done_opens_no_engine(make_bundle, folder, tmp_path):
    for name in ("17.mkv", "44.mkv"):
        (folder / name).unlink()
    made = make_bundle()
    out = tmp_path / "scores.jsonl"
    arguments = (folder, "--engine", made.folder, "--format", "jsonl", "--out", out)
    assert infer(*arguments).returncode == 0
    before = out.read_bytes()
    (made.folder / "fusion.onnx").unlink()
    done = infer(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "58 clips, 58 of them done before" in done.stderr
    assert {line["clip"] for line in lines_of(out)} == {
        line["clip"] for line in map(json.loads, before.splitlines())
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "only a file of JSON lines says what is done, and no --out was given"),
        (["--resume", "--format", "csv", "--out", "OUT"], "only a file of JSON lines says what is done. "),
        (["--resume", "--format", "jsonl"], "only a file of JSON lines says what is done, and no --out"),
    ],
)
def test_resume_needs_a_file_of_json_lines(bundle, folder, tmp_path, options, message):
    options = [str(tmp_path / "out") if option == "OUT" else option for option in options]
    done = infer(folder, "--engine", bundle.folder, *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot resume: {message}")
    assert "Give --format jsonl --out FILE" in done.stderr


def test_resume_refuses_scores_of_another_engine(bundle, make_bundle, folder, tmp_path):
    out = tmp_path / "scores.jsonl"
    infer(folder / "00.mkv", "--engine", bundle.folder, "--format", "jsonl", "--out", out)
    before = out.read_bytes()
    other = make_bundle(bias=[0.1] * 6)
    done = infer(folder, "--engine", other.folder, "--format", "jsonl", "--out", out, "--resume")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot resume {out}: its line 1 was scored with engine ")
    assert out.read_bytes() == before


def test_ctrl_c_ends_within_a_second_and_leaves_whole_lines(bundle, folder, tmp_path):
    out = tmp_path / "scores.jsonl"
    process = start(folder, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--workers", 2)
    while not out.exists() or out.read_text().count("\n") < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    workers = children(process.pid)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 1.0
    assert process.returncode == 130
    lines = lines_of(out)
    assert f"interrupted: {len(lines)} of 60 clips done" in err
    assert "Traceback" not in err
    assert gone(workers, within_s=1.0)


SLOW_TO_OPEN = """
import os, sys, time
import taemi_runtime.loading as loading
def open_best(*_):
    os.write(1, b"opening\\n")  # Several graphs may be opened at a time: whole lines.
    time.sleep(30)
loading.open_best = open_best
from taemi_runtime.cli import main
sys.argv = ["taemi-infer", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("count", [1, 60])
def test_ctrl_c_while_engines_are_opened_ends_within_a_second(bundle, folder, count):
    inputs = sorted(folder.iterdir())[:count]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_OPEN, *map(str, inputs), "--engine", str(bundle.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout.readline() == "opening\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 1.0
    assert (process.returncode, err) == (130, f"interrupted: 0 of {count} clips done\n")


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_what_was_done_out_of_order_is_written_when_interrupted(bundle, folder, tmp_path, monkeypatch, form):
    def interrupted(scorer, requests, scale, **_):
        """The first clip is not done yet when Ctrl-C comes, two others are."""
        requests = list(requests)
        for request in (requests[4], requests[2]):
            yield Scored(request.index, scorer.score(request.path))
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "score_all", interrupted)
    out = tmp_path / "scores"
    arguments = ("--engine", bundle.folder, "--format", form, "--out", out, "--workers", 2, "--quiet")
    monkeypatch.setattr(sys, "argv", ["taemi-infer", str(folder), *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    content = out.read_text()
    assert 0 < content.index("02.mkv") < content.index("04.mkv")
    assert "00.mkv" not in content


@pytest.mark.parametrize("workers", [0, 2])
def test_a_graph_that_is_missing_fails_the_clips_that_need_it(make_bundle, clips, tmp_path, workers):
    made = make_bundle()
    (made.folder / "vision.onnx").unlink()
    paths = [clips.both, clips.sound, clips.silent, clips.second]
    arguments = (*paths, "--engine", made.folder, "--format", "json", "--workers", workers, "--raw")
    done = infer(*arguments)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    missing = "vision.onnx: the manifest lists it and the bundle does not have it"
    assert [missing in line.get("error", "") for line in found] == [True, False, True, True]
    scores = list(found[1]["intensities"].values())
    np.testing.assert_allclose(scores, made.expected(clips.sound), atol=1e-5)
    # Said once at the start, and once for each clip.
    assert done.stderr.count(missing) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_one_message(bundle, folder, tmp_path, workers):
    out = tmp_path / "scores.jsonl"
    out.symlink_to("/dev/full")
    done = infer(folder, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--workers", workers)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"error: cannot write {out}: No space left on device. Free some space, or write to another disk"
    )
    assert "Traceback" not in done.stderr


def test_a_few_clips_start_no_process(bundle, clips, tmp_path):
    program = (
        "import subprocess, sys\n"
        "subprocess.Popen = None\n"
        "from taemi_runtime.cli import main\n"
        "sys.argv = ['taemi-infer', *sys.argv[1:]]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(clips.both), str(clips.second), "--engine", str(bundle.folder)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_who_stops_reading_and_leaves_is_not_waited_for(bundle, clips, tmp_path):
    program = (
        "import sys, taemi_runtime\n"
        "scorer = taemi_runtime.load(sys.argv[1], device='cpu', asr='none')\n"
        "found = scorer.predict_many(sys.argv[2:] * 100, workers=2)\n"
        "print(next(found).clip)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle.folder), str(clips.both)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{clips.both}\n", "")


def test_a_script_without_a_guard_can_use_workers(bundle, clips, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, taemi_runtime\n"
        "print('imported')\n"
        "with taemi_runtime.load(sys.argv[1], device='cpu', asr='none') as scorer:\n"
        "    for outcome in scorer.predict_many(sys.argv[2:], workers=2):\n"
        "        print(outcome.clip, type(outcome).__name__)\n"
    )
    paths = [str(path) for path in (clips.both, clips.broken, clips.second)]
    done = subprocess.run(
        [sys.executable, str(script), str(bundle.folder), *paths],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.stdout.splitlines() == [
        "imported",
        f"{paths[0]} ClipResult",
        f"{paths[1]} ClipFailure",
        f"{paths[2]} ClipResult",
    ], done.stderr
