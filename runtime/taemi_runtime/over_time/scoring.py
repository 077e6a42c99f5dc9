"""From what comes of a source to the scores of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from taemi_runtime.clip_features import ClipFeatures
from taemi_runtime.contract import PRESENT
from taemi_runtime.faces.crops import FaceCounts
from taemi_runtime.media import Clip
from taemi_runtime.over_time.clock import Clock
from taemi_runtime.over_time.encoder import WindowEncoder
from taemi_runtime.over_time.events import Begins
from taemi_runtime.over_time.inbox import MOST_FRAMES, Portion
from taemi_runtime.over_time.material import FrameRing, Pixels, Seen, WaveformRing
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.schedule import Schedule, Window
from taemi_runtime.over_time.words import WordsOverTime
from taemi_runtime.resident import Given, host_inputs
from taemi_runtime.results import VisionUse
from taemi_runtime.spec import Array
from taemi_runtime.stopwatch import stopwatch
from taemi_runtime.transcripts import Transcript

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer


class _Stretch:
    """What is kept of the stretch that is being read."""

    def __init__(self, begins: Begins, schedule: Schedule, sound: WaveformRing, frames: FrameRing) -> None:
        self.begins = begins
        self.schedule = schedule
        self.sound = sound
        self.frames = frames
        self.is_new = True
        self.reached_s = 0.0


class WindowScorer:
    """Scores the windows of a source, in order.

    Args:
        scorer: The model.
        name: The source as it was named.
        hop_s: From the beginning of one window to that of the next.
        said: The transcript; one without text leaves it to the recogniser.
        clock: What tells the time of a live source, whose windows are skipped where they are late; ``None``
            scores every window.

    Attributes:
        skipped: How many windows were skipped.
        dropped: How many frames were not looked at.
    """

    def __init__(
        self, scorer: ClipScorer, name: str, hop_s: float, said: Transcript, *, clock: Clock | None = None
    ) -> None:
        self._scorer = scorer
        self._name = name
        self._hop_s = hop_s
        self._clock = clock
        self._frame_s = 0.0
        self._audio = scorer.preprocessing.audio
        self._vision = scorer.preprocessing.vision
        self._encoder = WindowEncoder(scorer.model, scorer.preprocessing)
        self._words = WordsOverTime(said, scorer.listener, scorer.preprocessing, name)
        self._stretch: _Stretch | None = None
        self._index = 0
        self._skipped_before = self._dropped_before = 0
        self._vision_ms = self._vision_wall_ms = self._decode_ms = self._decode_told_ms = 0.0
        self._warnings: tuple[str, ...] = ()
        self.skipped = self.dropped = 0

    @property
    def kept(self) -> tuple[int, int]:
        """Samples and frames that are kept now."""
        return (len(self._stretch.sound), len(self._stretch.frames)) if self._stretch else (0, 0)

    @property
    def unsaid(self) -> tuple[str, ...]:
        """What was wrong with the source and stands in no result, as none came after it."""
        return self._warnings

    def take(self, portions: list[Portion]) -> Iterator[WindowResult]:
        """Take what came, and yield the results of the windows that it completes.

        Raises:
            EngineError: An engine or the recogniser failed, or scores are not finite.
        """
        for portion in portions:
            yield from self._take(portion)

    def _take(self, portion: Portion) -> Iterator[WindowResult]:
        if portion.begins is not None:
            self._stretch = self._open(portion.begins)
        stretch = self._stretch
        if stretch is None:
            return
        for sound in portion.sounds:
            stretch.sound.add(sound)
        for sight in portion.sights:
            stretch.frames.add(sight)
            if self._clock is None:
                stretch.frames.encode(self._encoder.frames_a_call)
        self.dropped += portion.unseen
        if self._clock is not None:
            self.dropped += stretch.frames.thin(self._most_waiting())
        self._warnings += portion.warnings
        if portion.reached is not None:
            stretch.reached_s = min(portion.reached.sound_s, portion.reached.sight_s)
            self._decode_ms = portion.reached.decode_ms
        schedule = stretch.schedule
        if portion.ends is not None:
            self._decode_ms = portion.ends.decode_ms
            windows = schedule.last(portion.ends.at_s)
        else:
            windows = schedule.complete(stretch.reached_s)
        if self._clock is not None:
            due = list(windows)
            self.skipped += len(due[:-1])
            windows = iter(due[-1:])
        for window in windows:
            yield self._score(stretch, window)
            self._forget(stretch)
        self._forget(stretch)
        # A live source is looked at again after each call: a window may be due, or frames too many.
        stretch.frames.encode(self._encoder.frames_a_call, once=self._clock is not None)

    def _most_waiting(self) -> int:
        """Return how many frames may wait: what can be encoded in a hop, by the calls before."""
        if not self._frame_s:
            return MOST_FRAMES
        return int(min(max(self._hop_s / self._frame_s, self._encoder.frames_a_call), MOST_FRAMES))

    def _open(self, begins: Begins) -> _Stretch:
        length_s = self._audio.max_seconds
        frames = FrameRing(self._hop_s, length_s, self._vision.max_frames, self._encode)
        return _Stretch(begins, Schedule(self._hop_s, length_s), WaveformRing(self._audio.rate_hz), frames)

    def _forget(self, stretch: _Stretch) -> None:
        needed_from_s = stretch.schedule.needed_from_s
        stretch.sound.forget(needed_from_s)
        stretch.frames.forget(needed_from_s)

    def _encode(self, pixels: Pixels) -> Array:
        begin_s = self._clock.now_s() if self._clock is not None else 0.0
        with stopwatch() as watch:
            features = self._encoder.see(pixels)
        self._vision_ms += watch.ms
        self._vision_wall_ms += watch.wall_ms
        if self._clock is not None:
            frame_s = (self._clock.now_s() - begin_s) / len(pixels)
            self._frame_s = (self._frame_s + frame_s) / 2 if self._frame_s else frame_s
        return features

    def _score(self, stretch: _Stretch, window: Window) -> WindowResult:
        begins = stretch.begins
        # Frames of windows that were skipped are never encoded.
        stretch.frames.forget(window.start_s)
        stretch.frames.encode(self._encoder.frames_a_call, before_s=window.end_s, all_of_them=True)
        seen = stretch.frames.see(window)
        clip = self._clip(stretch, window, seen)
        feeds: dict[str, Given] = {}
        spent_ms = {"decode": self._decode_ms - self._decode_told_ms, "vision": self._vision_ms}
        total_ms = spent_ms["decode"] + self._vision_wall_ms
        self._decode_told_ms, self._vision_ms, self._vision_wall_ms = self._decode_ms, 0.0, 0.0
        with stopwatch() as hearing:
            audio = self._encoder.audio(clip, feeds)
        start_s, end_s = begins.at_s + window.start_s, begins.at_s + window.end_s
        with stopwatch() as listening:
            said = self._words.said(start_s, end_s, clip.waveform)
        with stopwatch() as reading:
            text = self._encoder.text(said, feeds)
            cut = self._encoder.tell_cut(text)
            vision = self._encoder.seen(seen.features, _vision_use(clip, seen), feeds)
        feeds[PRESENT] = np.array([[audio.present, vision.present, text.present]], dtype=np.bool_)
        features = ClipFeatures(clip, host_inputs(feeds), audio, vision, text, spent_ms, said.warnings + cut)
        with stopwatch() as fusing:
            scores = self._scorer.fuse(features)
        watches = {"audio": hearing, "asr": listening, "text": reading, "fusion": fusing}
        spent_ms |= {name: watch.ms for name, watch in watches.items()}
        total_ms += sum(watch.wall_ms for watch in watches.values())
        result = WindowResult(
            index=self._index,
            start_s=start_s,
            end_s=end_s,
            scores=self._scorer.conclude(self._name, features, scores, total_ms),
            partial=window.partial,
            skipped=self.skipped - self._skipped_before,
            dropped_frames=self.dropped - self._dropped_before,
            gap_s=begins.gap_s if stretch.is_new and begins.why else None,
        )
        stretch.is_new = False
        self._skipped_before, self._dropped_before = self.skipped, self.dropped
        self._warnings = ()
        self._index += 1
        return result

    def _clip(self, stretch: _Stretch, window: Window, seen: Seen) -> Clip:
        """Return the window as a clip without its frames, which are encoded."""
        begins = stretch.begins
        samples = round((window.end_s - window.start_s) * self._audio.rate_hz)
        waveform = stretch.sound.cut(window.start_s, min(samples, self._audio.max_samples))
        warnings = self._warnings
        if stretch.is_new and begins.why:
            warnings = (f"{begins.why} before this window", *warnings)
        counts = None
        if begins.faces and not begins.sight_why:
            faces = 0 if seen.features is None else len(seen.features)
            counts = FaceCounts(seen.looked, faces, seen.several)
        sight_why = begins.sight_why or "the window has no frame of the video track"
        if seen.looked and seen.features is None:
            sight_why = f"no face was found in any of {seen.looked} frames"
        return Clip(
            path=Path(self._name),
            seconds=window.end_s - window.start_s,
            waveform=waveform,
            frames=None,
            audio_seconds=0.0 if waveform is None else waveform.size / self._audio.rate_hz,
            vision_seconds=seen.seconds,
            audio_truncated=False,
            vision_truncated=seen.truncated,
            audio_why=begins.sound_why or "the window has no sound of the audio track",
            vision_why=sight_why,
            warnings=warnings,
            faces=counts,
        )


def _vision_use(clip: Clip, seen: Seen) -> VisionUse:
    faces = clip.faces
    return VisionUse(
        seen.features is not None,
        frames=0 if seen.features is None else len(seen.features),
        faces=faces.faces if faces is not None else None,
        left_out=faces.frames - faces.faces if faces is not None else None,
        seconds_used=clip.vision_seconds,
        truncated=clip.vision_truncated,
        why="" if seen.features is not None else clip.vision_why,
    )
