"""The published models load as they are: every weight is taken, none is left over, results are right."""

from __future__ import annotations

import pytest
import torch
from transformers import GteModel, PreTrainedModel, ViTModel

from taemi.encoder_sets import PAPER, published_config
from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi_runtime.errors import CheckpointError
from tests.taemi import published_forward
from tests.taemi.encoder_folders import frames, sound, tokenizer_files
from tests.taemi.published_weights import (
    AUDEERING_CONFIG,
    AUDEERING_EXTRACTOR,
    GTE_CONFIG,
    VIT_CONFIG,
    VIT_PROCESSOR,
    affine,
    audeering_shapes,
    gte_mlm_head,
    gte_shapes,
    vit_shapes,
    write_folder,
)

POOLER = affine("pooler.dense", 768, 768)


@pytest.fixture
def loads(monkeypatch) -> list[dict]:
    """What transformers reports of each model that is loaded."""
    seen = []
    load = PreTrainedModel.from_pretrained.__func__

    def reporting(cls, *arguments, **named):
        loaded = load(cls, *arguments, **named)
        seen.append(loaded[1])
        return loaded

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(reporting))
    return seen


def assert_complete(loads, left_over=()) -> None:
    (info,) = loads
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert set(info["unexpected_keys"]) == set(left_over)


def weights_in(encoder) -> int:
    return sum(weight.numel() for weight in encoder.model.state_dict().values())


def count(shapes) -> int:
    return sum(int(torch.tensor(shape).prod()) for shape in shapes.values())


def close(got, expected) -> None:
    # Else anything would be close to anything.
    assert expected.std(0).mean() > 0.05
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def write_audeering(folder, shapes):
    return write_folder(folder, shapes, config=AUDEERING_CONFIG, preprocessor_config=AUDEERING_EXTRACTOR)


def test_the_audio_encoder(tmp_path, loads) -> None:
    shapes = audeering_shapes()
    assert {name.split(".")[0] for name in shapes} == {"wav2vec2", "classifier"}
    weights = write_audeering(tmp_path, shapes)
    encoder = load_audio_encoder(tmp_path)
    assert_complete(loads)
    assert isinstance(encoder.model, Wav2Vec2ForFrameRegression)
    assert (encoder.dim, encoder.notes, weights_in(encoder)) == (1027, (), count(shapes))
    waveform, lengths = sound(4_000)
    with torch.inference_mode():
        close(encoder(waveform, lengths)[0], published_forward.wav2vec2(weights, waveform[0]))


@pytest.mark.parametrize("form", ["in21k", "classifier", "bare"])
def test_the_vision_encoder(tmp_path, loads, form: str) -> None:
    prefix = "vit." if form == "classifier" else ""
    shapes = vit_shapes(prefix)
    head = {"in21k": POOLER, "classifier": affine("classifier", 1000, 768), "bare": {}}[form]
    config = {**VIT_CONFIG}
    if form == "classifier":
        config["architectures"] = ["ViTForImageClassification"]
    weights = write_folder(tmp_path, shapes | head, config=config, preprocessor_config=VIT_PROCESSOR)
    encoder = load_vision_encoder(tmp_path)
    # A head over the hidden states is read by nobody here.
    assert_complete(loads, head)
    assert isinstance(encoder.model, ViTModel)
    assert (encoder.dim, weights_in(encoder)) == (768, count(shapes))
    pixels = frames(2)
    pixels[1] //= 4
    with torch.inference_mode():
        tokens = [published_forward.vit(weights, frame / 127.5 - 1, prefix) for frame in pixels]
        close(encoder(pixels), torch.stack([each.mean(0) for each in tokens]))


@pytest.mark.parametrize(
    ("prefix", "types", "head"),
    [("new.", 0, gte_mlm_head()), ("", 0, {}), ("new.", 2, gte_mlm_head())],
    ids=["mlm", "embedding", "token-types"],
)
def test_the_text_encoder(tmp_path, tiny, loads, prefix: str, types: int, head) -> None:
    shapes = gte_shapes(prefix, types)
    config = {**GTE_CONFIG, "type_vocab_size": types}
    if not head:
        config["architectures"] = ["NewModel"]
    weights = write_folder(tokenizer_files(tiny["text"], tmp_path), shapes | head, config=config)
    encoder = load_text_encoder(tmp_path)
    (info,) = loads
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    # transformers names what is left over as it would call it itself.
    assert {name.rsplit(".", 1)[0].split(".")[0] for name in info["unexpected_keys"]} == {
        name.split(".")[0] for name in head
    }
    assert isinstance(encoder.model, GteModel)
    assert (encoder.dim, weights_in(encoder)) == (768, count(shapes))
    ids = torch.tensor([101, 2_054, 30_000, 7, 102])
    with torch.inference_mode():
        vector, hidden = encoder(ids[None], torch.ones(1, len(ids), dtype=torch.long))
        expected = published_forward.gte(weights, ids, prefix, theta=500_000.0, ntk=2.0)
    close(hidden[0], expected)
    torch.testing.assert_close(vector[0], hidden[0, 0])


def test_a_weight_that_the_published_file_lacks_is_named(tmp_path) -> None:
    shapes = audeering_shapes()
    del shapes["wav2vec2.encoder.layers.1.feed_forward.output_dense.bias"]
    write_audeering(tmp_path, shapes)
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.output_dense\.bias"):
        load_audio_encoder(tmp_path)


def test_the_built_in_sizes_are_the_published_ones() -> None:
    # What is made with random weights at published size stands for these very models.
    for part, published in (("audio", AUDEERING_CONFIG), ("vision", VIT_CONFIG), ("text", GTE_CONFIG)):
        built_in = published_config(PAPER[part]).to_dict()
        for field in set(built_in) & set(published) - {"num_hidden_layers", "architectures", "vocab_size"}:
            if field.startswith(
                ("hidden_s", "intermediate", "num_", "conv_", "patch", "image_s", "do_", "feat_")
            ):
                found = built_in[field]
                assert (list(found) if isinstance(found, tuple) else found) == published[field], field
        assert built_in["num_hidden_layers"] == 12
