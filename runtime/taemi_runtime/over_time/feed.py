"""Reading a source in a thread of its own, at full speed or at the source's pace."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

from taemi_runtime.over_time.clock import Clock
from taemi_runtime.over_time.events import Begins, Ends, Event, Sight, Sound, Unseen
from taemi_runtime.over_time.inbox import Inbox, Portion
from taemi_runtime.over_time.sources import Source

# A source that is read this much later than usual loses frames that are not looked at, in seconds.
_LONGEST_LAG_S = 1.0
_CAUGHT_UP_S = 0.1
# What is usual is the least of one to two times so many seconds.
_LAG_WINDOW_S = 15.0


class Pace:
    """When each event of a source is due.

    Args:
        rate_hz: Samples a second of the sound.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._at_s = 0.0
        self._samples = 0

    def due_s(self, event: Event) -> float | None:
        """Return the time of an event on the source's axis, in seconds; ``None`` where it has none."""
        match event:
            case Begins():
                self._at_s, self._samples = event.at_s, 0
                return event.at_s
            case Sound():
                self._samples += event.count
                return self._at_s + self._samples / self._rate_hz
            case Sight() | Unseen():
                return self._at_s + event.time_s
            case Ends():
                return self._at_s + event.at_s
            case _:
                return None


class Lag:
    """How far reading is behind a source's pace, against the least of the last seconds.

    Networks are late by what they like, and steadily so is no reason to leave anything out.

    Attributes:
        is_long: Whether frames are to be left out, so that reading catches up.
    """

    def __init__(self) -> None:
        self._since_s = 0.0
        self._least_before_s = self._least_s = math.inf
        self.is_long = False

    def note(self, now_s: float, lag_s: float) -> None:
        """Take a lag, in seconds, at a time."""
        if now_s - self._since_s > _LAG_WINDOW_S:
            self._since_s, self._least_before_s, self._least_s = now_s, self._least_s, math.inf
        self._least_s = min(self._least_s, lag_s)
        # Until all of it is caught up: what is left would count as usual after a while.
        limit_s = _CAUGHT_UP_S if self.is_long else _LONGEST_LAG_S
        self.is_long = lag_s - min(self._least_s, self._least_before_s) > limit_s


class Feed:
    """Reads a source and holds what came until it is asked for.

    Args:
        source: The source.
        rate_hz: Samples a second of the sound.
        live: Whether the source is played at its own pace and waits for nobody.
        clock: What tells the time.

    Attributes:
        origin_s: The clock's time at the source's beginning; ``None`` before that, and where it is not live.
    """

    def __init__(self, source: Source, rate_hz: int, *, live: bool, clock: Clock) -> None:
        self._source = source
        self._live = live
        self._clock = clock
        self._pace = Pace(rate_hz)
        self._lag = Lag()
        self._inbox = Inbox(rate_hz, drops=live)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="taemi-source", daemon=True)
        self.origin_s: float | None = None

    def __iter__(self) -> Iterator[list[Portion]]:
        """Yield what came since the last look, whenever something did.

        Raises:
            TaemiError: The source could not be read.
        """
        self._thread.start()
        while (portions := self._inbox.take()) is not None:
            yield portions

    def late_s(self, time_s: float) -> float | None:
        """Return how long a moment of the source has been over, in seconds; ``None`` where it is not live."""
        if self.origin_s is None:
            return None
        return max(self._clock.now_s() - self.origin_s - time_s, 0.0)

    def close(self, patience_s: float = 0.5) -> bool:
        """Stop reading; return whether the thread ended in time."""
        self._stop.set()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _read(self) -> None:
        try:
            for event in self._source.events(self._wants_frame, self._stop):
                if (self._live and not self._wait_for(event)) or not self._inbox.put(event):
                    return
        except BaseException as error:  # it is raised where somebody waits for what comes
            self._inbox.finish(error)
        else:
            self._inbox.finish()

    def _wait_for(self, event: Event) -> bool:
        """Wait until an event is due; return whether to go on."""
        due_s = self._pace.due_s(event)
        if due_s is not None:
            if self.origin_s is None:
                self.origin_s = self._clock.now_s() - due_s
            now_s = self._clock.now_s()
            lag_s = now_s - self.origin_s - due_s
            self._lag.note(now_s, max(lag_s, -self._source.lead_s))
            if lag_s < -self._source.lead_s:
                self._clock.wait(-self._source.lead_s - lag_s, self._stop)
        return not self._stop.is_set()

    def _wants_frame(self) -> bool:
        return self._inbox.wants_frame() and not (self._live and self._lag.is_long)
