"""One run of ``taemi-infer`` over features: open the engine, score everything, write every outcome."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_runtime.console import Step, progress, say
from taemi_runtime.feature_files.find import Features
from taemi_runtime.feature_files.resuming import Keys
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.job_options import check_options
from taemi_runtime.output import finished_first, require_writable
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import sort_lines
from taemi_runtime.writers import FORMATS, Outcome, Writer, open_writer

if TYPE_CHECKING:
    from taemi_runtime.job import Job


@dataclass
class _Counts:
    """Counts clips."""

    all: int
    done: int = 0
    failed: int = 0


def run_features(job: Job, features: Features) -> int:
    """Score what was found.

    Args:
        job: What ``taemi-infer`` was asked to do.
        features: The feature files among its inputs.

    Returns:
        The exit code: 0 all clips scored, 1 some were not, 130 interrupted.

    Raises:
        UsageError: An option has no meaning for features, or the output cannot be written.
        TaemiError: The engine cannot be opened, or a store is of other encoders.
    """
    check_options(job, "features")
    if job.out is not None:
        require_writable(job.out)
    step = Step("taemi-infer")
    counts = _Counts(len(features.inputs))
    try:
        _score(job, features, counts)
    except KeyboardInterrupt:
        say(f"interrupted: {counts.done} of {counts.all} clips done")
        return 130
    if job.out is not None or counts.all > 1:
        clips = f"{counts.done} clip{'s' * (counts.done != 1)}"
        detail = f"{clips}, {counts.failed} failed" if counts.failed else clips
        say(step.done(job.out, detail), quiet=job.quiet)
    return 1 if counts.failed else 0


def _score(job: Job, features: Features, counts: _Counts) -> None:
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(
            FeatureScorer(
                job.engine,
                bundle=job.bundle,
                options=job.options,
                batch=job.batch,
                clip_scores=job.clip_scores,
                attention=job.attention,
            )
        )
        if scorer.untrained:
            say(f"warning: {job.engine} is untrained: its scores mean nothing")
        if job.out is None and isinstance(sys.stdout, io.TextIOWrapper):
            # JSON is UTF-8 whatever the locale; names that are no text at all are escaped.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        kind = FORMATS[job.format]
        keys = Keys.of(scorer, job, features) if kind.appends else None
        skip: frozenset[int] = frozenset()
        if job.resume and job.out is not None and keys is not None:
            skip = keys.take_up(job.out)
            counts.done = len(skip)
        outcomes = stack.enter_context(contextlib.closing(scorer.score_found(features, skip=skip)))
        writer = stack.enter_context(
            open_writer(job.format, job.out, scorer.labels, counts.all, append=job.resume)
        )
        streaming = job.out is None and kind.streams and sys.stdout.isatty()
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or counts.all == 1))
        # JSON lines say themselves which clip they are of; everything else is read in order.
        in_order = job.ordered or not kind.appends
        order = _Order(place for place in range(counts.all) if place not in skip)
        say_errors = job.out is not None or job.format != "table"

        def write(index: int, outcome: Outcome) -> None:
            marked = keys.mark(index, outcome) if keys else outcome
            _write(writer, index, marked, counts, say_errors=say_errors)
            tick("scoring features", counts.done, counts.all)

        interrupted = False
        try:
            for index, outcome in outcomes:
                for ready in order.take(index, outcome) if in_order else [(index, outcome)]:
                    write(*ready)
        except KeyboardInterrupt:
            # Caught inside the writer's block, so that what was done is still written.
            interrupted = True
            for ready in order.rest():
                write(*ready)
    if interrupted:
        raise KeyboardInterrupt
    if job.ordered and skip and job.out is not None:
        sort_lines(job.out)


def _write(writer: Writer, index: int, outcome: Outcome, counts: _Counts, *, say_errors: bool) -> None:
    with finished_first():
        writer.add(index, outcome)
        counts.done += 1
        if isinstance(outcome, ClipFailure):
            counts.failed += 1
            if say_errors:
                say(f"error: {outcome.message}")


class _Order:
    """Puts outcomes into the order of their places; those that come early wait, at most a window of batches.

    Args:
        places: The places that will come, in order.
    """

    def __init__(self, places: Iterable[int]) -> None:
        self._ahead = iter(places)
        self._expected = next(self._ahead, -1)
        self._waiting: dict[int, Outcome] = {}

    def take(self, index: int, outcome: Outcome) -> Iterator[tuple[int, Outcome]]:
        """Take an outcome, and yield those whose turn it is."""
        self._waiting[index] = outcome
        while self._expected in self._waiting:
            yield self._expected, self._waiting.pop(self._expected)
            self._expected = next(self._ahead, -1)

    def rest(self) -> list[tuple[int, Outcome]]:
        """Return those that wait for one that will not come."""
        return sorted(self._waiting.items())
