"""A model's whole way as one call: from features, or from a clip's file, to named scores.

This is for whoever times or compares models without knowing what they look at: features go by the names of
the first graph's data inputs, presence by the order of its flags, and stages by whatever they are called.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.listener import Listener
from taemi_runtime.batching import DecodedClip, fuse_together
from taemi_runtime.clip_features import ClipFeatures, Encoded
from taemi_runtime.closing import Closing
from taemi_runtime.contract import FUSION, MODALITIES, read_preprocessing, text_input
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, EngineError
from taemi_runtime.faces.boxes import Box
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import Manifest
from taemi_runtime.media import Clip
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.spec import Array, Arrays
from taemi_runtime.transcripts import Transcript, Transcripts

Words = Transcript
"""What is said in a clip."""

_LEFT_OUT = "it was left out"
_NO_CLIP = Clip(Path(), 0.0, None, None, 0.0, 0.0, False, False, _LEFT_OUT, _LEFT_OUT, ())


@dataclass(frozen=True)
class Scored:
    """What one call gave.

    Args:
        result: The result.
        faces_ms: How long faces were looked for, in milliseconds, a part of the result's decoding time.
    """

    result: ClipResult
    faces_ms: float = 0.0

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """The scores, [outputs] float32, in the model's order."""
        return np.array(list(self.result.intensities.values()), np.float32)

    @property
    def stages_ms(self) -> dict[str, float]:
        """How long each stage was busy, in milliseconds, of those that had anything to do."""
        timings = self.result.timings_ms
        spent = {item.name: getattr(timings, item.name) for item in fields(timings) if item.name != "total"}
        found: dict[str, float] = {}
        for name, spent_ms in spent.items():
            found[name] = spent_ms - self.faces_ms if name == "decode" else spent_ms
            if name == "decode":
                found["faces"] = self.faces_ms
        return {name: spent_ms for name, spent_ms in found.items() if spent_ms > 0}

    @property
    def facts(self) -> dict[str, int]:
        """How much of the clip was used: its length in milliseconds, and positions of each modality."""
        found = self.result
        facts: dict[str, int] = {}
        if found.clip_seconds is not None:
            facts["clip_ms"] = round(found.clip_seconds * 1e3)
        used = (found.audio.frames, found.vision.frames, found.text.tokens or 0)
        return {**facts, **dict(zip(MODALITIES, used, strict=True))}


def why_not_whole(manifest: Manifest, path: Path) -> str:
    """Return why a model scores no clips; empty where it does.

    Args:
        manifest: The model's manifest.
        path: What it is called in the message.
    """
    try:
        read_preprocessing(manifest, path)
    except BundleError as error:
        return error.found
    return ""


def share_left(stages_ms: Mapping[str, float], present: Sequence[bool]) -> float:
    """Return which share of a clip's work is left when only some of its modalities are looked at, about.

    Args:
        stages_ms: How long each stage of the whole clip was busy.
        present: In the order of the presence flags which modalities are looked at.
    """
    # Nearly all of decoding is that of frames.
    stages = (("audio",), ("vision", "faces", "decode"), ("text", "asr"))
    parts = [sum(stages_ms.get(stage, 0.0) for stage in some) for some in stages]
    rest = stages_ms.get("fusion", 0.0)
    whole = rest + sum(parts)
    left = rest + sum(part for part, flag in zip(parts, present, strict=True) if flag)
    return left / whole if whole else 1.0


def words_beside(path: Path) -> Words:
    """Return the transcript beside a clip, NAME.txt, NAME.vtt or NAME.srt; one without text if there is none.

    Raises:
        MediaError: A file is there and is no text, or no subtitles.
    """
    return Transcripts(folder=path.parent).read(path)


def score_in_turn(scorer: ClipScorer, path: Path, said: Transcript) -> ClipResult | ClipFailure:
    """Decode a clip, then encode it, then fuse it, one after the other, as a short script would.

    Args:
        scorer: The scorer.
        path: The clip.
        said: What is said in it.

    Raises:
        MediaError: The file is not readable media.
    """
    clip, decode_ms = scorer.decoder.decode(path)
    (found,) = scorer.score_batch([DecodedClip(clip, said, decode_ms=decode_ms)])
    return found


