"""The fusion network: shapes, counts, and what must never change a result."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from taemi.config import VARIANTS, ModelConfig, config_from_plain, variant
from taemi.model import Taemi
from taemi_runtime.errors import SpecError

SMALL = {
    "audio_dim": 19,
    "vision_dim": 16,
    "text_dim": 12,
    "hidden": 32,
    "heads": 4,
    "feed_forward": 48,
    "head_hidden": 24,
    "max_audio": 13,
    "max_vision": 11,
}
PRESENCE = list(itertools.product([False, True], repeat=3))


def build(name: str, **changes: object) -> Taemi:
    torch.manual_seed(5)
    return Taemi(variant(name, **{**SMALL, **changes})).eval()


def draw(config: ModelConfig, batch: int, audio_len: int = 13, vision_len: int = 11) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + audio_len * 10 + vision_len)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def mask(length: int) -> Tensor:
        lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
        lengths[0] = length
        return torch.arange(length)[None, :] < lengths

    text = (batch, 7, config.text_dim) if config.text_is_sequence else (batch, config.text_dim)
    inputs = {
        "audio": normal(batch, audio_len, config.audio_dim),
        "audio_mask": mask(audio_len),
        "vision": normal(batch, vision_len, config.vision_dim),
        "vision_mask": mask(vision_len),
        "text": normal(*text),
        "present": torch.ones(batch, 3, dtype=torch.bool),
    }
    if config.text_is_sequence:
        inputs["text_mask"] = mask(7)
    return inputs


def score(model: Taemi, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).intensities


def test_released_has_the_published_number_of_weights():
    model = Taemi(variant("released", vision_dim=768))
    assert sum(weight.numel() for weight in model.parameters()) == 4_080_649


def test_paper_is_the_default_and_fuses_three_latent_vectors():
    model = Taemi(ModelConfig())
    assert variant("paper") == ModelConfig()
    assert model.head[0].in_features == 1536
    assert set(model.temporal) == {"audio", "vision"}
    assert Taemi(variant("released")).head[0].in_features == 1792


@pytest.mark.parametrize("name", VARIANTS)
def test_missing_content_never_changes_the_scores(name):
    model = build(name)
    inputs = draw(model.config, 8)
    inputs["present"] = torch.tensor(PRESENCE)
    expected = score(model, inputs)
    for poison in (float("nan"), float("inf"), -3e38, 1e4):
        poisoned = {key: value.clone() for key, value in inputs.items()}
        for column, key in enumerate(("audio", "vision", "text")):
            poisoned[key][~inputs["present"][:, column]] = poison
        assert torch.equal(score(model, poisoned), expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 3e38, -7.0])
def test_padding_content_never_changes_the_scores(name, poison):
    model = build(name)
    inputs = draw(model.config, 6)
    expected = score(model, inputs)
    for key in ("audio", "vision") + (("text",) if "text_mask" in inputs else ()):
        inputs[key] = torch.where(inputs[f"{key}_mask"][..., None], inputs[key], poison)
    assert torch.equal(score(model, inputs), expected)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "concat-flatten"])
def test_more_padding_never_changes_the_scores(name):
    model = build(name)
    inputs = draw(model.config, 4)
    expected = score(model, inputs)
    for key in ("audio", "vision"):
        rows, _, width = inputs[key].shape
        inputs[key] = torch.cat([inputs[key], torch.full((rows, 9, width), float("nan"))], 1)
        mask = inputs[f"{key}_mask"]
        inputs[f"{key}_mask"] = torch.cat([mask, torch.zeros(rows, 9, dtype=torch.bool)], 1)
    torch.testing.assert_close(score(model, inputs), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_equals_its_clips_one_by_one(name):
    model = build(name)
    inputs = draw(model.config, 8)
    inputs["present"] = torch.tensor(PRESENCE)
    together = score(model, inputs)
    for row in range(8):
        alone = {key: value[row : row + 1] for key, value in inputs.items()}
        if name != "concat-flatten":
            for key in ("audio", "vision"):
                length = int(alone[f"{key}_mask"].sum())
                alone[key], alone[f"{key}_mask"] = alone[key][:, :length], alone[f"{key}_mask"][:, :length]
        torch.testing.assert_close(score(model, alone)[0], together[row], atol=1e-6, rtol=0)


def test_a_row_without_valid_frames_counts_as_missing():
    model = build("paper")
    inputs = draw(model.config, 2)
    missing = {**inputs, "present": torch.tensor([[False, True, True], [True, True, True]])}
    empty = {**inputs, "audio_mask": inputs["audio_mask"].clone()}
    empty["audio_mask"][0] = False
    assert torch.equal(score(model, empty), score(model, missing))


def test_each_modality_matters_when_present_and_each_token_when_missing():
    model = build("paper")
    inputs = draw(model.config, 1)
    full = score(model, inputs)
    for column, key in enumerate(("audio", "vision", "text")):
        changed = {**inputs, key: inputs[key] + torch.randn_like(inputs[key])}
        assert (score(model, changed) - full).abs().max() > 1e-4
        gone = {**inputs, "present": torch.tensor([[column != other for other in range(3)]])}
        before = score(model, gone)
        with torch.no_grad():
            model.tokens[key] += 1.0
        assert (score(model, gone) - before).abs().max() > 1e-4
        assert torch.equal(score(model, inputs), full)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("audio_len", "vision_len"), [(1, 1), (13, 11)])
def test_no_nan_for_any_presence_forward_or_backward(name, train, audio_len, vision_len):
    model = build(name).train(train)
    inputs = draw(model.config, 8, audio_len, vision_len)
    inputs["present"] = torch.tensor(PRESENCE)
    for column, key in enumerate(("audio", "vision", "text")):
        inputs[key][~inputs["present"][:, column]] = float("nan")
        inputs[key].requires_grad_()
    scores = model(**inputs).intensities
    assert torch.isfinite(scores).all()
    scores.square().sum().backward()
    for weight in model.parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all()
    for key in ("audio", "vision", "text"):
        assert torch.isfinite(inputs[key].grad).all()


def test_modality_dropout_happens_at_the_configured_rate():
    model = Taemi(variant("paper", **SMALL, modality_dropout=0.1))
    torch.manual_seed(0)
    draws = 20_000
    kept = model.drop_modalities(torch.ones(draws, 3, dtype=torch.bool)).float()
    # Five standard deviations of a binomial share at p = 0.1.
    margin = 5 * (0.1 * 0.9 / draws) ** 0.5
    assert ((1 - kept).mean(0) - 0.1).abs().max() < margin
    together = (1 - kept).prod(1).mean()
    assert abs(together - 0.001) < 5 * (0.001 / draws) ** 0.5
    missing = torch.zeros(100, 3, dtype=torch.bool)
    assert not model.drop_modalities(missing).any()


def test_modality_dropout_acts_in_training_only_and_can_keep_one():
    model = build("paper", modality_dropout=0.9, keep_at_least_one=True)
    inputs = draw(model.config, 64)
    assert torch.equal(score(model, inputs), score(model, inputs))
    present = torch.tensor(PRESENCE).repeat(2500, 1)
    kept = model.drop_modalities(present)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(1), present.any(1))


def test_attention_weights_are_a_distribution_over_valid_frames():
    model = build("paper")
    inputs = draw(model.config, 4)
    attention = model(**inputs).attention
    assert set(attention) == {"audio", "vision"}
    for key, weights in attention.items():
        assert weights.shape == (4, 4, inputs[key].shape[1])
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4))
        assert (weights.transpose(1, 2)[~inputs[f"{key}_mask"]] == 0).all()


def test_cross_attention_follows_the_formula():
    model = build("released")
    inputs = draw(model.config, 1)
    block = model.cross["audio"]
    q = block.query_norm(block.query(inputs["text"])).reshape(4, 1, 8)
    k = block.key_norm(block.key(inputs["audio"][0])).reshape(13, 4, 8).transpose(0, 1)
    v = block.value(inputs["audio"][0]).reshape(13, 4, 8).transpose(0, 1)
    expected = block.output(((q @ k.mT / 8**0.5).softmax(-1) @ v).reshape(1, 32))
    found, _ = block(inputs["text"], inputs["audio"], inputs["audio_mask"])
    torch.testing.assert_close(found, expected)


def test_sigmoid_positions_and_projector_change_the_network():
    base = build("paper")
    inputs = draw(base.config, 3)
    outputs = [score(base, inputs)]
    for changes in ({"sigmoid": True}, {"positions": "sinusoidal"}, {"projection": "ln_linear_gelu"}):
        outputs.append(score(build("paper", **changes), inputs))
    for first, second in itertools.combinations(outputs, 2):
        assert not torch.allclose(first, second)
    assert ((outputs[1] > 0) & (outputs[1] < 1)).all()


def test_without_learnable_tokens_zeros_stand_in():
    model = build("no-missing-tokens")
    assert not any("token" in name for name, _ in model.named_parameters())
    inputs = draw(model.config, 1)
    zeros = {**inputs, "text": torch.zeros_like(inputs["text"])}
    gone = {**inputs, "present": torch.tensor([[True, True, False]])}
    assert torch.equal(score(model, zeros), score(model, gone))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden": 30}, "heads"),
        ({"projection": "none"}, "Self-attention"),
        ({"modality_dropout": 1.0}, "modality_dropout"),
        ({"pooling": "mean", "anchor": "audio"}, "anchor"),
        ({"vision_dim": 0}, "vision_dim"),
    ],
)
def test_contradictory_configs_are_refused(changes, word):
    with pytest.raises(SpecError, match=word):
        ModelConfig(**changes)


def test_config_survives_plain_values_and_refuses_unknown_ones():
    config = variant("vision-anchored", vision_dim=384)
    assert config_from_plain(config.to_plain()) == config
    with pytest.raises(ValueError, match="layers"):
        config_from_plain({**config.to_plain(), "layers": 3})
    with pytest.raises(SpecError, match="released"):
        variant("relesed")
