"""The audio encoder: wav2vec2 hidden states and per-frame logits from a normalised waveform."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from taemi.encoder_sets import published_config
from taemi.networks import (
    config_from_plain,
    inner_state,
    load_config,
    load_weights,
    plain_config,
    random_model,
    restored_model,
)
from taemi.sources import PREPROCESSOR_NAME, Source, find_file, loading, resolve
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi_runtime.errors import CheckpointError
from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.strict import from_plain, to_plain

RATE_HZ = 16_000
LABELS = ("arousal", "dominance", "valence")


@dataclass(frozen=True)
class AudioDescription:
    """What an audio encoder is, as plain values; with its weights, all that is needed to rebuild it.

    Args:
        name: Hub id or folder name that it was made from.
        config: The wav2vec2 config.
        mask_in_encoder: Whether padding is masked inside the encoder, not only after it.
        normalise: Whether waveforms get zero mean and unit variance.
        statistics: Whether mean and variance are taken over ``valid`` or over ``padded`` samples.
        random_weights: Whether it was made with random weights.
        notes: What a user should know of it.
        kind: Marks the type of description.
    """

    name: str
    config: dict[str, Any]
    mask_in_encoder: bool = True
    normalise: bool = True
    statistics: Literal["valid", "padded"] = "valid"
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    kind: Literal["audio"] = "audio"


class AudioEncoder(nn.Module):
    """wav2vec2 with a regression head on every frame.

    Args:
        model: The network.
        description: What it is.
        hub_id: The id whose published weights it holds unchanged, if any.
    """

    def __init__(
        self, model: Wav2Vec2ForFrameRegression, description: AudioDescription, hub_id: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.description = description
        self.hub_id = hub_id
        config = model.config
        self.convs: tuple[tuple[int, int], ...] = tuple(
            zip(map(int, config.conv_kernel), map(int, config.conv_stride), strict=True)
        )
        self.dim: int = config.hidden_size + model.classifier.out_proj.out_features
        self.mask_in_encoder = description.mask_in_encoder
        self.normalise = description.normalise
        self.statistics = description.statistics
        self.notes = description.notes
        self._formula = AudioPreprocessing(convs=self.convs)
        self.eval()

    def frames(self, samples: int) -> int:
        """Return how many frames ``samples`` samples make, at least 1."""
        return self._formula.frames(samples)

    def valid_frames(self, lengths: Tensor) -> Tensor:
        """Map valid samples to valid frames, both [batch] int64; at least 1.

        A frame counts when its whole receptive field is valid: each unpadded convolution maps n to
        floor((n - kernel) / stride) + 1.
        """
        for kernel, stride in self.convs:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=1)

    def valid_samples(self, frames: Tensor) -> Tensor:
        """Map valid frames to the fewest samples that make them, both [batch] int64."""
        for kernel, stride in reversed(self.convs):
            frames = (frames - 1) * stride + kernel
        return frames

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            waveform: [batch, samples] float32, zero mean and unit variance over valid samples, zeros
                after them.
            lengths: [batch] int64, valid samples.

        Returns:
            [batch, frames, dim] float32: hidden state, arousal, dominance, valence. Frames that read
            padding are zero; each row has at least one frame.
        """
        frames = self.frames(waveform.shape[1])
        lengths = lengths.clamp(min=self._formula.min_samples)
        mask = None
        if self.mask_in_encoder:
            waveform = F.pad(waveform, (0, max(0, self._shortest - waveform.shape[1])))
            at = torch.arange(waveform.shape[1], device=waveform.device)
            mask = (at[None, :] < lengths[:, None]).long()
        features: Tensor = self.model(waveform, mask)[:, :frames]
        at = torch.arange(frames, device=features.device)
        valid = at[None, :] < self.valid_frames(lengths)[:, None]
        return torch.where(valid[:, :, None], features, 0.0)

    @property
    def _shortest(self) -> int:
        # SpecAugment refuses sequences that are shorter than the spans it masks. Padding costs nothing
        # there: with a mask, a padded clip is the clip.
        config = self.model.config
        if self.training and config.apply_spec_augment and config.mask_time_prob > 0:
            return int(self.valid_samples(torch.tensor(config.mask_time_length)))
        return self._formula.min_samples

    def describe(self) -> dict[str, Any]:
        """Return the description as plain values."""
        plain: dict[str, Any] = to_plain(self.description)
        return plain


