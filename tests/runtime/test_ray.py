"""A real cluster of several processes on this machine: they are killed, and every clip is scored once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taemi_runtime.cluster.shares import Shares
from taemi_runtime.cluster.stages import Source
from taemi_runtime.results import ClipFailure
from tests.runtime.cluster_jobs import SlowReader, SlowRecipe
from tests.runtime.cluster_processes import finish, processes_of
from tests.runtime.tiny_clips import make_clip

pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
COUNT = 60


@pytest.fixture(scope="module")
def cluster():
    from taemi_runtime.cluster.session import open_cluster

    with open_cluster("local", processors=4) as found:
        yield found


def run(cluster, count, reader, recipe, each=lambda parcel: None):
    from taemi_runtime.cluster.flow import run_stages

    shares = Shares(models=2, cpus=1.0, gpus=0, decoders=2, threads=1, device="cpu", batch=4)
    found = {}
    for parcel in run_stages(cluster, shares, [Source(n, f"clip{n}") for n in range(count)], reader, recipe):
        assert parcel.source.index not in found
        found[parcel.source.index] = parcel.content
        each(parcel)
    assert sorted(found) == list(range(count))
    return found


@pytest.mark.slow
def test_killed_processes_lose_nothing(cluster):
    killed = []

    def kill(parcel):
        # One that reads and one that holds a model, as soon as it is known which they are.
        if not killed:
            for process in parcel.content[1:]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    found = run(cluster, COUNT, SlowReader(), SlowRecipe(), kill)
    assert len(killed) == 2
    for index, content in found.items():
        assert content[0] == index
    # Both were replaced: others did what was left.
    for place in (1, 2):
        assert {content[place] for content in found.values()} - set(killed)
    assert os.getpid() not in {process for content in found.values() for process in content[1:]}


@pytest.mark.slow
def test_inputs_that_kill_their_process_end_as_their_own_failures(cluster):
    found = run(cluster, 12, SlowReader(killer=5), SlowRecipe(killer=7))
    failures = {index: content for index, content in found.items() if isinstance(content, ClipFailure)}
    assert sorted(failures) == [5, 7]
    assert "the process that reads it died 3 times" in failures[5].error
    assert "the process that works on it died 3 times" in failures[7].error


@pytest.fixture
def folder(tmp_path):
    """Many clips of a few contents, and one that is none."""
    folder = tmp_path / "clips"
    folder.mkdir()
    first = [make_clip(folder / f"{n:03d}.mp4", seconds=0.3 + 0.1 * n) for n in range(4)]
    for n in range(4, COUNT):
        shutil.copy(first[n % 4], folder / f"{n:03d}.mp4")
    (folder / "broken.mp4").write_bytes(b"no clip")
    return folder


def environment(tmp_path):
    places = {name: tmp_path / name.lower() for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    path = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    return {**os.environ, **{name: str(place) for name, place in places.items()}, "PYTHONPATH": path}


def start(tmp_path, folder, bundle, out, *options):
    command = [sys.executable, "-m", "taemi_runtime.cli", folder.name, "--engine", str(bundle.folder)]
    return subprocess.Popen(
        [*command, "--format", "jsonl", "--out", str(out), *options],
        cwd=folder.parent,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def written(out):
    folder = out.with_name(f"{out.name}.parts")
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))


def wait_for_lines(process, out, count):
    while process.poll() is None and written(out) < count:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def same_scores(first, second):
    """Every clip once, in the order of the inputs, with the scores of a plain run."""
    assert [line["clip"] for line in first] == [line["clip"] for line in second]
    assert [line["index"] for line in first] == list(range(len(first)))
    for one, other in zip(first, second, strict=True):
        assert one.get("error") == other.get("error")
        if "error" not in one:
            assert one["modalities"] == other["modalities"]
            assert one["key"] == other["key"]
            assert one["intensities"] == pytest.approx(other["intensities"], abs=1e-6)


def test_a_folder_on_a_local_cluster_of_which_processes_are_killed(tmp_path, folder, bundle):
    finish(start(tmp_path, folder, bundle, tmp_path / "plain.jsonl", "--ordered"), 1)
    out = tmp_path / "ray.jsonl"
    process = start(tmp_path, folder, bundle, out, "--ray")
    wait_for_lines(process, out, 4)
    workers = {pid: name for pid, name in processes_of(process.pid).items() if name.startswith("ray::Map")}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    before = written(out)
    stderr = finish(process, 1)
    assert any("MapWorker" in name for name in workers.values()), workers
    assert before < COUNT
    assert f"{COUNT + 1} clips, 1 failed" in stderr
    same_scores(lines(out), lines(tmp_path / "plain.jsonl"))
    left = [path for name in ("home", "tmpdir", "xdg_cache_home") for path in (tmp_path / name).rglob("*")]
    assert left == []
    assert not out.with_name("ray.jsonl.parts").exists()


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_each_clip_is_there_once(tmp_path, folder, bundle):
    finish(start(tmp_path, folder, bundle, tmp_path / "plain.jsonl", "--ordered"), 1)
    out = tmp_path / "ray.jsonl"
    process = start(tmp_path, folder, bundle, out, "--ray")
    wait_for_lines(process, out, 8)
    process.kill()
    process.communicate()
    done = written(out)
    assert not out.exists()
    # A line that was being written.
    (part, *_) = out.with_name("ray.jsonl.parts").iterdir()
    with part.open("a") as stream:
        stream.write('{"clip": "clips/0')
    stderr = finish(start(tmp_path, folder, bundle, out, "--ray", "--resume"), 1)
    assert f"{COUNT + 1} clips, " in stderr
    # Clips of one content share a key: at least those of the lines were not scored again.
    assert int(stderr.split(" of them done before")[0].split()[-1]) >= done
    same_scores(lines(out), lines(tmp_path / "plain.jsonl"))


@pytest.mark.slow
def test_an_interrupted_run_stops_its_cluster_and_keeps_what_is_done(tmp_path, folder, bundle):
    out = tmp_path / "ray.jsonl"
    process = start(tmp_path, folder, bundle, out, "--ray")
    wait_for_lines(process, out, 4)
    below = processes_of(process.pid)
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    stderr = finish(process, 130)
    assert time.monotonic() - start_s < 15
    kept = lines(out)
    assert f"interrupted: {len(kept)} of {COUNT + 1} clips done" in stderr
    assert [line["index"] for line in kept] == sorted({line["index"] for line in kept})
    assert any("raylet" in name for name in below.values())
    time.sleep(1)
    still = [name for pid, name in below.items() if Path(f"/proc/{pid}/cmdline").exists() and alive(pid)]
    assert still == []


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_an_engine_that_cannot_be_opened_is_one_line_that_names_the_machine(tmp_path, folder, make_bundle):
    damaged = make_bundle()
    (damaged.folder / "vision.onnx").write_bytes(b"no graph")
    process = start(tmp_path, folder, damaged, tmp_path / "out.jsonl", "--ray")
    stderr = finish(process, 1)
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: cannot use")]
    assert f"{damaged.folder / 'vision.onnx'} on node " in line


def test_where_nobody_listens_is_no_cluster(tmp_path, folder, bundle):
    process = start(tmp_path, folder, bundle, tmp_path / "out.jsonl", "--ray", "127.0.0.1:1")
    stderr = finish(process, 1)
    assert stderr.startswith("error: cannot join the Ray cluster at 127.0.0.1:1: nothing answers there (")
    assert stderr.count("\n") == 1


def test_the_client_s_address_says_where_to_run_instead(tmp_path, folder, bundle):
    process = start(tmp_path, folder, bundle, tmp_path / "out.jsonl", "--ray", "ray://head:10001")
    stderr = finish(process, 2)
    assert "Run this on a machine of the cluster (ssh head, or ray job submit) with --ray=auto" in stderr
