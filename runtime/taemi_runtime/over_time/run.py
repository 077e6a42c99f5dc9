"""One run of ``taemi-infer`` over time: ``--hop`` and ``--live``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from taemi_runtime.console import Step, Tick, progress, say
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.inputs import ClipInput, expand
from taemi_runtime.interrupts import finished_first
from taemi_runtime.job import Job
from taemi_runtime.job_scorer import open_scorer, warn_of_model, warn_of_texts
from taemi_runtime.output import require_writable, use_utf8
from taemi_runtime.over_time.checks import check, check_one_clip
from taemi_runtime.over_time.live import open_live
from taemi_runtime.over_time.options import OverTime
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.rows import RowWriter, open_rows
from taemi_runtime.over_time.session import Session
from taemi_runtime.over_time.sources import FileSource
from taemi_runtime.over_time.timeline import Timeline
from taemi_runtime.over_time.worker import Worker
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure
from taemi_runtime.transcripts import Transcripts

_log = logging.getLogger(__name__)

# How long a call of an engine or a read may go on after Ctrl-C before the process leaves all the same.
_PATIENCE_S = 0.3
_INTERRUPTED = 130


@dataclass
class _Run:
    """What a run writes to, and what it has done."""

    rows: RowWriter
    timeline: Timeline | None
    tick: Tick
    windows: int = 0
    skipped: int = 0
    dropped: int = 0
    failed: int = 0
    interrupted: bool = False
    at_rest: bool = True
    unsaid: list[str] = field(default_factory=list)

    def add(self, result: WindowResult) -> None:
        """Write a result."""
        with finished_first():
            self.rows.add(result)
            self.windows += 1
            if self.timeline is not None:
                self.timeline.add(result)

    def describe(self, done: str = "") -> str:
        """Say what was done."""
        parts = [f"{self.windows} window{'s' * (self.windows != 1)}{done}"]
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.dropped} frames dropped"] if self.dropped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


def run_over_time(job: Job, asked: OverTime) -> int:
    """Do a job over time.

    Args:
        job: The model, the clips and where results go.
        asked: The windows.

    Returns:
        The exit code: 0 all done, 1 a source could not be read to its end, 130 interrupted.

    Raises:
        UsageError: The job contradicts itself, or its output cannot be written.
        TaemiError: The model, the source or the recogniser that was asked for cannot be opened.
    """
    checked = check(job, asked)
    hop_s = checked.hop_s
    texts = Transcripts(job.transcript, job.transcripts)
    clips = expand(job.inputs) if asked.live is None else [ClipInput(Path(asked.live))]
    check_one_clip(job, asked, len(clips))
    for path in (job.out, asked.plot):
        if path is not None:
            require_writable(path)
    step = Step("taemi-infer")
    with contextlib.ExitStack() as stack:
        scorer = None
        # With nothing to score there is nothing to load.
        if wanted := [clip for clip in clips if not clip.error]:
            opened, needs_text = open_scorer(job, wanted, texts, job.options)
            scorer = stack.enter_context(opened)
            scorer.prepare(text=needs_text)
            warn_of_texts(job, sum(not texts.has(clip.path) for clip in wanted), len(wanted))
            warn_of_model(job, untrained=scorer.untrained, faces_differ=scorer.faces_differ)
            _tell_distance(hop_s, scorer)
        labels = scorer.labels if scorer is not None else EMOTIONS
        timeline = Timeline(asked.plot, labels) if asked.plot is not None else None
        if job.out is None:
            use_utf8(sys.stdout)
        # Rows that appear on a terminal one by one are a progress display of their own.
        quiet = job.quiet or asked.live is not None or (job.out is None and sys.stdout.isatty())
        with open_rows(job.format, job.out, labels) as rows, progress(quiet=quiet) as tick:
            run = _Run(rows, timeline, tick)
            try:
                for clip in clips:
                    if scorer is None or clip.error:
                        _fail(job, run, ClipFailure(str(clip.path), clip.error))
                    elif asked.live is None:
                        _score_clip(job, scorer, clip.path, texts, hop_s, run)
                    else:
                        source = open_live(
                            asked.live, scorer.decoder, pcm=checked.pcm, options=checked.options
                        )
                        said = texts.read(clip.path)
                        _follow(Session(scorer, source, hop_s, said, live=True), run, job, asked.live)
            except KeyboardInterrupt:
                # Caught inside the writer's block, so that what was done is still written.
                run.interrupted = True
        if timeline is not None:
            timeline.save()
        for warning in run.unsaid:
            _log.warning("%s", warning)
        if run.interrupted:
            say(f"interrupted: {run.describe(' done')}")
            if not run.at_rest:
                _leave(_INTERRUPTED)
            return _INTERRUPTED
    say(step.done(job.out, run.describe()), quiet=job.quiet)
    return 1 if run.failed else 0


def _tell_distance(hop_s: float, scorer: ClipScorer) -> None:
    length_s = scorer.preprocessing.audio.max_seconds
    if hop_s > length_s:
        _log.warning(
            "windows of %g s every %g s: the %g s between them are not looked at",
            length_s,
            hop_s,
            hop_s - length_s,
        )


def _score_clip(
    job: Job, scorer: ClipScorer, clip: Path, texts: Transcripts, hop_s: float, run: _Run
) -> None:
    """Score a clip's windows; what is wrong with it must not stop the others."""
    name = str(clip)
    try:
        said = texts.read(clip)
    except Exception as error:
        _fail(job, run, ClipFailure.from_error(name, error))
        return
    _follow(Session(scorer, FileSource(clip, scorer.decoder), hop_s, said), run, job, name)


def _follow(session: Session, run: _Run, job: Job, name: str) -> None:
    """Write a session's results as they come."""
    worker = Worker(session)
    try:
        for result in worker:
            if isinstance(result, Exception):
                _log.debug("%s", name, exc_info=result)
                _fail(job, run, ClipFailure.from_error(name, result))
                continue
            run.add(result)
            if session.seconds:
                run.tick(f"seconds of {name}", round(result.end_s), round(session.seconds))
    except KeyboardInterrupt:
        run.at_rest = worker.stop(_PATIENCE_S)
        raise
    except BaseException:
        # Rows cannot be written any longer. The model is closed next, when no call of it may be running.
        worker.stop()
        raise
    finally:
        run.skipped += session.windows.skipped
        run.dropped += session.windows.dropped
        run.unsaid += [f"{name}: {warning}" for warning in session.windows.unsaid]


def _fail(job: Job, run: _Run, failure: ClipFailure) -> None:
    run.failed += 1
    with finished_first():
        run.rows.fail(failure)
    # A table on stdout shows the errors where people look anyway.
    if job.out is not None or job.format != "table":
        say(f"error: {failure.message}")


def _leave(code: int) -> NoReturn:
    """End the process though a call of an engine, which cannot be interrupted, is still running.

    Everything is written by now; to unload libraries below such a call would crash.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
