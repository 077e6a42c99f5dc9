"""Live sessions on a clock that jumps: what a slow machine does, without waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from taemi_runtime.over_time.events import Begins, Ends, Event, Reached, Sight, Sound
from taemi_runtime.over_time.feed import Feed
from taemi_runtime.over_time.inbox import Portion
from taemi_runtime.over_time.session import Session
from tests.runtime import lossless


class FakeClock:
    """Time that passes when somebody waits or works."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        self.time_s += max(seconds, 0.0)
        return stop.is_set()


class SteppedFeed(Feed):
    """Reads and scores in one thread, with a clock for each, as two threads would."""

    most_frames = 0
    work: FakeClock

    def __iter__(self) -> Iterator[list[Portion]]:
        for event in self._until_error():
            self._wait_for(event)
            self.most_frames = max(self.most_frames, self._inbox.waiting)
            if self._clock.now_s() > self.work.time_s:
                # Whoever scores has been waiting for something since; what it does takes time of its own.
                waiting = self._inbox.take(0)
                if waiting:
                    yield waiting
                self.work.time_s = max(self.work.time_s, self._clock.now_s())
            self._inbox.put(event)
        while (portions := self._inbox.take(0)) is not None:
            yield portions

    def late_s(self, time_s: float) -> float | None:
        assert self.origin_s is not None
        return max(self.work.time_s - self.origin_s - time_s, 0.0)

    def _until_error(self) -> Iterator[Event]:
        try:
            yield from self._source.events(self._wants_frame, self._stop)
        except Exception as error:  # as in the thread that this stands for
            self._inbox.finish(error)
        else:
            self._inbox.finish()


def live(scorer, source, hop_s: float, clock: FakeClock, work: FakeClock | None = None) -> Session:
    """Return a live session whose source plays by one clock and whose scoring takes time of another."""
    work = work or FakeClock()
    session = Session(scorer, source, hop_s, live=True, clock=work)
    session._feed = feed = SteppedFeed(source, scorer.preprocessing.audio.rate_hz, live=True, clock=clock)
    feed.work = work
    return session


def make_slow(monkeypatch, scorer, clock: FakeClock, graph: str, seconds: Callable[[], float]) -> None:
    """Let every call of a graph take some time of the clock."""
    slow = scorer.model.engine(graph)
    run = type(slow).run

    def take_time(self, inputs, **options):
        if self is slow:
            clock.time_s += seconds()
        return run(self, inputs, **options)

    monkeypatch.setattr(type(slow), "run", take_time)


class Synthetic:
    """A source that needs no decoding: noise and flat frames for as long as it is told."""

    name = "synthetic"
    lead_s = 0.0
    seconds = 0.0

    def __init__(self, length_s: float, side: int = 8) -> None:
        self._length_s = length_s
        self._second = lossless.sound(1.0).astype("f4") / 32_768
        self._frames = lossless.pictures(1.0, side=side).transpose(0, 3, 1, 2).copy()

    def events(self, has_time, stop):
        yield Begins(0.0)
        for second in range(round(self._length_s)):
            for tenth in range(10):
                at_s = second + tenth / 10
                yield Sight(at_s, 0.1, self._frames[tenth].copy())
                yield Sound(1600, self._second[tenth * 1600 : tenth * 1600 + 1600].copy())
                yield Reached(at_s + 0.1, at_s, 0.0)
            if stop.is_set():
                return
        yield Ends(self._length_s, 0.0)
