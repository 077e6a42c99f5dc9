"""One run of ``taemi-infer``: open the model, score every clip, write every outcome."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.asr.listener import Listener
from taemi_runtime.attention import require_attention
from taemi_runtime.console import Step, progress, say
from taemi_runtime.contract import FUSION
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import UsageError
from taemi_runtime.feature_files.find import find_features
from taemi_runtime.feature_files.keep import keeping
from taemi_runtime.inputs import ClipInput, expand
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.loading import open_model
from taemi_runtime.output import finished_first, require_writable
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure
from taemi_runtime.transcripts import Transcripts
from taemi_runtime.writers import FORMATS, Outcome, open_writer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What to score, with what, and where the results go.

    Args:
        inputs: Files, folders and patterns.
        engine: Bundle folder, engine file or checkpoint.
        bundle: The bundle of an engine file that stands elsewhere.
        transcript: The transcript of the only clip.
        transcripts: A folder of transcripts.
        asr: What recognises speech where there is no transcript: ``auto``, ``none``, a recogniser or model.
        asr_seconds: How much of a clip's sound it listens to.
        options: Device and threads.
        format: A key of ``FORMATS``.
        out: The file for the results; stdout when ``None``.
        max_fps: Frames a second to look at; as trained when ``None``.
        faces: How frames are cropped: ``none``, ``auto``, a YuNet file; as trained when ``None``.
        clip_scores: Whether scores are clipped to [0, 1].
        limits: What a clip may ask for.
        quiet: Whether progress and the closing line are left out.
        debug: Whether failures are shown with their traceback.
        batch: Clips a call of the fusion engine; chosen when ``None``.
        ordered: Whether JSON lines come in the order of the inputs; other forms always do.
        resume: Whether what ``out`` holds already is kept and not done again.
        attention: Whether results say what the network attended to.
        save_features: The store that keeps what the encoders give of every clip.
    """

    inputs: tuple[str, ...]
    engine: Path
    bundle: Path | None
    transcript: str | None
    transcripts: Path | None
    asr: str
    asr_seconds: float
    options: EngineOptions
    format: str
    out: Path | None
    max_fps: float | None
    faces: str | None
    clip_scores: bool
    limits: DecodeLimits
    quiet: bool
    debug: bool
    batch: int | None = None
    ordered: bool = False
    resume: bool = False
    attention: bool = False
    save_features: Path | None = None


class _Tally:
    """Counts clips."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.failed = 0
        self.interrupted = False

    def describe(self) -> str:
        clips = f"{self.done} clip{'s' * (self.done != 1)}"
        return f"{clips}, {self.failed} failed" if self.failed else clips


def run_job(job: Job) -> int:
    """Do a job.

    Returns:
        The exit code: 0 all clips scored, 1 some were not, 130 interrupted.

    Raises:
        UsageError: The job contradicts itself, or its output cannot be written.
        TaemiError: The model, or the recogniser that was asked for, cannot be opened.
    """
    features = find_features(job.inputs)
    if features is not None:
        from taemi_runtime.feature_files.run import run_features

        return run_features(job, features)
    texts = Transcripts(job.transcript, job.transcripts)
    clips = expand(job.inputs)
    if job.transcript is not None and len(clips) > 1:
        raise UsageError(
            f"cannot give one --transcript to {len(clips)} clips",
            "each clip has its own",
            "Put NAME.txt, .vtt or .srt files into a folder: --transcripts DIR",
        )
    if job.out is not None:
        require_writable(job.out)
    step = Step("taemi-infer")
    tally = _Tally(len(clips))
    try:
        _score_clips(job, clips, texts, tally)
    except KeyboardInterrupt:
        tally.interrupted = True
    if tally.interrupted:
        say(f"interrupted: {tally.done} of {tally.count} clips done")
        return 130
    if job.out is not None or len(clips) > 1:
        say(step.done(job.out, tally.describe()), quiet=job.quiet)
    return 1 if tally.failed else 0


def _score_clips(job: Job, clips: list[ClipInput], texts: Transcripts, tally: _Tally) -> None:
    with contextlib.ExitStack() as stack:
        scorer = None
        # With nothing to score there is nothing to load.
        if any(not clip.error for clip in clips):
            scorer = stack.enter_context(_open(job, clips, texts))
            if job.attention:
                require_attention(scorer.model.manifest.graphs[FUSION], job.engine)
                scorer.with_attention = True
            stack.enter_context(keeping(scorer, job.save_features))
        if job.out is None and isinstance(sys.stdout, io.TextIOWrapper):
            # JSON is UTF-8 whatever the locale; names that are no text at all are escaped.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        labels = scorer.labels if scorer is not None else EMOTIONS
        writer = stack.enter_context(open_writer(job.format, job.out, labels, len(clips)))
        # Lines that appear on a terminal one by one are a progress display of their own.
        streaming = job.out is None and FORMATS[job.format].streams and sys.stdout.isatty()
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or len(clips) == 1))
        # A table on stdout shows the errors where people look anyway.
        say_errors = job.out is not None or job.format != "table"
        try:
            for index, clip in enumerate(clips):
                tick("scoring clips", index, len(clips))
                outcome = _score(job, scorer, clip, texts)
                with finished_first():
                    writer.add(index, outcome)
                    tally.done += 1
                if isinstance(outcome, ClipFailure):
                    tally.failed += 1
                    if say_errors:
                        say(f"error: {outcome.message}")
        except KeyboardInterrupt:
            # Caught inside the writer's block, so that what was done is still written.
            tally.interrupted = True


def _open(job: Job, clips: list[ClipInput], texts: Transcripts) -> ClipScorer:
    listener = Listener(
        job.asr, seconds=job.asr_seconds, device=job.options.device, threads=job.options.threads
    )
    wanted = [clip.path for clip in clips if not clip.error]
    with_text = sum(map(texts.has, wanted))
    # What was asked for must work, whether a clip turns out to need it or not.
    listens = (listener.is_explicit or with_text < len(wanted)) and listener.prepare()
    model = open_model(job.engine, bundle=job.bundle, options=job.options)
    scorer = ClipScorer(
        model,
        max_fps=job.max_fps,
        faces=job.faces,
        clip_scores=job.clip_scores,
        listener=listener,
        limits=job.limits,
    )
    scorer.prepare(text=with_text > 0 or listens)
    if job.transcripts is not None and with_text < len(wanted):
        _log.warning(
            "%d of %d clips have no transcript in %s (NAME.txt, .vtt or .srt)",
            len(wanted) - with_text,
            len(wanted),
            job.transcripts,
        )
    if scorer.faces_differ:
        _log.warning("%s", scorer.faces_differ)
    if scorer.untrained:
        _log.warning("%s is untrained: its scores mean nothing", job.engine)
    return scorer


def _score(job: Job, scorer: ClipScorer | None, clip: ClipInput, texts: Transcripts) -> Outcome:
    name = str(clip.path)
    if scorer is None or clip.error:
        return ClipFailure(name, clip.error)
    try:
        return scorer.score(clip.path, texts.read(clip.path))
    except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
        if job.debug:
            _log.debug("%s", name, exc_info=True)
        return ClipFailure.from_error(name, error)
