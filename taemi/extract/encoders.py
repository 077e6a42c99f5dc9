"""The encoders of an extraction, and what is said of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from taemi.encoders import AudioEncoder, Encoder, TextEncoder, VisionEncoder
from taemi.extract.frames import FrameBatches
from taemi.store.layout import EncoderFacts, MadeWith
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import to_plain
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.waveform import prepare_waveform

FRAMES_AT_ONCE = 32


@dataclass
class FeatureEncoders:
    """What turns a clip's content into features.

    Args:
        vision: The vision encoder.
        preprocessing: What turns a clip into the encoders' inputs.
        audio: The audio encoder, where its features are kept.
        text: The text encoder, where its features are kept.
        device: Where they run.
        frames_at_once: Frames in a call of the vision encoder.
    """

    vision: VisionEncoder
    preprocessing: Preprocessing
    audio: AudioEncoder | None = None
    text: TextEncoder | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    frames_at_once: int = FRAMES_AT_ONCE
    _tokenizer: Tokenizer | None = field(default=None, init=False, repr=False)

    def made_with(self, vision_from: str) -> MadeWith:
        """Describe what features of these encoders depend on."""
        return MadeWith(
            vision_encoder=encoder_facts(self.vision),
            preprocessing=kept_preprocessing(
                self.preprocessing, audio=self.audio is not None, text=self.text is not None
            ),
            vision_from=vision_from,
            audio_encoder=None if self.audio is None else encoder_facts(self.audio),
            text_encoder=None if self.text is None else encoder_facts(self.text),
        )

    def open(self) -> None:
        """Put the encoders on their device, in evaluation mode."""
        for encoder in (self.vision, self.audio, self.text):
            if encoder is not None:
                encoder.to(self.device).eval()
        if self.text is not None:
            self._tokenizer = Tokenizer.from_bytes(self.text.tokenizer_json.encode(), self.preprocessing.text)

    def frame_batches(self) -> FrameBatches[Any]:
        """Return empty batches of frames."""
        return FrameBatches(self.vision, self.device, self.frames_at_once)

    def encode_sound(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Encode a clip's sound by itself, at its own length where the encoder is masked.

        Args:
            waveform: [samples] float32, mono, not normalised.

        Returns:
            [frames, audio_dim] float32, valid frames only.
        """
        assert self.audio is not None
        prepared = prepare_waveform(waveform, self.preprocessing.audio)
        samples = torch.tensor([min(len(waveform), self.preprocessing.audio.max_samples)])
        with torch.inference_mode():
            encoded = self.audio(
                torch.from_numpy(prepared["waveform"]).to(self.device), samples.to(self.device)
            )
        values: npt.NDArray[np.float32] = encoded[0].float().cpu().numpy()[prepared["frame_mask"][0]]
        return values

    def encode_words(self, transcript: str) -> dict[str, npt.NDArray[np.float32]]:
        """Encode a transcript.

        Returns:
            ``text`` [text_dim] and ``text_tokens`` [tokens, text_dim], float32.
        """
        assert self.text is not None
        assert self._tokenizer is not None
        tokens = self._tokenizer.encode([transcript])
        with torch.inference_mode():
            vector, vectors = self.text(
                torch.from_numpy(tokens["input_ids"]).to(self.device),
                torch.from_numpy(tokens["attention_mask"]).to(self.device),
            )
        valid = tokens["attention_mask"][0].astype(bool)
        return {
            "text": vector[0].float().cpu().numpy(),
            "text_tokens": vectors[0].float().cpu().numpy()[valid],
        }


def kept_preprocessing(preprocessing: Preprocessing, *, audio: bool, text: bool) -> dict[str, Any]:
    """Return what of the preprocessing stored arrays depend on, as plain values.

    A waveform is stored as it was decoded, so that stores fit encoders that normalise or pad it otherwise.

    Args:
        preprocessing: All of it.
        audio: Whether features of the audio encoder are kept.
        text: Whether features of the text encoder are kept.
    """
    plain: dict[str, Any] = to_plain(preprocessing)
    waveform = {key: plain["audio"][key] for key in ("rate_hz", "max_seconds")}
    kept = {"audio": plain["audio"] if audio else waveform, "vision": plain["vision"]}
    return {**kept, "text": plain["text"]} if text else kept


def encoder_facts(encoder: Encoder) -> EncoderFacts:
    """Describe an encoder."""
    return EncoderFacts(encoder.description.name, encoder_digest(encoder), encoder.dim)


def encoder_digest(encoder: torch.nn.Module) -> str:
    """Return a digest of an encoder's weights: two encoders with one digest give one result."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
