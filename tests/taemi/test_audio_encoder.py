"""The audio encoder against the transformers class it wraps, and the folders that it refuses."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from taemi.encoder_sets import tiny_audio_config
from taemi.encoders import load_audio_encoder, rebuild
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi_runtime.errors import CheckpointError
from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.waveform import prepare_waveform
from tests.taemi.encoder_folders import (
    copy_with,
    save_audio,
    sound,
)


@pytest.fixture(scope="module")
def audio(tiny):
    return load_audio_encoder(tiny["audio"])


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
