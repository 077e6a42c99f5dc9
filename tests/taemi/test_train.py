"""Training, end to end: what is learned, what is written, and what it can be rebuilt from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from taemi.batches import Collate, in_order, load_batches
from taemi.checkpoint import load_system, save_checkpoint
from taemi.corpus import ClipRow, read_corpus
from taemi.exportable import open_source, read_checkpoint
from taemi.features import FeatureStore
from taemi.recipe import Recipe
from taemi.schedule import WarmupCosine
from taemi.train import predict, train
from taemi_runtime.errors import CheckpointError, DataError, UsageError
from taemi_runtime.tokens import Tokenizer
from tests.runtime.drawn_faces import Face, draw, wall, write_video
from tests.taemi.small_systems import small


@pytest.fixture(scope="module")
def run(demo_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    reports = []
    system = small(max_fps=4.0)
    recipe = Recipe(epochs=3, batch_size=2, learning_rate=1e-3, pad="longest")
    best = train(system, read_corpus(demo_corpus), out, recipe, report=reports.append)
    return out, reports, best


def collate(system, *, pad_to_max):
    tokenizer = Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text)
    return Collate(tokenizer, system.preprocessing, system.config.vision_dim, pad_to_max=pad_to_max)


def test_training_lowers_the_loss_and_reports_each_epoch(run):
    _, reports, best = run
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert reports[-1].loss < reports[0].loss
    assert all(-1 <= rho <= 1 for report in reports for rho in report.rho_by_output)
    assert best.rho == max(report.rho for report in reports)
    assert reports[best.epoch - 1].best


def test_every_trainable_part_moved_and_the_vision_encoder_did_not(run):
    out, _, _ = run
    trained, progress = load_system(out / "best.pt")
    fresh = small(max_fps=4.0)
    before, after = fresh.state_dict(), trained.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"audio_encoder", "text_encoder", "fusion"}
    assert progress.trained
    assert progress.corpus.startswith("synthetic, 12 clips")


def test_the_best_checkpoint_scores_as_its_report_says(run, demo_corpus):
    out, reports, best = run
    system, _ = load_system(out / "best.pt")
    store = FeatureStore(out / "features", system.vision_encoder, system.preprocessing)
    rows = read_corpus(demo_corpus).split("valid")
    batches = load_batches(rows, store, collate(system, pad_to_max=False), in_order(len(rows), 3))
    predicted, labels = predict(system, batches, torch.device("cpu"))
    with np.errstate(invalid="ignore"):
        expected = [np.corrcoef(predicted[:, column], labels[:, column])[0, 1] for column in range(6)]
    found = reports[best.epoch - 1].rho_by_output
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-4)


def test_the_last_checkpoint_keeps_the_optimiser_as_tensors_and_plain_values(run):
    out, _, _ = run
    resume = read_checkpoint(out / "last.pt")["progress"]["resume"]
    assert resume["optimiser"]["state"]
    assert resume["step"] == 18


def test_padding_to_twelve_seconds_gives_the_scores_of_the_longest_clip(run, demo_corpus):
    out, _, _ = run
    system, _ = load_system(out / "best.pt")
    store = FeatureStore(out / "features", system.vision_encoder, system.preprocessing)
    rows = read_corpus(demo_corpus).split("valid")
    scores = [
        predict(
            system,
            load_batches(rows, store, collate(system, pad_to_max=full), in_order(len(rows), 4)),
            torch.device("cpu"),
        )[0]
        for full in (False, True)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-5)


def test_frozen_encoders_stay_as_they_are(demo_corpus, tmp_path):
    system = small("released", seed=2, max_fps=2.0)
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    recipe = Recipe(epochs=1, batch_size=12, warmup_epochs=0, freeze=("audio", "text"), pad="longest")
    train(system, read_corpus(demo_corpus), tmp_path, recipe)
    after = system.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fusion"}


def test_features_of_another_encoder_are_refused(run):
    out, _, _ = run
    other = small(seed=99, max_fps=4.0)
    with pytest.raises(DataError, match="vision_encoder"):
        FeatureStore(out / "features", other.vision_encoder, other.preprocessing).extract([])


def test_warm_up_is_linear_and_the_cosine_ends_at_zero():
    factor = WarmupCosine(1.0, warmup=20, total=200).rate
    assert [factor(step) for step in (0, 10, 20)] == [0.0, 0.5, 1.0]
    assert factor(110) == pytest.approx(0.5)
    assert factor(200) == pytest.approx(0.0, abs=1e-12)
    assert factor(65) == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 180)))


def test_recipes_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="batch_size"):
        Recipe(batch_size=0)
    with pytest.raises(UsageError, match="vision"):
        Recipe(freeze=("vision",))


def test_checkpoints_survive_a_round_trip_bit_for_bit(demo_checkpoint, tmp_path):
    system, progress = load_system(demo_checkpoint)
    assert not progress.trained
    save_checkpoint(tmp_path / "again.pt", system, progress)
    again, _ = load_system(tmp_path / "again.pt")
    for name, tensor in system.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert again.preprocessing == system.preprocessing
    assert again.config == system.config


def test_broken_checkpoints_are_named_for_what_they_are(demo_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_source(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="refused"):
        open_source(tmp_path / "text.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="names no model family"):
        open_source(tmp_path / "foreign.pt")
    torch.save({"family": "nobody"}, tmp_path / "family.pt")
    with pytest.raises(CheckpointError, match="'nobody'"):
        open_source(tmp_path / "family.pt")
    data = read_checkpoint(demo_checkpoint)
    torch.save({**data, "format": 2}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="format 2"):
        open_source(tmp_path / "newer.pt")
    torch.save({**data, "model": {**data["model"], "hidden": 64}}, tmp_path / "edited.pt")
    with pytest.raises(CheckpointError, match="size mismatch"):
        open_source(tmp_path / "edited.pt")
    half = tmp_path / "half.pt"
    half.write_bytes(demo_checkpoint.read_bytes()[:100_000])
    with pytest.raises(CheckpointError):
        open_source(half)


def test_features_of_face_crops_leave_frames_without_a_face_out(tmp_path):
    system = small(faces="auto")
    face, empty = draw(wall(), Face(128, 96, 45)), wall()
    (tmp_path / "raw").mkdir()
    rows = [
        ClipRow(name, write_video(tmp_path / "raw" / f"{name}.mp4", pictures), "", (0.0,) * 6)
        for name, pictures in (("part", [face] * 20 + [empty] * 20), ("none", [empty] * 5))
    ]
    store = FeatureStore(tmp_path / "features", system.vision_encoder, system.preprocessing)
    assert store.extract(rows) == {}
    assert 15 <= len(store.read("part").vision) <= 25
    assert store.read("none").vision is None
    whole = small()
    other = FeatureStore(tmp_path / "features", whole.vision_encoder, whole.preprocessing)
    with pytest.raises(DataError, match="made with another preprocessing"):
        other.extract(rows)
