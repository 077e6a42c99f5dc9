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
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


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

    def forward(self, batch: Batch) -> Scores:
        """Score a batch of clips; see ``Taemi.forward``."""
        audio = self.audio_encoder(batch.waveform, batch.samples)
        # A frame that reads padding is no frame of the clip: the exact length formula of the encoder.
        frames = torch.tensor(
            [self.preprocessing.audio.frames(int(samples)) for samples in batch.samples],
            device=audio.device,
        )
        audio_mask = torch.arange(audio.shape[1], device=audio.device)[None, :] < frames[:, None]
        vector, tokens = self.text_encoder(batch.input_ids, batch.attention_mask)
        sequence = self.config.text_is_sequence
        scores: Scores = self.fusion(
            audio,
            audio_mask,
            batch.vision,
            batch.vision_mask,
            tokens if sequence else vector,
            batch.present,
            batch.attention_mask.bool() if sequence else None,
        )
        return scores

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
