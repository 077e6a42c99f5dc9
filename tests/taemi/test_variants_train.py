"""Every row of the paper's tables trains: each part of its network is reached by the loss, and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F

import taemi_runtime
from taemi.ablation.rows import ROWS
from taemi.assemble import assemble
from taemi.batches import Collate
from taemi.choice import EncoderChoice
from taemi.corpus import ClipRow, read_corpus
from taemi.exportable import open_source
from taemi.features import ClipFeatures
from taemi.recipe import Recipe
from taemi.train import train
from taemi_export import export_onnx
from taemi_runtime.tokens import Tokenizer

NETWORKS = [name for name, row in ROWS.items() if len(row.modalities) == 3]


def clips_that_miss_each(width):
    rng = np.random.default_rng(0)
    clips = []
    for missing in ("", "audio", "vision", "text"):
        sound = None if missing == "audio" else rng.standard_normal(16_000).astype(np.float32)
        frames = None if missing == "vision" else rng.standard_normal((5, width)).astype(np.float16)
        words = "" if missing == "text" else "what a lovely surprise"
        clips.append((ClipRow(missing, None, words, tuple(rng.random(6))), ClipFeatures(sound, frames)))
    return clips


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_reaches_every_part(tiny, name):
    system = assemble(ROWS[name].variant, EncoderChoice("tiny"), seed=1, tiny=tiny)
    tokenizer = Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text)
    width = system.config.vision_dim
    batch = Collate(tokenizer, system.preprocessing, width, pad_to_max=False)(clips_that_miss_each(width))
    # Without dropout: chance must not decide what is reached.
    F.mse_loss(system.eval()(batch).intensities, batch.labels).backward()
    reached: dict[str, bool] = {}
    for weight_name, weight in system.named_parameters():
        if not weight.requires_grad or weight_name.endswith("masked_spec_embed"):
            continue
        assert weight.grad is not None, weight_name
        assert weight.grad.isfinite().all(), weight_name
        part = ".".join(weight_name.split(".")[:3])
        reached[part] = reached.get(part, False) or bool(weight.grad.any())
    assert all(reached.values()), [part for part, touched in reached.items() if not touched]
    assert len([part for part in reached if part.startswith("fusion.tokens")]) == (
        3 if system.config.learnable_tokens else 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision-anchored", "audio-anchored"])
def test_a_trained_row_scores_a_clip_after_export_as_before(demo_corpus, demo_clip, tiny, tmp_path, name):
    system = assemble(ROWS[name].variant, EncoderChoice("tiny"), seed=1, max_fps=1.0, tiny=tiny)
    recipe = Recipe(epochs=1, batch_size=12, warmup_epochs=0, pad="longest")
    train(system, read_corpus(demo_corpus), tmp_path, recipe)
    bundle = export_onnx(open_source(tmp_path / "best.pt"), tmp_path / "row.taemi")
    scores = []
    for model in (tmp_path / "best.pt", bundle):
        with taemi_runtime.load(model, device="cpu", clip_scores=False) as scorer:
            said = scorer.predict(demo_clip, transcript="what a lovely surprise")
            assert said.missing == []
            scores.append(list(said.intensities.values()))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
    assert np.std(scores[0]) > 0.01
