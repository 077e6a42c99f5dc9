"""One run of ``taemi-infer --ray``: the clips go to the cluster, and outcomes are written as they come."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from taemi_runtime.cluster.scoring import ClusterScoring, Outcome
from taemi_runtime.cluster.stages import Source
from taemi_runtime.console import progress, say
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import UsageError
from taemi_runtime.inputs import ClipInput
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import Line, renamed
from taemi_runtime.shards import Shards
from taemi_runtime.transcripts import Transcripts
from taemi_runtime.writers import FORMATS, open_writer

if TYPE_CHECKING:
    from taemi_runtime.job import Job

_log = logging.getLogger(__name__)

Hold = Callable[[], contextlib.AbstractContextManager[None]]


class Tally(Protocol):
    """Counts clips; what the caller reports at the end."""

    done: int
    failed: int
    interrupted: bool


class _Sink(Protocol):
    """Where outcomes go."""

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position."""


class _ShardSink:
    """Keeps outcomes in shards until they become one file."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at a position."""
        self._shards.add(index, outcome.to_object(index))


def score_clips(
    job: Job, address: str, clips: Sequence[ClipInput], texts: Transcripts, tally: Tally, hold: Hold
) -> None:
    """Score clips on a cluster and write every outcome.

    Args:
        job: What to score with, and where results go.
        address: Where the cluster is.
        clips: The clips.
        texts: What finds transcripts.
        tally: Is counted up.
        hold: Holds Ctrl-C back for a block.

    Raises:
        UsageError: ``--resume`` has nothing that it could go on with.
        TaemiError: There is no cluster, or a machine of it cannot do its part.
    """
    stdout = sys.stdout
    keyed = job.out is not None and job.format == "jsonl"
    if job.resume and not keyed:
        raise UsageError(
            "cannot resume", "results go to no file of JSON lines", "Give --out FILE --format jsonl"
        )
    # Lines that appear on a terminal one by one are a progress display of their own.
    streaming = job.out is None and FORMATS[job.format].streams and stdout.isatty()
    sources = [Source(index, str(clip.path)) for index, clip in enumerate(clips) if not clip.error]
    with ExitStack() as stack:
        scoring = None
        if sources:
            scoring = stack.enter_context(
                ClusterScoring(job, address, sources, texts, batch=job.batch, keyed=keyed)
            )
            _warn(job, scoring, len(sources))
        kept: dict[int, Line] = {}
        shards: Shards | None = None
        sink: _Sink
        if keyed and job.out is not None:
            shards = stack.enter_context(_open_shards(job))
            if job.resume and scoring is not None:
                kept = _find_kept(shards, scoring, sources)
            sink = _ShardSink(shards)
        else:
            labels = scoring.facts.labels if scoring is not None else EMOTIONS
            sink = stack.enter_context(open_writer(job.format, job.out, labels, len(clips), stdout))
        tick = stack.enter_context(progress(quiet=job.quiet or streaming))
        say_errors = job.out is not None or job.format != "table"
        try:
            for index, line in kept.items():
                shards.add(index, line)  # type: ignore[union-attr]
                tally.done += 1
            for index, outcome in _outcomes(clips, scoring, kept):
                tick("scoring clips", tally.done, len(clips))
                with hold():
                    sink.add(index, outcome)
                    tally.done += 1
                if isinstance(outcome, ClipFailure):
                    tally.failed += 1
                    if say_errors:
                        say(f"error: {outcome.message}")
        except KeyboardInterrupt:
            # Caught inside the writer's block, so that what was done is still written.
            tally.interrupted = True


def _outcomes(
    clips: Sequence[ClipInput], scoring: ClusterScoring | None, kept: dict[int, Any]
) -> Iterator[tuple[int, Outcome]]:
    for index, clip in enumerate(clips):
        if clip.error:
            yield index, ClipFailure(str(clip.path), clip.error)
    if scoring is not None:
        yield from scoring.outcomes(lambda source: source.index not in kept)


@contextlib.contextmanager
def _open_shards(job: Job) -> Iterator[Shards]:
    assert job.out is not None  # noqa: S101
    shards = Shards(job.out, resume=job.resume)
    try:
        yield shards
    except BaseException:
        shards.close()
        raise
    shards.merge()


def _find_kept(shards: Shards, scoring: ClusterScoring, sources: Sequence[Source]) -> dict[int, Line]:
    settings = scoring.facts.settings
    if settings is None:
        return {}
    done = shards.done(settings)
    if not done.lines:
        return {}
    kept = {}
    for source, key in zip(sources, scoring.keys(), strict=True):
        line = done.find(key) if key is not None else None
        if line is not None:
            kept[source.index] = renamed(line, source.name, source.index)
    _log.info("%d of %d clips are done already", len(kept), len(sources))
    return kept


def _warn(job: Job, scoring: ClusterScoring, count: int) -> None:
    if job.transcripts is not None and scoring.with_text < count:
        _log.warning(
            "%d of %d clips have no transcript in %s (NAME.txt, .vtt or .srt)",
            count - scoring.with_text,
            count,
            job.transcripts,
        )
    if scoring.facts.faces_differ:
        _log.warning("%s", scoring.facts.faces_differ)
    if scoring.facts.untrained:
        _log.warning("%s is untrained: its scores mean nothing", job.engine)
