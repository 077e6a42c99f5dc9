"""One run of ``taemi-infer`` over time: ``--hop`` and ``--live``."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from taemi_runtime.asr.listener import DEFAULT_SECONDS, Listener
from taemi_runtime.console import Step, Tick, progress, say
from taemi_runtime.errors import UsageError
from taemi_runtime.inputs import ClipInput, expand
from taemi_runtime.job import Job
from taemi_runtime.loading import open_model
from taemi_runtime.output import finished_first, require_writable
from taemi_runtime.over_time.canvas import canvas_for
from taemi_runtime.over_time.live import STDIN, open_live
from taemi_runtime.over_time.pcm import PcmFormat
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.rows import RowWriter, open_rows
from taemi_runtime.over_time.session import DEFAULT_HOP_S, Session, check_hop
from taemi_runtime.over_time.sources import FileSource
from taemi_runtime.over_time.timeline import Timeline
from taemi_runtime.over_time.worker import Worker
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure
from taemi_runtime.transcripts import Transcripts

_log = logging.getLogger(__name__)

# How long a call of an engine or a read may go on after Ctrl-C before the process leaves all the same.
_PATIENCE_S = 0.5
_INTERRUPTED = 130


@dataclass(frozen=True)
class TimeJob:
    """What to score over time.

    Args:
        job: The model, the clips and where results go.
        hop: From the beginning of one window to that of the next, in seconds; ``None`` is 2 for live sources.
        plot: The picture to draw.
        live: The live source; ``None`` scores the job's clips at full speed.
        live_pcm: What raw samples on stdin are, ``FORMAT:RATE``.
        live_options: Options for FFmpeg, ``NAME=VALUE``.
    """

    job: Job
    hop: float | None = None
    plot: Path | None = None
    live: str | None = None
    live_pcm: str | None = None
    live_options: tuple[str, ...] = ()


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
    clips: int = 0
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

    def describe(self) -> str:
        """Say what was done."""
        parts = [f"{self.windows} window{'s' * (self.windows != 1)}"]
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.dropped} frames dropped"] if self.dropped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


def run_over_time(asked: TimeJob) -> int:
    """Do a job over time.

    Returns:
        The exit code: 0 all done, 1 a source could not be read to its end, 130 interrupted.

    Raises:
        UsageError: The job contradicts itself, or its output cannot be written.
        TaemiError: The model, the source or the recogniser that was asked for cannot be opened.
    """
    job = asked.job
    hop_s = _check(asked)
    pcm = PcmFormat.parse(asked.live_pcm) if asked.live_pcm is not None else None
    options = dict(map(_option, asked.live_options))
    texts = Transcripts(job.transcript, job.transcripts)
    clips = expand(job.inputs) if asked.live is None else [ClipInput(Path(asked.live))]
    _check_one_clip(asked, len(clips))
    for path in (job.out, asked.plot):
        if path is not None:
            require_writable(path)
    step = Step("taemi-infer")
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(_open(job, clips, texts))
        _tell_distance(hop_s, scorer)
        timeline = Timeline(asked.plot, scorer.labels) if asked.plot is not None else None
        if job.out is None and isinstance(sys.stdout, io.TextIOWrapper):
            # JSON is UTF-8 whatever the locale; names that are no text at all are escaped.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        # Rows that appear on a terminal one by one are a progress display of their own.
        quiet = job.quiet or asked.live is not None or (job.out is None and sys.stdout.isatty())
        with open_rows(job.format, job.out, scorer.labels) as rows, progress(quiet=quiet) as tick:
            run = _Run(rows, timeline, tick)
            try:
                for clip in clips:
                    run.clips += 1
                    if asked.live is None:
                        _score_clip(job, scorer, clip, texts, hop_s, run)
                        continue
                    source = open_live(asked.live, scorer.decoder, pcm=pcm, options=options)
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
            say(f"interrupted: {run.describe()} done")
            if not run.at_rest:
                _leave(_INTERRUPTED)
            return _INTERRUPTED
    say(step.done(job.out, run.describe()), quiet=job.quiet)
    return 1 if run.failed else 0


def _check(asked: TimeJob) -> float:
    """Refuse what makes no sense, and return the hop."""
    job = asked.job
    if asked.hop is None and asked.live is None:
        raise UsageError(
            f"cannot draw {asked.plot}" if asked.plot is not None else "cannot read a live source",
            "neither --hop nor --live was given",
            "Give --hop SECONDS to score windows over time",
        )
    if asked.plot is not None:
        canvas_for(asked.plot)
    if asked.live is not None and job.inputs:
        raise UsageError(
            f"cannot score {job.inputs[0]} beside --live {asked.live}",
            "a live source is the only one",
            "Give one of them",
        )
    if asked.live is None and (asked.live_pcm is not None or asked.live_options):
        raise UsageError(
            "cannot use --live-pcm or --live-option", "no --live was given", "Give --live SOURCE, too"
        )
    if asked.live == STDIN and sys.stdin.isatty():
        raise UsageError(
            "cannot read raw samples from stdin",
            "it is a terminal",
            "Pipe them in: arecord ... | taemi-infer",
        )
    if job.asr_seconds != DEFAULT_SECONDS:
        raise UsageError(
            f"cannot listen to the first {job.asr_seconds:g} s only",
            "over time every window is listened to",
            "Leave --asr-seconds out",
        )
    return check_hop(DEFAULT_HOP_S if asked.hop is None else asked.hop)


def _check_one_clip(asked: TimeJob, clips: int) -> None:
    if clips == 1:
        return
    for name, value in (("--plot", asked.plot), ("--transcript", asked.job.transcript)):
        if value is not None:
            raise UsageError(
                f"cannot give one {name} to {clips} clips", "each has its own", "Name one clip at a time"
            )


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"cannot use --live-option {text}", "expected NAME=VALUE", "E.g. framerate=30")
    return name, value


def _open(job: Job, clips: list[ClipInput], texts: Transcripts) -> ClipScorer:
    """Open the model, and the recogniser where windows need it."""
    listener = Listener(job.asr, device=job.options.device, threads=job.options.threads)
    wanted = [clip.path for clip in clips if not clip.error]
    with_text = sum(map(texts.has, wanted))
    listens = (listener.is_explicit or with_text < len(wanted)) and listener.prepare()
    scorer = ClipScorer(
        open_model(job.engine, bundle=job.bundle, options=job.options),
        max_fps=job.max_fps,
        faces=job.faces,
        clip_scores=job.clip_scores,
        listener=listener,
        limits=job.limits,
    )
    scorer.prepare(text=with_text > 0 or listens)
    if scorer.faces_differ:
        _log.warning("%s", scorer.faces_differ)
    if scorer.untrained:
        _log.warning("%s is untrained: its scores mean nothing", job.engine)
    return scorer


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
    job: Job, scorer: ClipScorer, clip: ClipInput, texts: Transcripts, hop_s: float, run: _Run
) -> None:
    """Score a clip's windows; what is wrong with it must not stop the others."""
    name = str(clip.path)
    if clip.error:
        _fail(job, run, ClipFailure(name, clip.error))
        return
    try:
        said = texts.read(clip.path)
    except Exception as error:
        _fail(job, run, ClipFailure.from_error(name, error))
        return
    _follow(Session(scorer, FileSource(clip.path, scorer.decoder), hop_s, said), run, job, name)


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
