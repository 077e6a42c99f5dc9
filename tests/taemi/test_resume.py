"""Going on with a run that was cut off, at any step, to the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from taemi.corpus import read_corpus
from taemi.curves import FOLDER_NAME
from taemi.exportable import read_checkpoint
from taemi.random_state import random_state, restore_random_state, seed_all
from taemi.recipe import Recipe
from taemi.train import train
from taemi_runtime.errors import CheckpointError, UsageError, WriteError
from tests.taemi.small_systems import small

RECIPE = Recipe(epochs=2, patience=2, batch_size=3, learning_rate=1e-3, pad="longest", save_every=1)


class CutError(Exception):
    """What stands for a power cut."""


@pytest.fixture(scope="module")
def place(demo_corpus, tmp_path_factory):
    """A folder for runs that share their features, and a function that trains there."""
    folder = tmp_path_factory.mktemp("runs")
    fresh = small(max_fps=2.0)
    blank = {name: value.clone() for name, value in fresh.state_dict().items()}
    corpus = read_corpus(demo_corpus)

    def run(name, recipe=RECIPE, *, cut=None, ask=None, resume=False, **more):
        """Train; with ``cut`` (epoch, step) the run ends there, before anything more is kept.

        With ``ask`` (epoch, step, signal) it is sent a signal there.
        """
        fresh.load_state_dict(blank)

        def tick(step, done, total):
            if cut is not None and (step, done) == (f"epoch {cut[0]}", cut[1]):
                raise CutError
            if ask is not None and (step, done) == (f"epoch {ask[0]}", ask[1]):
                os.kill(os.getpid(), ask[2])

        return train(
            fresh,
            corpus,
            folder / name,
            recipe,
            tick=tick,
            resume=resume,
            features=folder / "features",
            **more,
        )

    run("whole")
    return folder, run


def content(folder, name="last.pt"):
    """All that a run came to, without the times."""
    data = read_checkpoint(folder / name)
    data["progress"]["resume"] = {
        key: value for key, value in data["progress"]["resume"].items() if key != "place"
    }
    history = json.loads((folder / "history.json").read_text())
    kept = ("epoch", "loss", "rho", "rho_by_output", "best", "learning_rate")
    return data, [{key: report[key] for key in kept} for report in history]


def same(left, right, path=""):
    """Whether two trees of tensors and plain values are the same, bit for bit."""
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, path
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for at, (a, b) in enumerate(zip(left, right, strict=True)):
            same(a, b, f"{path}/{at}")
    else:
        assert left == right, path


@pytest.mark.parametrize("cut", [pytest.param((1, 4), marks=pytest.mark.slow), (2, 3)])
def test_a_run_that_is_cut_off_ends_with_the_bits_of_one_that_is_not(place, cut):
    folder, run = place
    name = f"cut-{cut[0]}-{cut[1]}"
    with pytest.raises(CutError):
        run(name, cut=cut)
    run(name, resume=True)
    same(content(folder / "whole"), content(folder / name))
    same(read_checkpoint(folder / "whole" / "best.pt"), read_checkpoint(folder / name / "best.pt"))
    # Speed is that of the part that was trained now: the step that was cut off, and those after it.
    report = json.loads((folder / name / "history.json").read_text())[cut[0] - 1]
    assert report["clips_per_s"] * report["training_seconds"] == pytest.approx(12 - 3 * (cut[1] - 1))


@pytest.mark.slow
def test_what_was_not_kept_is_done_again(place):
    folder, run = place
    recipe = replace(RECIPE, save_every=3)
    with pytest.raises(CutError):
        run("rarely", recipe, cut=(2, 2))
    assert read_checkpoint(folder / "rarely" / "last.pt")["progress"]["resume"]["place"]["steps"] == 0
    run("rarely", recipe, resume=True)
    data, history = content(folder / "rarely")
    whole, whole_history = content(folder / "whole")
    same(whole["fusion"], data["fusion"])
    assert history == whole_history


def test_a_run_that_is_done_stays_as_it_is(place):
    folder, run = place
    before = (folder / "whole" / "last.pt").read_bytes()
    best = run("whole", resume=True)
    assert (folder / "whole" / "last.pt").read_bytes() == before
    assert best.rho == max(
        report["rho"] for report in json.loads((folder / "whole" / "history.json").read_text())
    )


@pytest.mark.slow
def test_workers_and_how_often_is_kept_may_change(place):
    folder, run = place
    with pytest.raises(CutError):
        run("workers", cut=(2, 1))
    run("workers", replace(RECIPE, workers=2, save_every=0), resume=True)
    same(content(folder / "whole")[0]["fusion"], content(folder / "workers")[0]["fusion"])


def test_another_recipe_or_other_data_are_refused_with_both_values(place, demo_corpus):
    folder, run = place
    before = (folder / "whole" / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=r"recipe is another: learning_rate was 0.001 and is 0.01 now"):
        run("whole", replace(RECIPE, learning_rate=0.01), resume=True)
    corpus = read_corpus(demo_corpus)
    rows = corpus.splits["train"]
    other = replace(
        corpus, splits={**corpus.splits, "train": (replace(rows[0], labels=(1.0,) * 6), *rows[1:])}
    )
    with pytest.raises(CheckpointError, match="the data is another"):
        train(small(max_fps=2.0), other, folder / "whole", RECIPE, resume=True, features=folder / "features")
    with pytest.raises(CheckpointError, match="model is another: hidden was 32 and is 64 now"):
        wider = small(hidden=64, max_fps=2.0)
        train(wider, corpus, folder / "whole", RECIPE, resume=True, features=folder / "features")
    assert (folder / "whole" / "last.pt").read_bytes() == before


def test_a_damaged_state_is_refused(place):
    folder, run = place
    (folder / "damaged").mkdir()
    data = read_checkpoint(folder / "whole" / "last.pt")
    del data["progress"]["resume"]["place"]["best"]["epoch"]
    data["progress"]["resume"]["place"]["best"]["era"] = 1
    torch.save(data, folder / "damaged" / "last.pt")
    with pytest.raises(CheckpointError, match="era"):
        run("damaged", resume=True)
    for damage in (
        lambda progress: progress["resume"].pop("run"),
        lambda progress: progress["resume"]["run"].pop("recipe"),
        lambda progress: progress["resume"].update(place=None),
        lambda progress: progress["resume"]["place"].update(epoch="two"),
        lambda progress: progress["resume"].pop("threads"),
        lambda progress: progress["resume"].pop("optimiser"),
        lambda progress: progress["resume"].update(random=[]),
        lambda progress: progress["resume"]["random"][0].pop("numpy"),
    ):
        data = read_checkpoint(folder / "whole" / "last.pt")
        damage(data["progress"])
        torch.save(data, folder / "damaged" / "last.pt")
        with pytest.raises(CheckpointError, match="The file is damaged: train again without --resume"):
            run("damaged", resume=True)
    best = read_checkpoint(folder / "whole" / "best.pt")
    for data in (best, {**best, "progress": None}):
        torch.save(data, folder / "damaged" / "last.pt")
        with pytest.raises(CheckpointError, match="no state of a training"):
            run("damaged", resume=True)


def test_a_run_that_begins_takes_the_place_of_the_earlier_one_and_a_refused_one_changes_nothing(place):
    folder, run = place
    out = folder / "replaced"
    shutil.copytree(folder / "whole", out)
    (out / FOLDER_NAME).mkdir()
    for name in (f"{FOLDER_NAME}/events.out.tfevents.1.host", ".last.pt.cut.part", "notes.txt"):
        (out / name).write_text(name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    begun = []
    for refused, recipe, resume in (
        (UsageError, replace(RECIPE, precision="fp16"), False),
        (CheckpointError, replace(RECIPE, seed=1), True),
    ):
        with pytest.raises(refused):
            run("replaced", recipe, resume=resume, begin=lambda: begun.append("refused"))
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CutError):
        run("replaced", cut=(1, 1), begin=lambda: begun.append(sorted(path.name for path in out.iterdir())))
    # Nothing is left that --resume would go on from, or that would be taken for this run's.
    assert begun == [["notes.txt", FOLDER_NAME]]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == [out / "notes.txt"]


@pytest.mark.slow
def test_another_number_of_threads_is_told(place):
    _, run = place
    with pytest.raises(CutError):
        run("threads", cut=(2, 3))
    threads, said = torch.get_num_threads(), []
    try:
        torch.set_num_threads(threads + 1)
        run("threads", resume=True, warn=said.append)
    finally:
        torch.set_num_threads(threads)
    assert any(f"{threads} threads" in message and "last bits" in message for message in said)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state_whole(place, monkeypatch):
    folder, run = place
    with pytest.raises(CutError):
        run("full", cut=(1, 2))
    before = (folder / "full" / "last.pt").read_bytes()
    # A limit on the size of files fails as a full disk does, in the middle of the write.
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises((WriteError, RuntimeError)):
            run("full", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "full" / "last.pt").read_bytes() == before
    assert not list((folder / "full").glob(".*"))
    run("full", resume=True)
    same(content(folder / "whole")[0]["fusion"], content(folder / "full")[0]["fusion"])


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_request_to_stop_is_met_between_two_steps(place, number):
    folder, run = place
    said = []
    with pytest.raises((KeyboardInterrupt, SystemExit)) as left:
        run(f"stop-{number}", ask=(2, 2, number), warn=said.append)
    assert getattr(left.value, "code", 130) == 128 + number
    assert any("stops after this step" in message for message in said)
    kept = read_checkpoint(folder / f"stop-{number}" / "last.pt")["progress"]["resume"]["place"]
    assert (kept["epoch"], kept["steps"]) == (2, 2)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    run(f"stop-{number}", resume=True)
    same(content(folder / "whole"), content(folder / f"stop-{number}"))


def test_random_generators_go_on_where_they_stood():
    seed_all(5)
    state = random_state()
    drawn = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    restore_random_state(state)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == drawn


# -- the command, killed -----------------------------------------------------------------------------

OPTIONS = """
encoders = "tiny"
epochs = 2
patience = 2
batch_size = 2
learning_rate = 1e-3
pad = "longest"
max_fps = 2.0
save_every = 1
workers = 0
device = "cpu"
tensorboard = false
seed = 7
"""


def command(corpus, out, *more):
    config = out.with_name("options.toml")
    config.write_text(OPTIONS)
    start = [sys.executable, "-m", "taemi.cli", "train", str(corpus), "--out", str(out)]
    return [*start, "--config", str(config), *more]


def environment():
    # The same bits ask for the same number of threads.
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def undisturbed(demo_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(
        command(demo_corpus, out), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def disturb(corpus, out, number, seconds):
    """Start a run, or go on with it, and send a signal after some time; returns its exit code."""
    process = subprocess.Popen(
        command(corpus, out, "--resume"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.communicate()
    return process.returncode


def kill_often(corpus, out, times, seed):
    chance = random.Random(seed)
    for _ in range(times):
        code = disturb(corpus, out, signal.SIGKILL, chance.uniform(2.0, 9.0))
        assert code in (0, -signal.SIGKILL)
        if (out / "last.pt").exists():
            read_checkpoint(out / "last.pt")  # Whole, whenever it was killed.
    done = subprocess.run(
        command(corpus, out, "--resume"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_command_that_is_killed_twenty_times_goes_on_to_the_same_bits(demo_corpus, undisturbed, tmp_path):
    kill_often(demo_corpus, tmp_path / "run", 20, seed=2)
    same(content(undisturbed), content(tmp_path / "run"))


@pytest.mark.slow
def test_a_command_that_is_refused_leaves_the_folder_as_it_is(demo_corpus, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    done = subprocess.run(
        command(demo_corpus, tmp_path / "run", "--resume", "--learning-rate", "0.5"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "learning_rate was 0.001 and is 0.5 now" in done.stderr
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_asked_to_stop_keeps_its_state(
    demo_corpus, undisturbed, tmp_path, number, code, workers
):
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(demo_corpus, out, "--workers", str(workers)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    # A terminal and a cluster signal the processes that read batches, too.
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert said.count("stops after this step") == 1
    assert "Traceback" not in said
    done = subprocess.run(
        command(demo_corpus, out, "--resume"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same(content(undisturbed), content(out))
