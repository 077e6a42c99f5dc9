"""``taemi extract`` and ``taemi train STORE`` as a user types them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from taemi.corpus import read_corpus
from taemi.data import read_data, settle_frames
from taemi.recipe import Recipe
from taemi.store.index import read_index
from taemi.train import train
from taemi_runtime.errors import DataError, UsageError
from tests.taemi.extractions import make_system, run_extract, write_small_corpus
from tests.taemi.small_systems import small
from tests.taemi.test_cli import taemi

RECIPE = Recipe(epochs=2, batch_size=3, learning_rate=1e-3, pad="longest")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = write_small_corpus(tmp_path_factory.mktemp("cli") / "data")
    (root / "corpus.json").write_text("{}")  # which says that it is synthetic
    return root


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "store"
    assert not run_extract(corpus, folder, make_system(max_fps=4.0), workers=2).failures
    return folder


def history(run):
    """What training came to in each epoch, but for how long it took and how much memory."""
    kept = ("epoch", "loss", "rho", "rho_by_output", "best", "learning_rate")
    return [{key: epoch[key] for key in kept} for epoch in json.loads((run / "history.json").read_text())]


def test_training_on_a_store_is_training_on_its_corpus_bit_for_bit(corpus, store, tmp_path):
    made = []
    for data in (corpus, store):
        out = tmp_path / f"run{len(made)}"
        system = small(max_fps=4.0)
        best = train(system, read_data(data), out, RECIPE)
        made.append((history(out), best.corpus))
    assert made[0] == made[1]
    assert made[1][1] == "synthetic, 6 clips of data"
    # The store alone was enough.
    assert not (tmp_path / "run1" / "features").exists()
    run = read_index(tmp_path / "run0" / "features")
    assert [*run.splits] == ["train", "valid"]
    assert run.clips["00000"] == read_index(store).clips["00000"]


def test_a_store_needs_the_encoder_and_the_splits_that_it_was_made_of(corpus, store, tmp_path):
    with pytest.raises(DataError, match=r"another vision_encoder: vision_encoder\.sha256 '\w{64}', here '"):
        train(make_system(seed=9, max_fps=4.0), read_data(store), tmp_path / "run", RECIPE)
    with pytest.raises(DataError, match=r"another preprocessing: .*max_fps 4\.0, here 2\.0"):
        train(make_system(max_fps=2.0), read_data(store), tmp_path / "run", RECIPE)
    run_extract(corpus, tmp_path / "train", make_system(), splits=("train",))
    with pytest.raises(DataError, match=r"has no valid split: found: train\. Add it: taemi extract CORPUS"):
        train(make_system(), read_data(tmp_path / "train"), tmp_path / "run", RECIPE)


def test_what_a_store_is_made_with_counts_and_what_contradicts_is_refused(corpus, store):
    data = read_data(store)
    assert settle_frames(data, None, None) == (4.0, "none")
    assert settle_frames(data, 4.0, "none") == (4.0, "none")
    assert settle_frames(read_corpus(corpus), 3.0, None) == (3.0, "none")
    with pytest.raises(UsageError, match=r"--max-fps 2\.0: it was extracted with 4\.0"):
        settle_frames(data, 2.0, None)
    with pytest.raises(UsageError, match="--faces auto: it was extracted with none"):
        settle_frames(data, None, "auto")


def test_a_clip_that_is_not_in_the_store_is_left_out_and_said_so(store, tmp_path):
    copy = shutil.copytree(store, tmp_path / "store")
    (copy / "00003.safetensors").unlink()
    said: list[str] = []
    recipe = replace(RECIPE, epochs=1)
    best = train(make_system(max_fps=4.0), read_data(copy), tmp_path / "run", recipe, warn=said.append)
    assert [message for message in said if "clip" in message.split()[0]] == [
        "clip 00003 is left out: it is not in the store: extract again"
    ]
    assert best.corpus == "synthetic, 5 clips of data"


def test_a_corpus_goes_into_a_store_and_is_trained_on(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "data")
    for folder, suffix in (("raw", "mp4"), ("audio", "mp3")):
        for name in ("00001", "00002"):
            (copy / folder / f"{name}.{suffix}").write_bytes(b"no media")
    options = ("--encoders", "tiny", "--vision-from", "raw", "--max-fps", "5", "--workers", "2")
    done = taemi("extract", "data", "store", *options, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "2 failed (00001, 00002): cannot read the clip: cannot read its audio as media: " in done.stderr
    assert "11 clips, " in done.stderr
    assert " clips/s, 2 failed, " in done.stderr
    assert "next: taemi train store --out run" in done.stderr
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 9
    # The corpus is not needed any more.
    copy.rename(tmp_path / "elsewhere")
    options = ("--out", "run", "--encoders", "tiny", "--epochs", "1", "--pad", "longest", "--no-tensorboard")
    trained = taemi("train", "store", *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "warning: clip 00001 is left out: cannot read clip 00001" in trained.stderr
    assert (tmp_path / "run" / "best.pt").exists()
    wrong = taemi("train", "store", *options, "--max-fps", "2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "with --max-fps 2.0: it was extracted with 5.0. Leave --max-fps out" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--splits", "train,dev"), 1, "has no dev split"),
        (("--splits", ","), 2, "cannot extract no split"),
        (("--device", "gpu"), 2, "cannot use device 'gpu'"),
        (("--encoders", "huge"), 2, "Choose --encoders paper or tiny"),
        (("--vision-from", "vitt"), 1, "there is no such folder"),
        (("--batch", "0"), 2, "--batch"),
        (("--ray", "--device", "cuda:1"), 2, "Ray deals out the machines' devices"),
        (("--ray", "--workers", "0"), 2, "Give --workers 1 or more"),
    ],
)
def test_wrong_arguments_get_one_clear_message(corpus, tmp_path, options, code, words):
    done = taemi("extract", corpus, tmp_path / "store", *options, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_clips_without_words_are_refused_before_any_model_is_loaded(corpus, tmp_path, monkeypatch):
    copy = shutil.copytree(corpus, tmp_path / "data")
    (copy / "text" / "00003.txt").unlink()
    # Found first, and no package of anybody's.
    (tmp_path / "none").mkdir()
    for name in ("whisper", "faster_whisper"):
        (tmp_path / "none" / f"{name}.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path / "none"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    done = taemi("extract", "data", "store", "--encoders", "tiny", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: cannot transcribe 1 of 11 clips, which have no transcript file" in done.stderr
    assert "or go on without their words: --asr none" in done.stderr
    assert not (tmp_path / "store").exists()
    assert (
        taemi("extract", "data", "store", "--encoders", "tiny", "--asr", "none", cwd=tmp_path).returncode == 0
    )
