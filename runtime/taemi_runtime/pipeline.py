"""From a clip to its scores: decode, encode what is there, fuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.listener import Listener
from taemi_runtime.contract import FUSION, MODALITIES, PRESENT, SCORES, read_preprocessing, text_input
from taemi_runtime.engine import Engine
from taemi_runtime.errors import EngineError, UsageError
from taemi_runtime.faces.choice import describe_difference, open_detector
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.loading import LoadedModel
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.preprocessing import FACES_NONE
from taemi_runtime.results import AudioUse, ClipFailure, ClipResult, TextUse, Timings, VisionUse
from taemi_runtime.spec import Array, InputSpec
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.transcripts import Transcript, transcript_reader
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
        warnings: What is worth knowing about the transcript.
    """

    clip: Clip
    inputs: dict[str, Array]
    audio: AudioUse
    vision: VisionUse
    text: TextUse
    spent_ms: dict[str, float]
    warnings: tuple[str, ...] = ()


class ClipScorer:
    """Scores clips with a loaded model, one at a time.

    Args:
        model: The model; it is closed with the scorer.
        max_fps: Frames a second to look at; the rate of the training features when ``None``.
        faces: How frames are cropped: ``none``, ``auto``, or the path of a YuNet file; as for the training
            features when ``None``.
        clip_scores: Whether scores are clipped to [0, 1], as challenge submissions are.
        listener: What makes transcripts of clips that have none; ``None`` leaves their text out.
        limits: What a clip may ask for; the defaults of [DecodeLimits][] when ``None``.

    Raises:
        BundleError: The model is of another family, lacks a graph, or needs something that this
            version does not do.
        MissingExtraError: Faces are to be cut out and OpenCV is missing.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_fps: float | None = None,
        faces: str | None = None,
        clip_scores: bool = True,
        listener: Listener | None = None,
        limits: DecodeLimits | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or DecodeLimits()
        self.listener = listener or Listener()
        self.clip_scores = clip_scores
        self.preprocessing = read_preprocessing(model.manifest, model.path)
        if max_fps is not None:
            vision = replace(self.preprocessing.vision, max_fps=max_fps)
            self.preprocessing = replace(self.preprocessing, vision=vision)
        trained = self.preprocessing.vision.faces
        self._detector = open_detector(trained, faces)
        used = self._detector.name if self._detector is not None else FACES_NONE
        self.faces_differ = describe_difference(trained, used)
        self.preprocessing = replace(
            self.preprocessing, vision=replace(self.preprocessing.vision, faces=used)
        )
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

    def predict(self, path: str | PathLike[str], transcript: str | Transcript | None = None) -> ClipResult:
        """Score one clip.

        Args:
            path: The clip.
            transcript: What is said in it. ``None`` leaves it to the recogniser, or text out where there
                is none; a blank one says that nothing is said.

        Returns:
            The scores, and what they rest on.

        Raises:
            MediaError: The file is not readable media.
            EngineError: An engine or the recogniser failed, or scores are not finite.
            TaemiError: The recogniser that was asked for cannot be opened.
        """
        return self.score(path, transcript)

    def predict_many(
        self,
        paths: Iterable[str | PathLike[str]],
        transcripts: Mapping[str, str] | str | PathLike[str] | None = None,
    ) -> Iterator[ClipResult | ClipFailure]:
        """Score clips one after the other, each as soon as the one before was taken.

        Args:
            paths: The clips; folders and patterns are not searched.
            transcripts: What is said in them: a mapping from path to text, or
                a folder of NAME.txt, NAME.vtt and NAME.srt. Clips that are not there are treated as
                ``predict`` treats ``None``.

        Returns:
            For each path in order its result, or its [ClipFailure][]: one bad clip never ends the rest.

        Raises:
            UsageError: ``paths`` is one path, or the folder of transcripts does not exist.
            TaemiError: The engines, or the recogniser that was asked for, cannot be opened.
        """
        if isinstance(paths, str | PathLike):
            raise UsageError(
                f"cannot score {str(paths)!r} as many clips", "it is one path", "Give a list, or use predict"
            )
        read = transcript_reader(transcripts)
        self.prepare(text=False)
        if self.listener.is_explicit:
            self.listener.prepare()
        return self._outcomes(paths, read)

    def _outcomes(
        self, paths: Iterable[str | PathLike[str]], read: Callable[[Path], Transcript]
    ) -> Iterator[ClipResult | ClipFailure]:
        for path in paths:
            try:
                outcome: ClipResult | ClipFailure = self.score(path, read(Path(path)))
            except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
                outcome = ClipFailure.from_error(str(path), error)
            yield outcome

    def score(
        self,
        path: str | PathLike[str],
        transcript: str | Transcript | None = None,
        transcript_source: str = "given",
    ) -> ClipResult:
        """Score one clip; what [ClipScorer.predict][] does, under its older name.

        Args:
            path: The clip.
            transcript: What is said in it; ``None`` leaves it to the recogniser.
            transcript_source: Where a transcript that is plain text comes from, for the result.

        Returns:
            The scores, and what they rest on.

        Raises:
            MediaError: The file is not readable media.
            EngineError: An engine or the recogniser failed, or scores are not finite.
        """
        said = Transcript.given(transcript, transcript_source)
        # Loading is no part of the timings; where a recogniser may find words, the text encoder is needed.
        self.prepare(text=_is_said(said.text) or (said.text is None and self.listener.prepare()))
        start = time.perf_counter()
        features = self.features(path, said)
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
            warnings=(
                features.clip.warnings
                + _tell_several(features.clip)
                + features.warnings
                + _tell_nothing(features)
            ),
        )

    def features(
        self,
        path: str | PathLike[str],
        transcript: str | Transcript | None = None,
        transcript_source: str = "given",
    ) -> ClipFeatures:
        """Decode and encode one clip; arguments and errors as for [ClipScorer.score][]."""
        spent_ms: dict[str, float] = {}
        with _timed(spent_ms, "decode"):
            clip = read_clip(Path(path), self.preprocessing, detector=self._detector, limits=self.limits)
        feeds: dict[str, Array] = {}
        with _timed(spent_ms, "audio"):
            audio = self._encode_audio(clip, feeds)
        with _timed(spent_ms, "vision"):
            vision = self._encode_vision(clip, feeds)
        said = Transcript.given(transcript, transcript_source)
        if said.text is None:
            with _timed(spent_ms, "asr"):
                said = self.listener.hear(Path(path), self.preprocessing.text.speech, self.limits)
        with _timed(spent_ms, "text"):
            text = self._encode_text(said, feeds)
            cut = self._cut_text(text)
        flags = np.array([[audio.present, vision.present, text.present]], dtype=np.bool_)
        feeds[PRESENT] = flags
        return ClipFeatures(clip, feeds, audio, vision, text, spent_ms, said.warnings + cut)

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
            faces=faces.faces if faces is not None else None,
            left_out=faces.frames - faces.faces if faces is not None else None,
            seconds_used=clip.vision_seconds,
            truncated=clip.vision_truncated,
        )

    def _encode_text(self, said: Transcript, feeds: dict[str, Array]) -> TextUse:
        name = self._text_name
        if said.text is None or not _is_said(said.text):
            if name == "text":
                feeds[name] = np.zeros((1, _width(self._inputs[name])), np.float32)
            else:
                self._feed_sequence(name, "text_mask", None, None, feeds)
            return TextUse(False, source=said.source, why=said.why or "the transcript is empty")
        tokenizer, engine = self._text_parts()
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

    def _cut_text(self, text: TextUse) -> tuple[str, ...]:
        longest = self.preprocessing.text.max_tokens
        if text.tokens < longest:
            return ()
        cut = self._text_parts()[0].cut(text.transcript)
        warning = f"of the transcript's tokens the first {longest} are used, {cut} are left out"
        return (warning,) if cut else ()

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


def _tell_nothing(features: ClipFeatures) -> tuple[str, ...]:
    if features.audio.present or features.vision.present or features.text.present:
        return ()
    return ("nothing of the clip could be used: the scores are the model's answer to no input",)


def _tell_several(clip: Clip) -> tuple[str, ...]:
    if clip.faces is None or not clip.faces.several:
        return ()
    several, frames = clip.faces.several, clip.faces.frames
    return (f"more than one face in {several} of {frames} frames; the largest is used",)


def _is_said(transcript: str | None) -> bool:
    return transcript is not None and transcript.strip() != ""


def _width(item: InputSpec) -> int:
    return int(item.shape[-1])