class WholeModel(Closing):
    """One model, from features or from a file to scores; for one thread at a time.

    Scores are not clipped to [0, 1], so that clipping hides no difference, and nobody listens to clips.

    Args:
        engine: What ``open_model`` takes.
        options: Device and threads.

    Raises:
        TaemiError: It cannot be opened, or scores no clips.
    """

    def __init__(self, engine: Path, *, options: EngineOptions | None = None) -> None:
        model = open_model(engine, options=options)
        self._scorer = ClipScorer(model, clip_scores=False, listener=Listener("none"))
        fusion = model.manifest.graphs[FUSION]
        self._names = (*MODALITIES[:2], text_input(fusion, engine))
        self._decoders: dict[tuple[bool, bool, float | None], _TimingDecoder] = {}

    def open_first(self) -> Engine:
        """Return the engine of the first graph, opened now at the latest."""
        return self._scorer.model.engine(FUSION)

    def open_all(self) -> None:
        """Open every engine now.

        Raises:
            TaemiError: One cannot be opened.
        """
        self._scorer.prepare()

    def score_features(self, clips: Sequence[Arrays]) -> list[Scored]:
        """Score clips whose features are at hand, in as few calls of the first graph as it takes.

        Args:
            clips: For each its features by the name of the first graph's input, [length, width] float32, or
                [width] where the input has no length; a name that is not there is a missing modality.

        Raises:
            TaemiError: An engine failed, or scores are not finite.
        """
        gathered = [self._gather(clip) for clip in clips]
        found = []
        for features, scores in zip(gathered, fuse_together(self._scorer, gathered), strict=True):
            if isinstance(scores, Exception):
                raise scores
            found.append(Scored(self._scorer.conclude("features", features, scores, 0.0)))
        return found

    def score_file(
        self,
        path: Path,
        said: Transcript,
        present: Sequence[bool] | None = None,
        *,
        max_fps: float | None = None,
        in_turn: bool = False,
    ) -> Scored:
        """Score a clip.

        Args:
            path: The clip.
            said: What is said in it.
            present: In the order of the presence flags which modalities are looked at; the tracks of the
                others are not read. All of them when ``None``.
            max_fps: Frames a second to look at; as trained when ``None``.
            in_turn: Whether the stages run one after the other, and not beside one another.

        Raises:
            MediaError: The file is not readable media.
            TaemiError: An engine failed.
        """
        audio, vision, text = present if present is not None else (True, True, True)
        decoder = self._decoder(audio, vision, max_fps)
        self._scorer.decoder = decoder
        decoder.faces_ms = 0.0
        # A transcript that is not there is an empty one: nobody listens.
        words = said if text and said.text is not None else Transcript("", why=said.why or _LEFT_OUT)
        score = score_in_turn if in_turn else ClipScorer.predict
        result = score(self._scorer, path, words)
        if isinstance(result, ClipFailure):
            raise EngineError(f"cannot score {path}", result.error)
        return Scored(result, decoder.faces_ms)

    def _decoder(self, audio: bool, vision: bool, max_fps: float | None) -> _TimingDecoder:
        wanted = (audio, vision, max_fps)
        if wanted not in self._decoders:
            taken = self._scorer.preprocessing
            if max_fps is not None:
                taken = replace(taken, vision=replace(taken.vision, max_fps=max_fps))
            plain = self._scorer.decoder
            self._decoders[wanted] = _TimingDecoder(
                taken, plain.faces, plain.limits, audio=audio, vision=vision
            )
        return self._decoders[wanted]

    def _gather(self, clip: Mapping[str, Array]) -> ClipFeatures:
        audio, vision, text = (clip.get(name) for name in self._names)
        encoded = (_encoded(audio), vision, _encoded(text))
        return self._scorer.encoder.gather(_NO_CLIP, Transcript("", "features", _LEFT_OUT), encoded, {})

    def close(self) -> None:
        """Close the model; closing twice does nothing."""
        self._scorer.close()


@dataclass
class _TimingDecoder(ClipDecoder):
    """A decoder that says how long faces were looked for.

    Args:
        faces_ms: Milliseconds since somebody set it to 0; one call at a time.
    """

    faces_ms: float = 0.0

    def _open(self) -> FaceDetector | None:
        detector = super()._open()
        return _TimedDetector(detector, self) if detector is not None else None


class _TimedDetector:
    """A detector whose time is counted."""

    def __init__(self, detector: FaceDetector, counts: _TimingDecoder) -> None:
        self.name = detector.name
        self._detector = detector
        self._counts = counts

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Box]:
        start = time.perf_counter()
        try:
            return self._detector.detect(image)
        finally:
            self._counts.faces_ms += (time.perf_counter() - start) * 1e3


def _encoded(features: npt.NDArray[Any] | None) -> Encoded | None:
    """Return features of one clip as an encoder gives them, with their mask."""
    if features is None:
        return None
    length = features.shape[0] if features.ndim > 1 else 1
    return features[None], np.ones((1, length), np.bool_)
