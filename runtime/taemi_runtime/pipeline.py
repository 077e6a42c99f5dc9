"""From a clip to its scores: decode, encode what is there, fuse."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.listener import Listener
from taemi_runtime.attention import Weights, cut_attention, require_attention
from taemi_runtime.batching import DecodedClip, encode_together, score_together
from taemi_runtime.clip_features import ClipFeatures
from taemi_runtime.clock import Clock
from taemi_runtime.closing import Closing
from taemi_runtime.contract import FUSION, MODALITIES, PRESENT, SCORES, read_preprocessing
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.encoding import ClipEncoder
from taemi_runtime.errors import EngineError, TaemiError
from taemi_runtime.faces.choice import describe_difference, open_detector
from taemi_runtime.host import runs_on_cpu
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.loading import LoadedModel
from taemi_runtime.media import Clip
from taemi_runtime.preprocessing import FACES_NONE
from taemi_runtime.ranges import span
from taemi_runtime.remarks import tell_nothing, tell_several
from taemi_runtime.results import ClipFailure, ClipResult, Timings
from taemi_runtime.streaming import stream_clip
from taemi_runtime.transcripts import Transcript

if TYPE_CHECKING:
    from taemi_runtime.over_time.results import WindowResult
_log = logging.getLogger(__name__)

__all__ = ["MODALITIES", "ClipFeatures", "ClipScorer"]


class ClipScorer(Closing):
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
        self._listening = threading.Lock()
        self.clip_scores = clip_scores
        self.preprocessing = read_preprocessing(model.manifest, model.path)
        if max_fps is not None:
            vision = replace(self.preprocessing.vision, max_fps=max_fps)
            self.preprocessing = replace(self.preprocessing, vision=vision)
        trained = self.preprocessing.vision.faces
        detector = open_detector(trained, faces)
        used = detector.name if detector is not None else FACES_NONE
        self.faces_differ = describe_difference(trained, used)
        self.preprocessing = replace(
            self.preprocessing, vision=replace(self.preprocessing.vision, faces=used)
        )
        self.decoder = ClipDecoder(self.preprocessing, faces, self.limits)
        self.encoder = ClipEncoder(model, self.preprocessing, resident=True)
        outputs = model.manifest.graphs[FUSION].outputs
        self.labels = next(item.labels for item in outputs if item.name == SCORES)
        # What is done with every clip's features, and whether results say what the network attended to.
        self.keep: Callable[[ClipFeatures], tuple[str, ...]] | None = None
        self.with_attention = False

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
            self.encoder.text_parts()

    def try_prepare(self, *, text: bool = True) -> None:
        """Open the engines now as [ClipScorer.prepare][] does, but go on without an encoder, and say so.

        The clips that need it fail one by one; the others have their scores.

        Args:
            text: Whether the text encoder is needed, too.

        Raises:
            TaemiError: The fusion engine cannot be opened.
        """
        self.model.engine(FUSION)
        try:
            self.prepare(text=text)
        except TaemiError as error:
            _log.error("%s", error)

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
        *,
        workers: int = 0,
        batch: int = 0,
    ) -> Iterator[ClipResult | ClipFailure]:
        """Score clips: one after the other, each as soon as the one before was taken, or many at a time.

        Args:
            paths: The clips; folders and patterns are not searched. With workers they are taken ahead, from
                another thread.
            transcripts: What is said in them: a mapping from path to text, or
                a folder of NAME.txt, NAME.vtt and NAME.srt. Clips that are not there are treated as
                ``predict`` treats ``None``.
            workers: How many processes decode; with 0 clips are decoded here, one at a time.
            batch: How many clips are scored together at most, with workers; 0 leaves it to the machine.

        Returns:
            For each path in order its result, or its [ClipFailure][]: one bad clip never ends the rest.

        Raises:
            UsageError: ``paths`` is one path, or the folder of transcripts does not exist.
            TaemiError: The engines, or the recogniser that was asked for, cannot be opened.
        """
        from taemi_runtime.many import score_many
        from taemi_runtime.scale import choose_scale

        on_cpu = runs_on_cpu(self.model.options.device)
        threads = self.model.options.threads
        scale = choose_scale(None, workers=workers, batch=batch or None, threads=threads, on_cpu=on_cpu)
        return score_many(self, paths, transcripts, scale)

    def predict_windows(
        self, path: str | PathLike[str], hop: float = 2.0, transcript: str | Transcript | None = None
    ) -> Iterator[WindowResult]:
        """Score every window of a long clip: [0, 12) s, [hop, hop + 12) s and so on, at full speed.

        Args:
            path: The clip, of any length; memory does not grow with it.
            hop: From the beginning of one window to that of the next, in seconds.
            transcript: What is said in the clip. One that was read from subtitles gives each window its own
                words, plain text is every window's; ``None`` leaves it to the recogniser, window by window.

        Returns:
            The windows' results, each as soon as it is there; see ``taemi_runtime.over_time``.

        Raises:
            UsageError: ``hop`` is not above 0.
            MediaError: The file is not readable media; raised by the iteration.
            EngineError: An engine or the recogniser failed; raised by the iteration.
        """
        from taemi_runtime.over_time.session import open_session
        from taemi_runtime.over_time.sources import FileSource

        return iter(open_session(self, FileSource(Path(path), self.decoder), hop, transcript, live=False))

    def predict_live(
        self, source: str, hop: float = 2.0, transcript: str | Transcript | None = None
    ) -> Iterator[WindowResult]:
        """Score a source at its own pace; windows that the machine is too slow for are skipped and counted.

        Args:
            source: What ``--live`` takes: a file, a URL, a device, or ``-`` for raw PCM on stdin.
            hop: From the beginning of one window to that of the next, in seconds.
            transcript: As for ``predict_windows``.

        Returns:
            The windows' results; closing the iterator stops reading.

        Raises:
            UsageError: ``hop`` is not above 0.
            MediaError: There is no such source, or it cannot be read; the latter is raised by the iteration.
            EngineError: An engine or the recogniser failed; raised by the iteration.
        """
        from taemi_runtime.over_time.live import open_live
        from taemi_runtime.over_time.session import open_session

        return iter(open_session(self, open_live(source, self.decoder), hop, transcript, live=True))

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
        clock = Clock()
        with stream_clip(self, path, Transcript.given(transcript, transcript_source), clock) as features:
            with clock.stage("fusion"):
                scores = self.fuse(features)
            return self.conclude(str(path), features, scores, clock.total_ms())

    def conclude(
        self, name: str, features: ClipFeatures, scores: npt.NDArray[np.float32], total_ms: float
    ) -> ClipResult:
        """Put a clip's scores together with what they rest on.

        Args:
            name: The clip as it was named.
            features: Its features.
            scores: [outputs] float32, not clipped.
            total_ms: How long it took, in milliseconds.
        """
        if self.keep is not None:
            features.bring()
        kept = self.keep(features) if self.keep is not None else ()
        if self.clip_scores:
            scores = np.clip(scores, 0.0, 1.0) + 0.0  # no -0.0
        return ClipResult(
            clip=name,
            clip_seconds=features.clip.seconds,
            # The shortest decimal that reads back as the same float32, not its 17 digits as a float64.
            intensities={name: float(str(score)) for name, score in zip(self.labels, scores, strict=True)},
            audio=features.audio,
            vision=features.vision,
            text=features.text,
            engine=self.model.engine(FUSION).info,
            timings_ms=Timings(**features.spent_ms, total=total_ms),
            untrained=self.untrained,
            attention=self.attend(features) if self.with_attention else None,
            warnings=(
                features.clip.warnings
                + tell_several(features.clip.faces)
                + features.warnings
                + kept
                + tell_nothing(features.audio.present, features.vision.present, features.text.present)
            ),
        )

    def features(
        self,
        path: str | PathLike[str],
        transcript: str | Transcript | None = None,
        transcript_source: str = "given",
    ) -> ClipFeatures:
        """Decode and encode one clip, as [ClipScorer.score][] does; features are on the host."""
        with stream_clip(self, path, Transcript.given(transcript, transcript_source), Clock()) as found:
            found.bring()
            return found

    def encode(self, clip: Clip, said: Transcript, decode_ms: float = 0.0) -> ClipFeatures:
        """Encode a clip that is decoded, features on the host.

        Args:
            clip: The clip.
            said: Its transcript; one without text leaves it to the recogniser.
            decode_ms: How long decoding took, for the timings.

        Raises:
            MediaError: The file can no longer be read where the recogniser has to listen to it.
            EngineError: An engine or the recogniser failed.
        """
        (found,) = encode_together(self, [DecodedClip(clip, said, decode_ms=decode_ms)])
        if isinstance(found, Exception):
            raise found
        with found:
            found.bring()
            return found

    def hear(self, path: str | PathLike[str]) -> Transcript:
        """Transcribe a clip that has no transcript; threads take turns."""
        with self._listening, span("hear"):
            return self.listener.hear(Path(path), self.preprocessing.text.speech, self.limits)

    def score_batch(self, clips: Sequence[DecodedClip]) -> list[ClipResult | ClipFailure]:
        """Score clips that are decoded, in shared calls where that changes no result.

        Float graphs take several clips a call: shorter ones are filled up behind their masks, which moves
        scores by less than 1e-5. Integer graphs take one, since their rounding depends on a whole call.

        Args:
            clips: The clips.

        Returns:
            For each in order its result, or its failure: one bad clip never takes the others with it. In
            its timings a clip has its share of each call, and ``total`` is their sum.
        """
        return score_together(self, clips)

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
        feeds = features.feeds()
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

    def attend(self, features: ClipFeatures) -> Weights:
        """Return what the network attends to in a clip; a call of the fusion engine of its own.

        Args:
            features: The clip's features.

        Raises:
            BundleError: The fusion graph does not give its attention.
            EngineError: The engine failed.
        """
        engine = self.model.engine(FUSION)
        require_attention(engine.spec, self.model.path)
        outputs = {name: values[0] for name, values in engine.run(features.feeds()).items()}
        present = (features.audio.present, features.vision.present, features.text.present)
        lengths = {
            name: int(np.count_nonzero(features.inputs[f"{name}_mask"]))
            for name, is_there in zip(MODALITIES, present, strict=True)
            if is_there and f"{name}_mask" in features.inputs
        }
        return cut_attention(engine.spec, outputs, lengths)

    def close(self) -> None:
        """Close the model; closing twice does nothing."""
        self.model.close()