def load_audio_encoder(
    id_or_dir: str | Path, *, mask_in_encoder: bool = True, random_weights: bool = False, seed: int = 0
) -> AudioEncoder:
    """Load a wav2vec2 regression model.

    Args:
        id_or_dir: Hub id or local folder.
        mask_in_encoder: Whether padding is masked inside the encoder. ``False`` reproduces models that
            were trained without; their padded length is then part of the model.
        random_weights: Build it with seeded random weights instead; a published id then needs no
            download.
        seed: Seed of random weights.

    Raises:
        CheckpointError: It cannot be read, is no wav2vec2 model, or cannot be used as asked.
    """
    config = published_config(id_or_dir) if random_weights else None
    if config is not None:
        name = str(id_or_dir)
        _check_config(config, name, mask_in_encoder=mask_in_encoder)
        description = AudioDescription(name, plain_config(config), mask_in_encoder, random_weights=True)
        return AudioEncoder(random_model(Wav2Vec2ForFrameRegression, config, seed), description)
    source = resolve(id_or_dir)
    config = load_config(source)
    _check_config(config, source.name, mask_in_encoder=mask_in_encoder)
    if config.num_labels != len(LABELS):
        config.id2label = dict(enumerate(LABELS))
    normalise, statistics, notes = _read_extractor(source)
    if random_weights:
        model = random_model(Wav2Vec2ForFrameRegression, config, seed)
    else:
        model, fresh = load_weights(Wav2Vec2ForFrameRegression, source, config, optional="classifier.")
        if fresh:
            notes += (_FRESH_HEAD.format(name=source.name),)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    description = AudioDescription(
        source.name, plain_config(config), mask_in_encoder, normalise, statistics, random_weights, notes
    )
    return AudioEncoder(model, description, None if random_weights else source.hub_id)


def rebuild_audio_encoder(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> AudioEncoder:
    """Rebuild an encoder from ``describe()`` and its state dict; nothing is downloaded.

    Raises:
        ValueError: The description is damaged.
        RuntimeError: The weights do not fit it.
        CheckpointError: The installed transformers cannot build it.
    """
    parsed = from_plain(dict(description), AudioDescription)
    config = config_from_plain(parsed.config)
    _check_config(config, parsed.name, mask_in_encoder=parsed.mask_in_encoder)
    return AudioEncoder(
        restored_model(Wav2Vec2ForFrameRegression, config, inner_state(state, "model.")), parsed
    )


_FRESH_HEAD = (
    "{name} has no head for arousal, dominance and valence: a new one was initialised, and its three "
    "values a frame mean nothing until it is trained"
)
_PADDED_STATISTICS = (
    "the feature extractor of {name} has return_attention_mask false: mean and variance of a waveform are "
    "taken over its padding, too, and not over the valid samples only"
)


def _check_config(config: Any, name: str, *, mask_in_encoder: bool) -> None:
    asked = f"cannot use audio encoder {name}"
    if not isinstance(config, Wav2Vec2Config):
        raise CheckpointError(
            asked,
            f"its model_type is {config.model_type!r}, expected 'wav2vec2'",
            "Choose a wav2vec2 model, e.g. audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        )
    if config.feat_extract_norm == "group" and mask_in_encoder:
        raise CheckpointError(
            f"{asked} with mask_in_encoder=True",
            "its first convolution normalises over the whole padded waveform (feat_extract_norm 'group'), so "
            "that padding changes its result and a mask cannot undo it",
            "Give --no-mask-in-encoder (mask_in_encoder=False): waveforms are then padded to one length",
        )
    if config.add_adapter:
        raise CheckpointError(
            asked, "it has an adapter that shortens the sequence", "Choose a model with add_adapter false"
        )


def _read_extractor(source: Source) -> tuple[bool, Literal["valid", "padded"], tuple[str, ...]]:
    asked = f"cannot use audio encoder {source.name}"
    if find_file(source, PREPROCESSOR_NAME) is None:
        raise CheckpointError(
            asked,
            f"it has no {PREPROCESSOR_NAME}, which says how waveforms are normalised",
            "Save its feature extractor beside it: Wav2Vec2FeatureExtractor(...).save_pretrained(FOLDER)",
        )
    with loading(source):
        extractor = AutoFeatureExtractor.from_pretrained(
            source.location, local_files_only=source.local_only, trust_remote_code=False
        )
    if not isinstance(extractor, Wav2Vec2FeatureExtractor):
        raise CheckpointError(
            asked, f"its feature extractor is {type(extractor).__name__}, expected Wav2Vec2FeatureExtractor"
        )
    facts = {
        "sampling_rate": (extractor.sampling_rate, RATE_HZ),
        "padding_side": (extractor.padding_side, "right"),
        "padding_value": (extractor.padding_value, 0.0),
    }
    for field, (found, expected) in facts.items():
        if found != expected:
            raise CheckpointError(
                asked, f"its feature extractor has {field} {found!r}, expected {expected!r}"
            )
    if extractor.return_attention_mask or not extractor.do_normalize:
        return bool(extractor.do_normalize), "valid", ()
    return True, "padded", (_PADDED_STATISTICS.format(name=source.name),)
