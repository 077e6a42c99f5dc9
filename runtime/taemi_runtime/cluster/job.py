"""One run of ``taemi-infer --ray``: the clips go to the cluster, and outcomes are written as they come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.cluster.scoring import ClusterScoring, Outcome
from taemi_runtime.cluster.stages import Source
from taemi_runtime.console import progress
from taemi_runtime.delivery import Order, Scored, Sink, Tally, deliver
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.inputs import ClipInput
from taemi_runtime.job_scorer import warn_of_model, warn_of_texts
from taemi_runtime.output import use_utf8
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import take_up
from taemi_runtime.shards import Shards, fold_shards
from taemi_runtime.transcripts import Transcripts
from taemi_runtime.writers import FORMATS, open_writer

if TYPE_CHECKING:
    from taemi_runtime.job import Job

Pending = list[tuple[int, ClipInput]]


class _ShardSink:
    """Keeps outcomes in shards."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position."""
        self._shards.add(index, outcome.to_object(index))


def score_clips(job: Job, address: str, clips: list[ClipInput], texts: Transcripts, tally: Tally) -> None:
    """Score clips on a cluster and write every outcome.

    JSON lines with a file go through shards, and end in the order of the inputs.

    Args:
        job: What to score with, and where results go.
        address: Where the cluster is.
        clips: The clips.
        texts: What finds transcripts.
        tally: Is counted up.

    Raises:
        TaemiError: There is no cluster, or a machine of it cannot do its part.
    """
    stdout = sys.stdout
    if job.out is None:
        use_utf8(stdout)
    kind = FORMATS[job.format]
    # Lines that appear on a terminal one by one are a progress display of their own.
    streaming = job.out is None and kind.streams and stdout.isatty()
    with ExitStack() as stack:
        scoring = None
        sources = [Source(index, str(clip.path)) for index, clip in enumerate(clips) if not clip.error]
        if sources:
            scoring = stack.enter_context(ClusterScoring(job, address, sources, texts, keyed=kind.appends))
            warn_of_texts(job, len(sources) - scoring.with_text, len(sources))
            facts = scoring.facts
            warn_of_model(job, untrained=facts.untrained, faces_differ=facts.faces_differ)
        pending: Pending = list(enumerate(clips))
        sink: Sink
        in_order = job.ordered or not kind.appends
        if kind.appends and job.out is not None:
            if job.resume:
                pending = _take_up(job.out, scoring, clips, texts)
                tally.done = tally.before = len(clips) - len(pending)
            kept = tally.before if job.resume else None
            sink = _ShardSink(stack.enter_context(_open_shards(job.out, kept)))
            in_order = False  # they will be, and a shard must not wait for its turn
        else:
            labels = scoring.facts.labels if scoring is not None else EMOTIONS
            sink = stack.enter_context(open_writer(job.format, job.out, labels, len(clips), stdout=stdout))
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or len(clips) == 1))
        deliver(
            _outcomes(scoring, pending),
            sink,
            tally,
            order=Order(index for index, _ in pending) if in_order else None,
            tick=partial(tick, "scoring clips"),
            # A table on stdout shows the errors where people look anyway.
            say_errors=job.out is not None or job.format != "table",
        )


def _outcomes(scoring: ClusterScoring | None, pending: Pending) -> Iterator[Scored]:
    for index, clip in pending:
        if clip.error:
            yield Scored(index, ClipFailure(str(clip.path), clip.error))
    if scoring is not None:
        for index, outcome in scoring.outcomes({index for index, clip in pending if not clip.error}):
            yield Scored(index, outcome)


def _take_up(
    out: Path, scoring: ClusterScoring | None, clips: list[ClipInput], texts: Transcripts
) -> Pending:
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
