"""Training on some of the modalities: the others count as missing, and their encoders stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taemi.batches import Collate
from taemi.checkpoint import load_system
from taemi.corpus import ClipRow, read_corpus
from taemi.features import ClipFeatures
from taemi.recipe import Recipe
from taemi.train import train
from taemi_runtime.errors import UsageError
from taemi_runtime.tokens import Tokenizer
from tests.taemi.small_systems import small


@pytest.fixture(scope="module")
def system():
    return small("released", seed=2, max_fps=1.0)


def batch(system, modalities):
    tokenizer = Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text)
    made = Collate(
        tokenizer, system.preprocessing, system.config.vision_dim, pad_to_max=False, modalities=modalities
    )
    rng = np.random.default_rng(0)
    clips = [
        (
            ClipRow(str(number), None, f"words {number}", (0.0,) * 6),
            ClipFeatures(
                rng.standard_normal(32_000).astype(np.float32),
                rng.standard_normal((5, system.config.vision_dim)).astype(np.float16),
            ),
        )
        for number in range(2)
    ]
    return made(clips)


def test_what_is_not_asked_for_counts_as_missing(system):
    assert batch(system, ("audio", "vision", "text")).present.tolist() == [[True] * 3] * 2
    alone = batch(system, ("vision",))
    assert alone.present.tolist() == [[False, True, False]] * 2
    assert alone.waveform.shape == (2, 16_000)
    assert not alone.waveform.any()
    assert batch(system, ("text", "audio")).vision.shape == (2, 1, system.config.vision_dim)


def test_encoders_that_are_never_heard_stay_as_they_are(demo_corpus, tmp_path):
    fresh = small("released", seed=2, max_fps=1.0)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    recipe = Recipe(epochs=1, batch_size=12, warmup_epochs=0, modalities=("text",), pad="longest")
    train(fresh, read_corpus(demo_corpus), tmp_path, recipe)
    after, progress = load_system(tmp_path / "best.pt")
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(before[name], tensor)}
    assert {name.split(".")[0] for name in changed} == {"text_encoder", "fusion"}
    assert tuple(progress.recipe["modalities"]) == ("text",)


@pytest.mark.parametrize(("modalities", "said"), [((), "no modality"), (("smell", "text"), "'smell'")])
def test_modalities_that_do_not_exist_are_refused(modalities, said):
    with pytest.raises(UsageError, match=said):
        Recipe(modalities=modalities)
