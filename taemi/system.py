"""The whole trainable model: audio and text encoders in front of the fusion network.

Vision enters as features, as the paper trains it: its encoder is frozen and only travels along, so
that a checkpoint holds everything that a clip needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from taemi.config import ModelConfig
from taemi.encoders import AudioEncoder, TextEncoder, VisionEncoder
from taemi.model import Scores, Taemi
from taemi_runtime.errors import SpecError
from taemi_runtime.preprocessing import (
    AudioPreprocessing,
    Preprocessing,
    TextPreprocessing,
    VisionPreprocessing,
)


@dataclass(frozen=True)
class Batch:
    """One batch of clips.

    Args:
        waveform: [batch, samples] float32, normalised, zeros after each clip's end.
        samples: [batch] int64, valid samples of each waveform.
        vision: [batch, vision_len, vision_dim] float32.
        vision_mask: [batch, vision_len] bool.
        input_ids: [batch, tokens] int64.
        attention_mask: [batch, tokens] int64.
        present: [batch, 3] bool, audio, vision, text.
        labels: [batch, outputs] float32 in [0, 1].
    """

    waveform: Tensor
    samples: Tensor
    vision: Tensor
    vision_mask: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    present: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return replace(self, **_moved(self, device))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from which a GPU copies while it computes."""
        return replace(self, **_pinned(self))


@dataclass(frozen=True)
class FeatureBatch:
    """One batch of clips as the encoders see them: what the fusion network takes.

    Args:
        audio: [batch, audio_len, audio_dim] float32.
        audio_mask: [batch, audio_len] bool.
        vision: [batch, vision_len, vision_dim] float32.
        vision_mask: [batch, vision_len] bool.
        text: [batch, text_dim] float32, or [batch, text_len, text_dim] where the model attends to tokens.
        text_mask: [batch, text_len] bool; ``None`` where text is one vector.
        present: [batch, 3] bool, audio, vision, text.
        labels: [batch, outputs] float32 in [0, 1].
    """

    audio: Tensor
    audio_mask: Tensor
    vision: Tensor
    vision_mask: Tensor
    text: Tensor
    text_mask: Tensor | None
    present: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> FeatureBatch:
        """Return the batch on another device."""
        return replace(self, **_moved(self, device))

    def pin_memory(self) -> FeatureBatch:
        """Return the batch in pinned memory, from which a GPU copies while it computes."""
        return replace(self, **_pinned(self))


def _moved(batch: Batch | FeatureBatch, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in _tensors(batch)}


def _pinned(batch: Batch | FeatureBatch) -> dict[str, Tensor]:
    return {name: value.pin_memory() for name, value in _tensors(batch)}


def _tensors(batch: Batch | FeatureBatch) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in vars(batch).items() if value is not None]


class TaemiSystem(nn.Module):
    """Encoders and fusion network.

    Args:
        config: The fusion network's config; its widths must be the encoders'.
        audio_encoder: Fine-tuned with the fusion network.
        text_encoder: Fine-tuned with the fusion network.
        vision_encoder: Frozen; its features are the input.
        preprocessing: What the encoders' inputs were made with.

    Raises:
        SpecError: A width of the config is not the encoder's.
    """

    def __init__(
        self,
        config: ModelConfig,
        audio_encoder: AudioEncoder,
        text_encoder: TextEncoder,
        vision_encoder: VisionEncoder,
        preprocessing: Preprocessing,
    ) -> None:
        super().__init__()
        encoders = {"audio": audio_encoder, "vision": vision_encoder, "text": text_encoder}
        for name, encoder in encoders.items():
            if getattr(config, f"{name}_dim") != encoder.dim:
                raise SpecError(
                    f"the model does not fit its {name} encoder",
                    f"{name}_dim is {getattr(config, f'{name}_dim')}, the encoder gives {encoder.dim}",
                    f"Set {name}_dim to {encoder.dim}",
                )
        self.config = config
        self.preprocessing = preprocessing
        self.audio_encoder = audio_encoder
        self.text_encoder = text_encoder
        self.vision_encoder = vision_encoder.requires_grad_(False)
        self.fusion = Taemi(config)

    def forward(self, batch: Batch | FeatureBatch) -> Scores:
        """Score a batch of clips, or of their features; see ``Taemi.forward``."""
        if isinstance(batch, Batch):
            batch = self.encode(batch)
        scores: Scores = self.fusion(
            batch.audio,
            batch.audio_mask,
            batch.vision,
            batch.vision_mask,
            batch.text,
            batch.present,
            batch.text_mask,
        )
        return scores

    def encode(self, batch: Batch) -> FeatureBatch:
        """Return what the encoders make of a batch."""
        audio = self.audio_encoder(batch.waveform, batch.samples)
        # A frame that reads padding is no frame of the clip: the exact length formula of the encoder.
        frames = self.audio_encoder.valid_frames(batch.samples)
        audio_mask = torch.arange(audio.shape[1], device=audio.device)[None, :] < frames[:, None]
        vector, tokens = self.text_encoder(batch.input_ids, batch.attention_mask)
        sequence = self.config.text_is_sequence
        return FeatureBatch(
            audio=audio,
            audio_mask=audio_mask,
            vision=batch.vision,
            vision_mask=batch.vision_mask,
            text=tokens if sequence else vector,
            text_mask=batch.attention_mask.bool() if sequence else None,
            present=batch.present,
            labels=batch.labels,
        )

    def train(self, mode: bool = True) -> TaemiSystem:
        """Set training mode everywhere but in the frozen vision encoder."""
        super().train(mode)
        self.vision_encoder.eval()
        return self


def preprocessing_for(
    audio_encoder: AudioEncoder,
    vision_encoder: VisionEncoder,
    config: ModelConfig,
    *,
    max_fps: float | None = None,
    faces: str = "none",
    pad_id: int = 0,
) -> Preprocessing:
    """Return the preprocessing that a set of encoders and a config ask for.

    Args:
        audio_encoder: Gives the convolutions and says whether padding must have a fixed length.
        vision_encoder: Gives the frame size.
        config: Gives the longest sequences.
        max_fps: Sampling rate of the vision features in frames a second; ``None`` is every frame.
        faces: How frames are cropped, as in ``VisionPreprocessing.faces``.
        pad_id: The tokenizer's padding token.
    """
    audio = AudioPreprocessing(
        convs=audio_encoder.convs,
        normalise=audio_encoder.normalise,
        statistics=audio_encoder.statistics,
    )
    if not audio_encoder.mask_in_encoder:
        audio = replace(audio, padded_samples=audio.max_samples)
    return Preprocessing(
        audio=audio,
        vision=VisionPreprocessing(
            height=vision_encoder.height,
            width=vision_encoder.width,
            max_frames=config.max_vision,
            max_fps=max_fps,
            faces=faces,
        ),
        text=TextPreprocessing(max_tokens=config.max_text, pad_id=pad_id),
    )
