"""The frozen mode: the fusion network alone, on features that the encoders made once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from taemi.batches import in_order, load_batches
from taemi.checkpoint import load_system
from taemi.corpus import read_corpus
from taemi.encoders import AudioEncoder, TextEncoder
from taemi.features import FeatureStore
from taemi.recipe import Recipe
from taemi.train import predict, train
from taemi.training_data import make_collate
from taemi_runtime.errors import DataError
from tests.taemi.small_systems import small

RECIPE = Recipe(epochs=2, patience=2, batch_size=4, learning_rate=1e-3, frozen=True)


@pytest.fixture(scope="module")
def run(demo_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("frozen")
    system = small(max_fps=2.0)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    best = train(system, read_corpus(demo_corpus), out, RECIPE)
    return out, before, best


def test_the_fusion_network_learns_and_the_encoders_stay(run):
    out, before, _ = run
    after = load_system(out / "best.pt")[0].state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fusion"}


@pytest.mark.slow
def test_no_encoder_runs_once_features_are_made(run, demo_corpus, monkeypatch):
    out, _, _ = run

    def refuse(*_):
        raise AssertionError("an encoder ran")

    monkeypatch.setattr(AudioEncoder, "forward", refuse)
    monkeypatch.setattr(TextEncoder, "forward", refuse)
    system = small(max_fps=2.0)
    train(system, read_corpus(demo_corpus), out / "again", RECIPE, features=out / "features")


def test_scores_of_features_are_those_of_the_clips_but_for_half_precision(run, demo_corpus):
    out, _, _ = run
    system, _ = load_system(out / "best.pt")
    store = FeatureStore(out / "features", system.vision_encoder, system.preprocessing)
    rows = read_corpus(demo_corpus).split("valid")
    scores = [
        predict(
            system,
            load_batches(rows, store, make_collate(system, recipe), in_order(len(rows), 5)),
            torch.device("cpu"),
        )[0]
        for recipe in (RECIPE, replace(RECIPE, frozen=False))
    ]
    assert np.abs(scores[0] - scores[1]).max() < 5e-3
    assert np.abs(scores[0]).max() > 0.01


def test_encoders_that_did_not_make_the_features_are_refused(run, demo_corpus):
    out, _, _ = run
    system = small(max_fps=2.0)
    with torch.no_grad():
        next(system.text_encoder.parameters()).add_(1.0)
    with pytest.raises(DataError, match="text"):
        train(system, read_corpus(demo_corpus), out / "other", RECIPE, features=out / "features")


def test_variants_that_attend_to_words_get_them_as_tokens(demo_corpus, run):
    out, _, _ = run
    system = small("audio-anchored", max_fps=2.0)
    store = FeatureStore(out / "features", system.vision_encoder, system.preprocessing)
    rows = read_corpus(demo_corpus).split("train")
    batch = next(load_batches(rows, store, make_collate(system, RECIPE), in_order(len(rows), len(rows))))
    assert batch.text.ndim == 3
    said = [bool(row.transcript) for row in rows]
    assert batch.present[:, 2].tolist() == said
    assert batch.text_mask.any(1).tolist() == said
    lengths = batch.text_mask.sum(1).tolist()
    assert len(set(lengths)) > 2
