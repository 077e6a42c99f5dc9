"""What a source's thread hands to the thread that scores: bounded, whatever either of them does."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from taemi_runtime.over_time.events import Begins, Ends, Event, Reached, Sight, Sound, Unseen

# So many frames (20 MB of the usual size), and so many seconds of sound, wait at most.
MOST_FRAMES = 128
MOST_SOUND_S = 30.0


@dataclass
class Portion:
    """What came of one stretch since the last look into the inbox.

    Args:
        begins: Its beginning, where it is new.
        sounds: Pieces of the waveform in order.
        sights: Frames in order.
        unseen: How many frames were left out.
        reached: How far it was read.
        warnings: What was wrong with it.
        ends: Its end, where that was reached.
    """

    begins: Begins | None = None
    sounds: list[Sound] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    unseen: int = 0
    reached: Reached | None = None
    warnings: tuple[str, ...] = ()
    ends: Ends | None = None


class Inbox:
    """Hands events from one thread to another.

    Args:
        rate_hz: Samples a second of the sound.
        drops: What happens when it is full. A live source does not wait: every second frame is left out,
            then of those that follow three of four, and so on until somebody looks; of sound that nobody
            takes the newest becomes a gap. Else the source's thread waits.
    """

    def __init__(self, rate_hz: int, *, drops: bool) -> None:
        self._most_samples = round(MOST_SOUND_S * rate_hz)
        self._drops = drops
        self._portions: deque[Portion] = deque()
        self._frames = 0
        self._samples = 0
        self._stride = 1
        self._asked = 0
        self._closed = False
        self._error: BaseException | None = None
        self._done = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many frames wait."""
        return self._frames

    def wants_frame(self) -> bool:
        """Return whether the next frame is to be looked at."""
        self._asked += 1
        return self._asked % self._stride == 0

    def put(self, event: Event) -> bool:
        """Take an event; return whether the source should go on."""
        with self._changed:
            while not self._drops and not self._closed and self._is_full(event):
                self._changed.wait()
            if self._closed:
                return False
            self._add(event)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, and what ended it."""
        with self._changed:
            self._done = True
            self._error = error
            self._changed.notify_all()

    def take(self, timeout_s: float | None = None) -> list[Portion] | None:
        """Return everything that waits, after waiting for something; ``None`` when nothing more comes.

        Args:
            timeout_s: How long to wait at most; an empty list says that nothing came.

        Raises:
            BaseException: What ended the source, once everything before it was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._portions or self._done or self._closed, timeout_s)
            portions = list(self._portions)
            self._portions.clear()
            self._frames = self._samples = 0
            self._stride = 1
            self._changed.notify_all()
            if portions or not (self._done or self._closed):
                return portions
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Tell the source's thread that nobody reads any longer."""
        with self._changed:
            self._closed = True
            self._portions.clear()
            self._changed.notify_all()

    def _is_full(self, event: Event) -> bool:
        if isinstance(event, Sight) and event.pixels is not None:
            return self._frames >= MOST_FRAMES
        return isinstance(event, Sound) and event.samples is not None and self._samples >= self._most_samples

    def _add(self, event: Event) -> None:
        if isinstance(event, Begins):
            self._portions.append(Portion(begins=event))
            return
        if not self._portions or self._portions[-1].ends is not None:
            self._portions.append(Portion())
        portion = self._portions[-1]
        full = self._is_full(event)
        match event:
            case Sound():
                self._hear(portion, Sound(event.count, None) if full else event)
            case Sight():
                if full:
                    self._thin()
                self._frames += event.pixels is not None
                portion.sights.append(event)
            case Unseen():
                portion.unseen += 1
            case Reached():
                portion.reached = event
                portion.warnings = _bounded(portion.warnings, event.warnings)
            case Ends():
                portion.warnings = _bounded(portion.warnings, event.warnings)
                portion.ends = event

    def _thin(self) -> None:
        """Leave out every second frame that waits, and as many of those that follow."""
        self._stride *= 2
        for portion in self._portions:
            kept = portion.sights[::2]
            portion.unseen += len(portion.sights) - len(kept)
            portion.sights = kept
        self._frames = sum(sight.pixels is not None for portion in self._portions for sight in portion.sights)

    def _hear(self, portion: Portion, sound: Sound) -> None:
        last = portion.sounds[-1] if portion.sounds else None
        if sound.samples is None and last is not None and last.samples is None:
            portion.sounds[-1] = Sound(last.count + sound.count, None)
            return
        self._samples += sound.count if sound.samples is not None else 0
        portion.sounds.append(sound)


def _bounded(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    # A source that is damaged all over says so many times; the first few tell it.
    return (before + more)[:8] if more else before
