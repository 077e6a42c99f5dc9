"""From a clip to its scores: decode, encode what is there, fuse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.contract import FUSION, MODALITIES, PRESENT, SCORES, read_preprocessing, text_input
from taemi_runtime.engine import Engine
from taemi_runtime.errors import EngineError
from taemi_runtime.loading import LoadedModel
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.results import AudioUse, ClipResult, TextUse, Timings, VisionUse
from taemi_runtime.spec import Array, InputSpec
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.waveform import prepare_waveform

__all__ = ["MODALITIES", "ClipFeatures", "ClipScorer"]

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
    """

    clip: Clip
    inputs: dict[str, Array]
    audio: AudioUse
    vision: VisionUse
    text: TextUse
    spent_ms: dict[str, float]


class ClipScorer:
    """Scores clips with a loaded model, one at a time.

    Args:
        model: The model; it is closed with the scorer.
        max_fps: Frames a second to look at; the rate of the training features when ``None``.
        clip_scores: Whether scores are clipped to [0, 1], as challenge submissions are.

    Raises:
        BundleError: The model is of another family, lacks a graph, or needs something that this
            version does not do.
    """

    def __init__(self, model: LoadedModel, *, max_fps: float | None = None, clip_scores: bool = True) -> None:
        self.model = model
        self.clip_scores = clip_scores
        self.preprocessing = read_preprocessing(model.manifest, model.path)
        if max_fps is not None:
            vision = replace(self.preprocessing.vision, max_fps=max_fps)
            self.preprocessing = replace(self.preprocessing, vision=vision)
        fusion = model.manifest.graphs[FUSION]
        self._inputs = {item.name: item for item in fusion.inputs}
        self._text_name = text_input(fusion, model.path)
        self._tokenizer: Tokenizer | None = None
        self.labels = next(item.labels for item in fusion.outputs if item.name == SCORES)

    @property
    def untrained(self) -> bool:
        """Whether the weights are random."""
        return not self.model.manifest.trained

    def prepare(self, *, text: bool = True) -> None:
        """Open the engines now, so that a damaged file is found before the first clip.

        Args:
            text: Whether the text encoder is needed, too.

        Raises:
            TaemiError: An engine cannot be opened.
        """
        for graph in (FUSION, "audio", "vision"):
            self.model.engine(graph)
        if text:
            self._text_parts()

    def score(
        self, path: str | PathLike[str], transcript: str | None = None, transcript_source: str = "given"
    ) -> ClipResult:
        """Score one clip.

        Args:
            path: The clip.
            transcript: What is said in it; ``None`` or blank leaves text out.
            transcript_source: Where the transcript comes from, for the result.

        Returns:
            The scores, and what they rest on.

        Raises:
            MediaError: The file is not readable media.
            EngineError: An engine failed, or gave scores that are not finite.
        """
        self.prepare(text=_is_said(transcript))
        start = time.perf_counter()
        features = self.features(path, transcript, transcript_source)
        with _timed(features.spent_ms, "fusion"):
            scores = self.fuse(features)
        if self.clip_scores:
            scores = np.clip(scores, 0.0, 1.0) + 0.0  # no -0.0
        total_ms = (time.perf_counter() - start) * 1e3
        return ClipResult(
            clip=str(path),
            clip_seconds=features.clip.seconds,
            # The shortest decimal that reads back as the same float32, not its 17 digits as a float64.
            intensities={name: float(str(score)) for name, score in zip(self.labels, scores, strict=True)},
            audio=features.audio,
            vision=features.vision,
            text=features.text,
            engine=self.model.engine(FUSION).info,
            timings_ms=Timings(**features.spent_ms, total=total_ms),
            untrained=self.untrained,
            warnings=features.clip.warnings + self._cut_text(features.text),
        )

    def features(
        self, path: str | PathLike[str], transcript: str | None = None, transcript_source: str = "given"
    ) -> ClipFeatures:
        """Decode and encode one clip; arguments and errors as for [ClipScorer.score][]."""
        spent_ms: dict[str, float] = {}
        with _timed(spent_ms, "decode"):
            clip = read_clip(Path(path), self.preprocessing)
        feeds: dict[str, Array] = {}
        with _timed(spent_ms, "audio"):
            audio = self._encode_audio(clip, feeds)
        with _timed(spent_ms, "vision"):
            vision = self._encode_vision(clip, feeds)
        with _timed(spent_ms, "text"):
            text = self._encode_text(transcript, transcript_source, feeds)
        flags = np.array([[audio.present, vision.present, text.present]], dtype=np.bool_)
        feeds[PRESENT] = flags
        return ClipFeatures(clip, feeds, audio, vision, text, spent_ms)

    def fuse(
        self, features: ClipFeatures, present: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]:
        """Score encoded features.

        Args:
            features: A clip's features.
            present: [3] bool in the order of ``MODALITIES``: which of them are looked at; those that the
                clip has when ``None``.

        Returns:
            [outputs] float32 in the order of ``labels``, not clipped.

        Raises:
            EngineError: The engine failed, or its scores are not finite.
        """
        feeds = dict(features.inputs)
        if present is not None:
            feeds[PRESENT] = np.array(present, dtype=np.bool_)[None]
        engine = self.model.engine(FUSION)
        scores: npt.NDArray[np.float32] = engine.run(feeds)[SCORES][0]
        if not np.isfinite(scores).all():
            raise EngineError(
                f"cannot use the scores of {engine.info.path}",
                f"they are not finite: {scores.tolist()}",
                "Check the engine: taemi-export verify BUNDLE",
            )
        return scores

    def _encode_audio(self, clip: Clip, feeds: dict[str, Array]) -> AudioUse:
        if clip.waveform is None or not clip.waveform.size:
            self._feed_sequence("audio", "audio_mask", None, None, feeds)
            return AudioUse(False, why=clip.audio_why or "the audio track is empty")
        prepared = prepare_waveform(clip.waveform, self.preprocessing.audio)
        engine = self.model.engine("audio")
        features = engine.run(prepared)[engine.spec.outputs[0].name]
        mask = prepared["frame_mask"]
        self._feed_sequence("audio", "audio_mask", features, mask, feeds)
        return AudioUse(True, int(np.count_nonzero(mask)), clip.audio_seconds, clip.audio_truncated)

    def _encode_vision(self, clip: Clip, feeds: dict[str, Array]) -> VisionUse:
        if clip.frames is None or not len(clip.frames):
            self._feed_sequence("vision", "vision_mask", None, None, feeds)
            return VisionUse(False, why=clip.vision_why or "the video track is empty")
        engine = self.model.engine("vision")
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
            seconds_used=clip.vision_seconds,
            truncated=clip.vision_truncated,
        )

    def _encode_text(self, transcript: str | None, source: str, feeds: dict[str, Array]) -> TextUse:
        name = self._text_name
        if transcript is None or not _is_said(transcript):
            why = "there is no transcript" if transcript is None else "the transcript is empty"
            if name == "text":
                feeds[name] = np.zeros((1, _width(self._inputs[name])), np.float32)
            else:
                self._feed_sequence(name, "text_mask", None, None, feeds)
            return TextUse(False, source="none" if transcript is None else source, why=why)
        tokenizer, engine = self._text_parts()
        ids = tokenizer.encode([transcript])
        found = engine.run(ids)
        mask = ids["attention_mask"].astype(bool)
        if name == "text":
            feeds[name] = found[name]
        else:
            self._feed_sequence(name, "text_mask", found[name], mask, feeds)
        return TextUse(True, int(np.count_nonzero(mask)), transcript, source)

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

    def _cut_text(self, text: TextUse) -> tuple[str, ...]:
        longest = self.preprocessing.text.max_tokens
        if text.tokens < longest:
            return ()
        return (f"the transcript fills all {longest} tokens; whatever follows them is not used",)

    def _text_parts(self) -> tuple[Tokenizer, Engine]:
        if self._tokenizer is None:
            text = self.preprocessing.text
            self._tokenizer = Tokenizer.from_bytes(self.model.asset(text.tokenizer), text)
        return self._tokenizer, self.model.engine("text")

    def close(self) -> None:
        """Close the model; closing twice does nothing."""
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _timed(spent_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent_ms[stage] = (time.perf_counter() - start) * 1e3


def _is_said(transcript: str | None) -> bool:
    return transcript is not None and transcript.strip() != ""


def _width(item: InputSpec) -> int:
    return int(item.shape[-1])
