"""From a decoded clip to the fusion graph's inputs: each modality through its encoder, or marked missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taemi_runtime.contract import FUSION, text_input
from taemi_runtime.engine import Engine
from taemi_runtime.loading import LoadedModel
from taemi_runtime.media import Clip
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.results import AudioUse, TextUse, VisionUse
from taemi_runtime.spec import Array, InputSpec
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.transcripts import Transcript
from taemi_runtime.waveform import prepare_waveform

# Frames a call of the vision encoder: its activations, unlike its results, grow with the frames of a
# call, and a clip has up to 400 of them.
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class ClipFeatures:
    """A clip, encoded.

    Args:
        clip: What was decoded.
        inputs: The fusion graph's inputs by name, a batch of one.
        audio: What was used of the audio track.
        vision: What was used of the video track.
        text: What was used of the transcript.
        spent_ms: Milliseconds by stage.
        warnings: What is worth knowing about the transcript.
    """

    clip: Clip
    inputs: dict[str, Array]
    audio: AudioUse
    vision: VisionUse
    text: TextUse
    spent_ms: dict[str, float]
    warnings: tuple[str, ...] = ()


class ClipEncoder:
    """Runs a model's encoders; every method adds its modality to the fusion graph's inputs.

    Args:
        model: The model; engines are opened when they are first needed.
        preprocessing: What stands between a clip and the encoders.

    Raises:
        BundleError: The fusion graph takes text in a form that this version does not know.
    """

    def __init__(self, model: LoadedModel, preprocessing: Preprocessing) -> None:
        self._model = model
        self._preprocessing = preprocessing
        fusion = model.manifest.graphs[FUSION]
        self._inputs = {item.name: item for item in fusion.inputs}
        self._text_name = text_input(fusion, model.path)
        self._tokenizer: Tokenizer | None = None

    def audio(self, clip: Clip, feeds: dict[str, Array]) -> AudioUse:
        """Add ``audio`` and ``audio_mask``; a missing one is a frame of zeros."""
        if clip.waveform is None or not clip.waveform.size:
            self._feed_sequence("audio", "audio_mask", None, None, feeds)
            return AudioUse(False, why=clip.audio_why or "the audio track is empty")
        prepared = prepare_waveform(clip.waveform, self._preprocessing.audio)
        engine = self._model.engine("audio")
        features = engine.run(prepared)[engine.spec.outputs[0].name]
        mask = prepared["frame_mask"]
        self._feed_sequence("audio", "audio_mask", features, mask, feeds)
        return AudioUse(True, int(np.count_nonzero(mask)), clip.audio_seconds, clip.audio_truncated)

    def vision(self, clip: Clip, feeds: dict[str, Array]) -> VisionUse:
        """Add ``vision`` and ``vision_mask``; a missing one is a frame of zeros."""
        faces = clip.faces
        if clip.frames is None or not len(clip.frames):
            self._feed_sequence("vision", "vision_mask", None, None, feeds)
            return VisionUse(
                False,
                faces=faces.faces if faces is not None else None,
                left_out=faces.frames - faces.faces if faces is not None else None,
                truncated=clip.vision_truncated,
                why=clip.vision_why or "the video track is empty",
            )
        engine = self._model.engine("vision")
        name = engine.spec.outputs[0].name
        parts = [
            engine.run({"pixels": clip.frames[start : start + _FRAMES_AT_ONCE]})[name]
            for start in range(0, len(clip.frames), _FRAMES_AT_ONCE)
        ]
        features = np.concatenate(parts)[None]
        mask = np.ones(features.shape[:2], dtype=bool)
        self._feed_sequence("vision", "vision_mask", features, mask, feeds)
        return VisionUse(
            True,
            frames=len(clip.frames),
            faces=faces.faces if faces is not None else None,
            left_out=faces.frames - faces.faces if faces is not None else None,
            seconds_used=clip.vision_seconds,
            truncated=clip.vision_truncated,
        )

    def text(self, said: Transcript, feeds: dict[str, Array]) -> TextUse:
        """Add ``text``, or ``text_tokens`` and ``text_mask``; missing ones are zeros."""
        name = self._text_name
        if said.text is None or not is_said(said.text):
            if name == "text":
                feeds[name] = np.zeros((1, _width(self._inputs[name])), np.float32)
            else:
                self._feed_sequence(name, "text_mask", None, None, feeds)
            return TextUse(False, source=said.source, why=said.why or "the transcript is empty")
        tokenizer, engine = self.text_parts()
        ids = tokenizer.encode([said.text])
        found = engine.run(ids)
        mask = ids["attention_mask"].astype(bool)
        if name == "text":
            feeds[name] = found[name]
        else:
            self._feed_sequence(name, "text_mask", found[name], mask, feeds)
        return TextUse(True, int(np.count_nonzero(mask)), said.text, said.source)

    def _feed_sequence(
        self, name: str, mask_name: str, features: Array | None, mask: Array | None, feeds: dict[str, Array]
    ) -> None:
        """Add a sequence and its mask, padded where the graph has a fixed length.

        Args:
            name: The fusion graph's input, [1, length, width].
            mask_name: Its mask, [1, length].
            features: [1, frames, width] float32; ``None`` is a missing modality: one frame of zeros.
            mask: [1, frames] bool.
            feeds: Where both go.
        """
        axis = self._inputs[name].shape[1]
        if features is None or mask is None:
            features = np.zeros((1, 1, _width(self._inputs[name])), np.float32)
            mask = np.ones((1, 1), dtype=bool)
        short = axis - features.shape[1] if isinstance(axis, int) else 0
        if short > 0:
            features = np.pad(features, ((0, 0), (0, short), (0, 0)))
            mask = np.pad(mask, ((0, 0), (0, short)))
        feeds[name], feeds[mask_name] = features, mask

    def tell_cut(self, text: TextUse) -> tuple[str, ...]:
        """Say how much of a transcript is left out as too long, where something is."""
        longest = self._preprocessing.text.max_tokens
        if text.tokens is None or text.transcript is None or text.tokens < longest:
            return ()
        cut = self.text_parts()[0].cut(text.transcript)
        warning = f"of the transcript's tokens the first {longest} are used, {cut} are left out"
        return (warning,) if cut else ()

    def text_parts(self) -> tuple[Tokenizer, Engine]:
        """Return the tokenizer and the text encoder's engine, opened now at the latest."""
        if self._tokenizer is None:
            text = self._preprocessing.text
            self._tokenizer = Tokenizer.from_bytes(self._model.asset(text.tokenizer), text)
        return self._tokenizer, self._model.engine("text")


def is_said(transcript: str | None) -> bool:
    """Return whether there is a transcript that is not blank."""
    return transcript is not None and transcript.strip() != ""


def _width(item: InputSpec) -> int:
    return int(item.shape[-1])
