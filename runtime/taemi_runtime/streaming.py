"""One clip as a pipeline: encoders work on what is decoded while the rest of it still is.

    decoding -> frames, one call's worth at a time -> vision encoder -.
             -> the waveform, once it is whole     -> audio encoder  --> features
    transcript, or recogniser                      -> text encoder   -'

Calls are cut as without a pipeline, so that scores never depend on timing. What waits between two stages is
bounded by what a model takes of a clip. A modality that is not there starts no stage and opens no engine.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taemi_runtime.clip_features import ClipFeatures, Encoded, SeenFrames, give_back
from taemi_runtime.clock import Clock
from taemi_runtime.contract import FUSION
from taemi_runtime.encoding import is_said
from taemi_runtime.host import runs_on_cpu
from taemi_runtime.interrupts import next_of, start_all
from taemi_runtime.media import Clip
from taemi_runtime.sound import AudioTrack, silence_bad_samples
from taemi_runtime.spec import Array
from taemi_runtime.threads import end_threads
from taemi_runtime.tracks import VideoTrack
from taemi_runtime.transcripts import Transcript

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer

# How long threads are waited for when a clip is given up: one that opens an engine cannot be hurried.
_PATIENCE_S = 0.3


class _GivenUp(Exception):  # noqa: N818 - another stage's error, or Ctrl-C, is what is told
    """The clip is given up."""


def stream_clip(
    scorer: ClipScorer, path: str | PathLike[str], said: Transcript, clock: Clock
) -> ClipFeatures:
    """Decode and encode a clip.

    Args:
        scorer: What has the engines.
        path: The clip.
        said: Its transcript; one without text leaves it to the recogniser.
        clock: Times the stages.

    Returns:
        Its features.

    Raises:
        MediaError: The file is not readable media.
        EngineError: An engine or the recogniser failed.
        TaemiError: An engine, or the recogniser that was asked for, cannot be opened.
    """
    return _Stream(scorer, path, said, clock).run()


class _Stream:
    """The stages of one clip, each in a thread of its own; the caller's thread only waits."""

    def __init__(self, scorer: ClipScorer, path: str | PathLike[str], said: Transcript, clock: Clock) -> None:
        self._scorer = scorer
        self._encoder = scorer.encoder
        self._path = path
        self._said = said
        self._clock = clock
        self._stopped = threading.Event()
        self._ended: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        # Engines on a CPU take all of its cores: two at a time would only get in each other's way.
        self._turn: Any = (
            threading.Lock() if runs_on_cpu(scorer.model.options.device) else contextlib.nullcontext()
        )
        # Frames of one call, with the place of the first in the clip.
        self._pictures: queue.SimpleQueue[tuple[int, Array] | None] = queue.SimpleQueue()
        self._sound: queue.SimpleQueue[npt.NDArray[np.float32] | None] = queue.SimpleQueue()
        self._sent = 0
        self._heard_early = False
        self._clip: Clip | None = None
        self._heard: Encoded | None = None
        self._seen: SeenFrames | None = None
        self._read: Encoded | None = None

    def run(self) -> ClipFeatures:
        try:
            self._start("decode", self._decode)
            if self._said.text is None or is_said(self._said.text):
                self._start("text", self._encode_text)
            if not self._scorer.model.is_open(FUSION):
                self._start("fusion", lambda: self._open(FUSION))
            self._wait()
        except BaseException:
            self._give_up()
            raise
        if self._clip is None:
            raise AssertionError("decoding ended without a clip and without an error")
        seen = self._seen.whole() if self._seen is not None else None
        encoded = (self._heard, seen, self._read)
        try:
            return self._encoder.gather(self._clip, self._said, encoded, self._clock.spent_ms)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        """Give back what lies on a device; what a call still uses comes back when it has ended."""
        give_back((self._heard, self._read), self._seen)

    def _close_if_given_up(self) -> None:
        """Give back what a stage got after the clip was given up."""
        if self._stopped.is_set():
            self._close()

    def _start(self, stage: str, work: Callable[[], None]) -> None:
        def run() -> None:
            error = None
            try:
                work()
            except Exception as caught:  # told by the thread that waits
                error = caught
            self._ended.put((stage, error))

        # No daemon: a process that ends while a library opens an engine would abort.
        thread = threading.Thread(target=run, name=f"taemi-{stage}")
        self._threads[stage] = thread
        start_all([thread])

    def _wait(self) -> None:
        """Wait for every stage; the first error ends all of them."""
        ended = 0
        # Decoding starts further stages, and ends after they have started.
        while ended < len(self._threads):
            _, error = next_of(self._ended)
            ended += 1
            if error is not None:
                raise error

    def _give_up(self) -> None:
        """End every stage, within a second even where an engine is running."""
        self._stopped.set()
        self._pictures.put(None)
        self._sound.put(None)
        # The first one starts the others: it is waited for before these are looked for.
        stop = self._scorer.model.stop
        end = time.monotonic() + _PATIENCE_S
        end_threads([self._threads["decode"]], stop, _PATIENCE_S)
        end_threads(list(self._threads.values()), stop, end - time.monotonic())
        self._close()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _GivenUp

    def _open(self, graph: str) -> None:
        with self._clock.loading():
            if graph == FUSION:
                self._scorer.model.engine(graph)
            else:
                self._encoder.open(graph)

    def _decode(self) -> None:
        try:
            with self._clock.stage("decode"):
                clip, _ = self._scorer.decoder.decode(self._path, self._look)
            self._clip = clip
            if clip.frames is not None:
                for part in self._encoder.in_calls(clip.frames[self._sent :]):
                    self._pictures.put((self._sent, part))
                    self._sent += len(part)
            if clip.waveform is not None and clip.waveform.size and not self._heard_early:
                self._sound.put(clip.waveform)
        finally:
            self._pictures.put(None)
            self._sound.put(None)

    def _look(self, sound: AudioTrack | str, sight: VideoTrack | str) -> None:
        """Hand on what decoding has got so far."""
        self._check()
        if isinstance(sound, AudioTrack):
            if "audio" not in self._threads:
                self._start("audio", self._encode_sound)
            if not self._heard_early and (waveform := sound.whole()) is not None:
                silence_bad_samples(waveform)
                self._heard_early = True
                self._sound.put(waveform)
        if isinstance(sight, VideoTrack):
            if "vision" not in self._threads:
                self._start("vision", self._encode_pictures)
            while (part := sight.part(self._sent, self._encoder.frames_a_call)) is not None:
                self._pictures.put((self._sent, part))
                self._sent += len(part)

    def _encode_sound(self) -> None:
        self._open("audio")
        waveform = self._sound.get()
        if waveform is None:
            return
        with self._turn:
            self._check()
            with self._clock.stage("audio"):
                (self._heard,) = self._encoder.hear([waveform])
        self._close_if_given_up()

    def _encode_pictures(self) -> None:
        self._open("vision")
        part = self._pictures.get()
        if part is None:
            return
        self._seen = SeenFrames(self._encoder)
        try:
            self._check()
            for number in range(2, self._encoder.calls_at_a_time("vision") + 1):
                self._start(f"vision-{number}", lambda: self._see(None))
            self._see(part)
        finally:
            self._close_if_given_up()

    def _see(self, part: tuple[int, Array] | None) -> None:
        """Encode frames until there are no more; on a GPU two threads do: copies overlap computing."""
        assert self._seen is not None
        while part is not None or (part := self._pictures.get()) is not None:
            start, pixels = part
            part = None
            with self._turn:
                self._check()
                with self._clock.stage("vision"):
                    self._seen.see(pixels, start)
        # The end is the other thread's, too.
        self._pictures.put(None)

    def _encode_text(self) -> None:
        if self._said.text is None:
            with self._clock.loading():
                listens = self._scorer.listener.prepare()
            with self._clock.stage("asr") if listens else contextlib.nullcontext():
                self._said = self._scorer.hear(self._path)
        if self._said.text is None or not is_said(self._said.text):
            return
        with self._clock.loading():
            self._encoder.text_parts()
            self._encoder.open("text")
        with self._turn:
            self._check()
            with self._clock.stage("text"):
                (self._read,) = self._encoder.read([self._said.text])
        self._close_if_given_up()
