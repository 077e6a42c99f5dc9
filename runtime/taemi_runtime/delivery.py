"""From outcomes to where they are written: as they come or in order, counted, and whole after Ctrl-C."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from taemi_runtime.console import say
from taemi_runtime.interrupts import finished_first
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.transcripts import Transcript

Outcome = ClipResult | ClipFailure


@dataclass(frozen=True)
class Scored:
    """What became of a clip.

    Args:
        index: Its place among the inputs.
        outcome: Its scores or its failure.
        digest: The SHA-256 of the clip's bytes, where digests were asked for.
        said: Its transcript before anybody listened to it.
    """

    index: int
    outcome: Outcome
    digest: str = ""
    said: Transcript | None = None


class Order:
    """Holds outcomes back until all before them are there.

    Args:
        indices: The places to come, in order; 0, 1, 2 and so on when ``None``.
    """

    def __init__(self, indices: Iterable[int] | None = None) -> None:
        self._coming = iter(itertools.count() if indices is None else indices)
        self._next = next(self._coming, None)
        self._waiting: dict[int | None, Scored] = {}

    def take(self, scored: Scored) -> Iterator[Scored]:
        """Take an outcome, and yield those whose turn has come."""
        self._waiting[scored.index] = scored
        while self._next in self._waiting:
            yield self._waiting.pop(self._next)
            self._next = next(self._coming, None)

    def rest(self) -> Iterator[Scored]:
        """Yield what still waits, in order, as where a run was cut off."""
        waiting, self._waiting = self._waiting, {}
        yield from sorted(waiting.values(), key=lambda scored: scored.index)


@dataclass
class Tally:
    """Counts clips.

    Args:
        count: How many there are.
        done: How many have an outcome.
        before: How many of those had it before this run.
        failed: How many of those of this run are failures.
        interrupted: Whether Ctrl-C ended the run.
    """

    count: int
    done: int = 0
    before: int = 0
    failed: int = 0
    interrupted: bool = False

    def describe(self) -> str:
        """Say what was done."""
        parts = [f"{self.done} clip{'s' * (self.done != 1)}"]
        if self.before:
            parts.append(f"{self.before} of them done before")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


class Sink(Protocol):
    """Where outcomes go."""

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position of the inputs."""


def deliver(
    found: Iterable[Scored],
    sink: Sink,
    tally: Tally,
    *,
    order: Order | None,
    tick: Callable[[int, int], None],
    say_errors: bool,
    mark: Callable[[Scored], Outcome] | None = None,
) -> None:
    """Write outcomes until there are no more, or Ctrl-C.

    Args:
        found: The outcomes.
        sink: Where they go; one call is never cut off by Ctrl-C.
        tally: Is counted up; it says whether the run was interrupted. What was held back for its turn is
            written then, too.
        order: Puts them in order; ``None`` writes each as it comes.
        tick: Called with (done, all) at the start and after each.
        say_errors: Whether failures are said on stderr.
        mark: Gives an outcome what only this run knows of it; left alone when ``None``.
    """

    def write(scored: Scored) -> None:
        outcome = scored.outcome if mark is None else mark(scored)
        with finished_first():
            sink.add(scored.index, outcome)
            tally.done += 1
            tally.failed += isinstance(outcome, ClipFailure)
        if say_errors and isinstance(outcome, ClipFailure):
            say(f"error: {outcome.message}")
        tick(tally.done, tally.count)

    try:
        tick(tally.done, tally.count)
        for scored in found:
            for ready in (scored,) if order is None else order.take(scored):
                write(ready)
    except KeyboardInterrupt:
        # Caught inside the writer's block, so that what was done is still written.
        tally.interrupted = True
        for ready in () if order is None else order.rest():
            write(ready)
