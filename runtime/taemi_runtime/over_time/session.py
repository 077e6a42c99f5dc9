"""One run over a source: read it, score its windows, one result after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from taemi_runtime.closing import Closing
from taemi_runtime.encoding import is_said
from taemi_runtime.errors import UsageError
from taemi_runtime.over_time.clock import Clock, WallClock
from taemi_runtime.over_time.feed import Feed
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.scoring import WindowScorer
from taemi_runtime.over_time.sources import Source
from taemi_runtime.transcripts import Transcript

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer


DEFAULT_HOP_S = 2.0


def check_hop(hop_s: float) -> float:
    """Return a hop that makes sense.

    Raises:
        UsageError: It is not a finite number above 0.
    """
    if not 0 < hop_s < math.inf:
        raise UsageError(
            f"cannot score a window every {hop_s:g} s", "a hop is a number of seconds above 0", "Try --hop 2"
        )
    return hop_s


class Session(Closing):
    """Scores the windows of a source; iterate over it once, and close it where that ends early.

    Args:
        scorer: The model.
        source: What is read.
        hop_s: From the beginning of one window to that of the next, in seconds.
        said: The transcript; one without text leaves it to the recogniser.
        live: Whether the source is played at its own pace; windows and frames that the machine is too slow
            for are left out then, and counted.
        clock: What tells the time.

    Raises:
        UsageError: ``hop_s`` is not above 0.
    """

    def __init__(
        self,
        scorer: ClipScorer,
        source: Source,
        hop_s: float,
        said: Transcript | None = None,
        *,
        live: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        clock = clock or WallClock()
        self.windows = WindowScorer(
            scorer, source.name, check_hop(hop_s), said or Transcript(), clock=clock if live else None
        )
        self._feed = Feed(source, scorer.preprocessing.audio.rate_hz, live=live, clock=clock)

    def __iter__(self) -> Iterator[WindowResult]:
        """Yield each window's result as soon as the window is complete.

        Raises:
            MediaError: The source cannot be read.
            EngineError: An engine or the recogniser failed, or scores are not finite.
        """
        try:
            for portions in self._feed:
                for result in self.windows.take(portions):
                    yield replace(result, late_s=self._feed.late_s(result.end_s))
        finally:
            self.close()

    @property
    def seconds(self) -> float:
        """The source's length as far as it is known; 0 where it is not, or not yet."""
        return self._source.seconds

    def close(self, patience_s: float = 0.5) -> bool:
        """Stop reading; return whether that worked within so many seconds."""
        return self._feed.close(patience_s)


def open_session(
    scorer: ClipScorer, source: Source, hop_s: float, transcript: str | Transcript | None, *, live: bool
) -> Session:
    """Return a session over a source, the engines that it needs open.

    Args:
        scorer: The model.
        source: What is read.
        hop_s: From the beginning of one window to that of the next, in seconds.
        transcript: What is said; ``None`` leaves it to the recogniser.
        live: Whether the source is played at its own pace.

    Raises:
        UsageError: ``hop_s`` is not above 0.
        TaemiError: An engine or the recogniser cannot be opened.
    """
    said = Transcript.given(transcript)
    session = Session(scorer, source, hop_s, said, live=live)
    scorer.prepare(text=is_said(said.text) or (said.text is None and scorer.listener.prepare()))
    return session
