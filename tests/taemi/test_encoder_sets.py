"""Encoder sets: tiny folders on disk, published sizes without a download, and the tokenizer of both."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, GteModel, ViTModel

from taemi.encoder_sets import PAPER, published_config, write_tiny_encoders
from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder
from taemi.networks import plain_config
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi.wordpiece import synthetic_tokenizer, word_tokenizer

SENTENCE = "Wow, that's absolutely AMAZING! I can't stop laughing (seriously); it hurts #7 & ~50%..."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    return write_tiny_encoders(tmp_path_factory.mktemp("tiny"), seed=5)


def digests(folders: dict[str, Path]) -> dict[str, str]:
    return {
        f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for name, folder in folders.items()
        for file in sorted(folder.iterdir())
    }


def test_one_seed_writes_one_set(tiny, tmp_path: Path) -> None:
    again, other = write_tiny_encoders(tmp_path / "a", 5), write_tiny_encoders(tmp_path / "b", 6)
    assert digests(again) == digests(tiny)
    differing = {name for name, sha in digests(other).items() if digests(tiny)[name] != sha}
    assert differing == {f"{name}/model.safetensors" for name in tiny}


def test_writing_again_replaces_the_folders(tmp_path: Path) -> None:
    first = digests(write_tiny_encoders(tmp_path, 1))
    assert digests(write_tiny_encoders(tmp_path, 2)) != first
    assert digests(write_tiny_encoders(tmp_path, 1)) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "text", "vision"]


def test_writing_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    write_tiny_encoders(tmp_path, 1)
    assert torch.equal(torch.rand(4), expected)


def test_the_folders_are_ordinary_transformers_folders(tiny) -> None:
    files = {name: {file.name for file in folder.iterdir()} for name, folder in tiny.items()}
    model = {"config.json", "model.safetensors"}
    assert files["audio"] == files["vision"] == model | {"preprocessor_config.json"}
    assert files["text"] == model | {"tokenizer.json", "tokenizer_config.json"}
    assert isinstance(AutoModel.from_pretrained(tiny["vision"], add_pooling_layer=False), ViTModel)
    assert isinstance(AutoModel.from_pretrained(tiny["text"]), GteModel)
    assert AutoConfig.from_pretrained(tiny["audio"]).model_type == "wav2vec2"
    assert AutoTokenizer.from_pretrained(tiny["text"]).pad_token_id == 0


def test_tiny_is_tiny_and_of_the_real_architecture(tiny) -> None:
    counts = {
        name: sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
        for name, folder in tiny.items()
    }
    assert 200_000 < sum(counts.values()) < 500_000, counts
    audio = plain_config(AutoConfig.from_pretrained(tiny["audio"]))
    published = plain_config(published_config(PAPER["audio"]))
    for field in ("conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "do_stable_layer_norm"):
        assert audio[field] == published[field]
    assert load_vision_encoder(tiny["vision"]).height == 224


@pytest.mark.parametrize(
    ("name", "model_class", "weights"),
    [
        ("audio", Wav2Vec2ForFrameRegression, 165_336_707),
        ("vision", ViTModel, 86_389_248),
        ("text", GteModel, 136_771_584),
    ],
)
def test_published_configs_have_the_published_size(name: str, model_class, weights: int) -> None:
    # ViTModel with its pooler has 86,389,248 weights on its model card; gte-en-mlm-base is given as
    # 137 M, the audio model as 165 M.
    config = published_config(PAPER[name])
    with torch.device("meta"):
        model = model_class(config)
    assert sum(weight.numel() for weight in model.parameters()) == weights


def test_only_published_ids_have_built_in_configs(tiny) -> None:
    assert published_config("somebody/else") is None
    assert published_config(tiny["audio"]) is None
    assert published_config(str(tiny["audio"])) is None


def test_random_weights_at_published_size_need_no_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load_text_encoder(PAPER["text"], random_weights=True, seed=1)
    assert encoder.dim == 768
    assert encoder.hub_id is None
    assert encoder.description.random_weights
    assert "synthetic vocabulary" in encoder.notes[0]
    assert encoder.vocabulary == 30522
    assert synthetic_tokenizer(30522).to_str() == encoder.tokenizer_json
    assert not any(tmp_path.iterdir())


def test_random_weights_follow_the_seed(tiny) -> None:
    first, again, other = (
        load_audio_encoder(tiny["audio"], random_weights=True, seed=seed).model.classifier.dense.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_english_has_no_unknown_token() -> None:
    tokenizer = word_tokenizer()
    printable = "".join(map(chr, range(32, 127)))
    for text in (SENTENCE, printable, "Zyzzyva-quoxing: \u00e9t\u00e9 na\u00efve"):
        encoded = tokenizer.encode(text)
        assert encoded.tokens[0] == "[CLS]"
        assert encoded.tokens[-1] == "[SEP]"
        assert "[UNK]" not in encoded.tokens


def test_common_words_stay_whole() -> None:
    words = [
        "i",
        "really",
        "feel",
        "happy",
        "and",
        "excited",
        "because",
        "my",
        "friends",
        "are",
        "laughing",
        "with",
        "me",
        "today",
    ]
    assert word_tokenizer().encode(" ".join(words)).tokens == ["[CLS]", *words, "[SEP]"]
    assert word_tokenizer().encode("Hopefully").tokens[1:-1] == ["hopeful", "##ly"]


def test_the_tokenizer_on_disk_is_the_one_in_memory(tiny) -> None:
    on_disk = AutoTokenizer.from_pretrained(tiny["text"])
    assert on_disk(SENTENCE)["input_ids"] == word_tokenizer().encode(SENTENCE).ids
    assert load_text_encoder(tiny["text"]).pad_id == on_disk.pad_token_id


def test_a_synthetic_vocabulary_has_the_size_asked_for() -> None:
    tokenizer = synthetic_tokenizer(5_000)
    assert tokenizer.get_vocab_size() == 5_000
    assert tokenizer.encode(SENTENCE).ids == word_tokenizer().encode(SENTENCE).ids
    with pytest.raises(ValueError, match="too small"):
        synthetic_tokenizer(100)
