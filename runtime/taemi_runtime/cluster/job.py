"""One run of ``taemi-infer --ray``: the clips go to the cluster, and outcomes are written as they come."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from taemi_runtime.cluster.scoring import ClusterScoring, Outcome
from taemi_runtime.cluster.stages import Source
from taemi_runtime.console import progress, say
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.inputs import ClipInput
from taemi_runtime.parallel import Order, Scored
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import take_up
from taemi_runtime.shards import Shards, fold_shards
from taemi_runtime.transcripts import Transcripts
from taemi_runtime.writers import FORMATS, open_writer

if TYPE_CHECKING:
    from taemi_runtime.job import Job

_log = logging.getLogger(__name__)

Hold = Callable[[], contextlib.AbstractContextManager[None]]
Todo = list[tuple[int, ClipInput]]


class Tally(Protocol):
    """Counts clips; the caller tells them at the end."""

    done: int
    before: int
    failed: int
    interrupted: bool


class _Sink(Protocol):
    """Where outcomes go."""

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position."""


class _ShardSink:
    """Keeps outcomes in shards."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position."""
        self._shards.add(index, outcome.to_object(index))


def score_clips(
    job: Job, address: str, clips: list[ClipInput], texts: Transcripts, tally: Tally, hold: Hold
) -> None:
    """Score clips on a cluster and write every outcome.

    JSON lines with a file go through shards, and end in the order of the inputs.

    Args:
        job: What to score with, and where results go.
        address: Where the cluster is.
        clips: The clips.
        texts: What finds transcripts.
        tally: Is counted up.
        hold: Holds Ctrl-C back for a block.

    Raises:
        TaemiError: There is no cluster, or a machine of it cannot do its part.
    """
    stdout = sys.stdout
    if job.out is None and isinstance(stdout, io.TextIOWrapper):
        # JSON is UTF-8 whatever the locale; names that are no text at all are escaped.
        stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    kind = FORMATS[job.format]
    # Lines that appear on a terminal one by one are a progress display of their own.
    streaming = job.out is None and kind.streams and stdout.isatty()
    with ExitStack() as stack:
        scoring = None
        sources = [Source(index, str(clip.path)) for index, clip in enumerate(clips) if not clip.error]
        if sources:
            scoring = stack.enter_context(ClusterScoring(job, address, sources, texts, keyed=kind.appends))
            _warn(job, scoring, len(sources))
        todo: Todo = list(enumerate(clips))
        sink: _Sink
        in_order = job.ordered or not kind.appends
        if kind.appends and job.out is not None:
            if job.resume:
                todo = _take_up(job.out, scoring, clips, texts)
                tally.done = tally.before = len(clips) - len(todo)
            kept = tally.before if job.resume else None
            sink = _ShardSink(stack.enter_context(_open_shards(job.out, kept)))
            in_order = False  # they will be, and a shard must not wait for its turn
        else:
            labels = scoring.facts.labels if scoring is not None else EMOTIONS
            sink = stack.enter_context(open_writer(job.format, job.out, labels, len(clips), stdout=stdout))
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or len(clips) == 1))
        # A table on stdout shows the errors where people look anyway.
        say_errors = job.out is not None or job.format != "table"

        def write(index: int, outcome: Outcome) -> None:
            with hold():
                sink.add(index, outcome)
                tally.done += 1
                tally.failed += isinstance(outcome, ClipFailure)
            if say_errors and isinstance(outcome, ClipFailure):
                say(f"error: {outcome.message}")
            tick("scoring clips", tally.done, len(clips))

        order = Order(index for index, _ in todo)
        try:
            tick("scoring clips", tally.done, len(clips))
            for scored in _outcomes(scoring, todo):
                for ready in order.take(scored) if in_order else (scored,):
                    write(ready.index, ready.outcome)
        except KeyboardInterrupt:
            # Caught inside the writer's block, so that what was done is still written.
            tally.interrupted = True
            for ready in order.rest():
                write(ready.index, ready.outcome)


def _outcomes(scoring: ClusterScoring | None, todo: Todo) -> Iterator[Scored]:
    for index, clip in todo:
        if clip.error:
            yield Scored(index, ClipFailure(str(clip.path), clip.error))
    if scoring is not None:
        for index, outcome in scoring.outcomes({index for index, clip in todo if not clip.error}):
            yield Scored(index, outcome)


def _take_up(out: Path, scoring: ClusterScoring | None, clips: list[ClipInput], texts: Transcripts) -> Todo:
    fold_shards(out)
    settings = scoring.facts.settings if scoring is not None else None
    return take_up(out, settings, clips, texts) if settings is not None else list(enumerate(clips))


@contextlib.contextmanager
def _open_shards(out: Path, kept: int | None) -> Iterator[Shards]:
    shards = Shards(out, kept=kept)
    try:
        yield shards
    except BaseException:
        shards.close()
        raise
    shards.merge()


def _warn(job: Job, scoring: ClusterScoring, count: int) -> None:
    with_text = scoring.with_text
    if job.transcripts is not None and with_text < count:
        _log.warning(
            "%d of %d clips have no transcript in %s (NAME.txt, .vtt or .srt)",
            count - with_text,
            count,
            job.transcripts,
        )
    if scoring.facts.faces_differ:
        _log.warning("%s", scoring.facts.faces_differ)
    if scoring.facts.untrained:
        _log.warning("%s is untrained: its scores mean nothing", job.engine)
