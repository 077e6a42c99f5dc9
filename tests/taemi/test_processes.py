"""Two processes that train together take the steps of one with twice the batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taemi.corpus import read_corpus
from taemi.processes import joined
from taemi.recipe import Recipe
from taemi.train import train
from taemi_runtime.errors import CheckpointError, TaemiError
from taemi_runtime.strict import from_plain
from tests.taemi.small_systems import small

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(corpus, out, batch_size, processes):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        start += ["--main_process_port", "0"]
    done = subprocess.run(
        [*start, str(SCRIPT), str(corpus), str(out), str(batch_size)],
        capture_output=True,
        text=True,
        check=False,
        # A process that waits for another one that is gone waits for ever.
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "kept.pt", weights_only=True)


@pytest.fixture(scope="module")
def kept(demo_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    return folder, launch(demo_corpus, folder / "one", 6, 1), launch(demo_corpus, folder / "two", 3, 2)


def test_losses_gradients_and_weights_are_those_of_one_process_at_twice_the_batch(kept):
    _, one, two = kept
    assert len(one["losses"]) == 4
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert len(one["grads"]) == len(two["grads"]) == 4
    for step, (left, right) in enumerate(zip(one["grads"], two["grads"], strict=True)):
        for alone, shared in zip(left, right, strict=True):
            if alone is None or shared is None:
                # A weight that no clip needed: without a gradient alone, with zeros where it was exchanged.
                assert all(grad is None or not grad.any() for grad in (alone, shared))
            else:
                torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5, msg=f"step {step}")


def test_one_process_writes_and_the_state_says_how_many_there_were(kept, demo_corpus):
    folder, _, _ = kept
    for name in ("best.pt", "last.pt", "history.json"):
        assert (folder / "two" / name).is_file()
    resume = torch.load(folder / "two" / "last.pt", weights_only=True)["progress"]["resume"]
    assert len(resume["random"]) == 2
    assert resume["run"]["processes"] == 2
    recipe = from_plain(resume["run"]["recipe"], Recipe)
    system = small(max_fps=2.0, modality_dropout=0.0)
    with pytest.raises(CheckpointError, match="processes was 2 and is 1 now"):
        train(
            system,
            read_corpus(demo_corpus),
            folder / "two",
            recipe,
            features=folder / "features",
            resume=True,
        )


def test_a_loss_that_is_no_number_in_one_process_ends_all_of_them(kept):
    folder, _, _ = kept
    ends = [(folder / "two" / f"spoilt-{rank}.txt").read_text() for rank in (0, 1)]
    assert all(end.startswith("TrainingError") and "no finite number" in end for end in ends), ends


def test_a_request_to_stop_in_one_process_is_met_by_all_at_the_next_reduction(kept):
    folder, _, _ = kept
    assert [(folder / "two" / f"asked-{rank}.txt").read_text() for rank in (0, 1)] == ["SystemExit: 143"] * 2
    place = torch.load(folder / "two" / "asked" / "last.pt", weights_only=True)["progress"]["resume"]["place"]
    # It came in the first step; processes tell each other every second one there.
    assert (place["epoch"], place["steps"]) == (1, 2)


@pytest.mark.slow
def test_the_command_trains_in_two_processes_and_goes_on(demo_corpus, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "taemi.cli", "train", str(demo_corpus)]
    command += ["--out", str(tmp_path / "run"), "--encoders", "tiny", "--epochs", "1", "--batch-size", "3"]
    command += ["--pad", "longest", "--max-fps", "2", "--device", "cpu", "--resume"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("train: ") == 1, done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"best.pt", "last.pt", "config.toml"}


@pytest.mark.parametrize(
    ("device", "said"), [("tpu", "Give auto"), ("cuda:x", "Give auto"), ("cuda", "finds 0 CUDA devices")]
)
def test_devices_that_are_not_there_are_refused(device, said):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TaemiError, match=said), joined(device):
        pass
