"""One run of ``taemi-infer``: open the model, score every clip, write every outcome."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from taemi_runtime.attention import require_attention
from taemi_runtime.console import Step, progress, say
from taemi_runtime.contract import FUSION
from taemi_runtime.delivery import Order, Outcome, Scored, Tally, deliver
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import UsageError
from taemi_runtime.feature_files.find import find_features
from taemi_runtime.feature_files.keep import keeping
from taemi_runtime.host import runs_on_cpu
from taemi_runtime.inputs import ClipInput, expand
from taemi_runtime.job_options import check_options
from taemi_runtime.job_scorer import open_scorer, warn_of_model, warn_of_texts
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.many import score_all
from taemi_runtime.output import require_writable, use_utf8
from taemi_runtime.over_time.options import OverTime
from taemi_runtime.parallel import Request
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import Settings, sort_lines, take_up
from taemi_runtime.scale import Scale, choose_scale
from taemi_runtime.shards import fold_shards
from taemi_runtime.transcripts import Transcripts
from taemi_runtime.writers import FORMATS, open_writer


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
        workers: Processes that decode; chosen when ``None``.
        batch: Clips that are scored together at most; chosen when ``None``.
        ordered: Whether JSON lines come in the order of the inputs; other forms always do.
        resume: Whether what ``out`` holds already is kept and not done again.
        attention: Whether results say what the network attended to.
        save_features: The store that keeps what the encoders give of every clip.
        over_time: Windows over time; ``None`` scores each clip as one.
        ray: The Ray cluster that does the work; ``None`` is this machine without one.
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
    workers: int | None = None
    batch: int | None = None
    ordered: bool = False
    resume: bool = False
    attention: bool = False
    save_features: Path | None = None
    over_time: OverTime | None = None
    ray: str | None = None


def run_job(job: Job) -> int:
    """Do a job.

    Returns:
        The exit code: 0 all clips scored, 1 some were not, 130 interrupted.

    Raises:
        UsageError: The job contradicts itself, or its output cannot be written.
        TaemiError: The model, or the recogniser that was asked for, cannot be opened.
    """
    if job.over_time is not None:
        from taemi_runtime.over_time.run import run_over_time

        return run_over_time(job, job.over_time)
    features = find_features(job.inputs)
    if features is not None:
        from taemi_runtime.feature_files.run import run_features

        return run_features(job, features)
    check_options(job, "clips" if job.ray is None else "clips on a cluster")
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
    tally = Tally(len(clips))
    try:
        if job.ray is not None:
            from taemi_runtime.cluster.job import score_clips

            score_clips(job, job.ray, clips, texts, tally)
        else:
            _score_clips(job, clips, texts, tally)
    except KeyboardInterrupt:
        tally.interrupted = True
    if tally.interrupted:
        say(f"interrupted: {tally.done} of {tally.count} clips done")
        return 130
    if job.out is not None or len(clips) > 1:
        say(step.done(job.out, tally.describe()), quiet=job.quiet)
    return 1 if tally.failed else 0


def _score_clips(job: Job, clips: list[ClipInput], texts: Transcripts, tally: Tally) -> None:
    with contextlib.ExitStack() as stack:
        wanted = [clip for clip in clips if not clip.error]
        scale = _choose_scale(job, len(wanted))
        scorer = None
        # With nothing to score there is nothing to load.
        if wanted:
            options = replace(job.options, threads=scale.threads)
            opened, needs_text = open_scorer(job, wanted, texts, options)
            scorer = stack.enter_context(opened)
            if not scale.workers and len(wanted) > 1:
                # So that a damaged file is found before the first clip. With workers engines are opened while
                # these start, and for a single clip while it is decoded.
                scorer.try_prepare(text=needs_text)
            warn_of_texts(job, sum(not texts.has(clip.path) for clip in wanted), len(wanted))
            warn_of_model(job, untrained=scorer.untrained, faces_differ=scorer.faces_differ)
            if job.attention:
                require_attention(scorer.model.manifest.graphs[FUSION], job.engine)
                scorer.with_attention = True
            stack.enter_context(keeping(scorer, job.save_features))
        if job.out is None:
            use_utf8(sys.stdout)
        settings = None
        if scorer is not None and FORMATS[job.format].appends:
            listens = any(not texts.has(clip.path) for clip in wanted)
            settings = Settings.of(scorer, listens=listens)
        pending = list(enumerate(clips))
        if job.resume and job.out is not None and settings is not None:
            # Of a run with --ray that was killed.
            fold_shards(job.out)
            pending = take_up(job.out, settings, clips, texts)
            tally.done = tally.before = len(clips) - len(pending)
        labels = scorer.labels if scorer is not None else EMOTIONS
        writer = stack.enter_context(open_writer(job.format, job.out, labels, len(clips), append=job.resume))
        # Lines that appear on a terminal one by one are a progress display of their own.
        streaming = job.out is None and FORMATS[job.format].streams and sys.stdout.isatty()
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or len(clips) == 1))

        def mark(scored: Scored) -> Outcome:
            if settings is None or isinstance(scored.outcome, ClipFailure) or scored.said is None:
                return scored.outcome
            return replace(scored.outcome, key=settings.key(scored.digest, scored.said))

        as_they_come = FORMATS[job.format].appends and not job.ordered
        found = _outcomes(job, scorer, pending, texts, scale, settings is not None)
        deliver(
            stack.enter_context(contextlib.closing(found)),
            writer,
            tally,
            order=None if as_they_come else Order(index for index, _ in pending),
            tick=partial(tick, "scoring clips"),
            # A table on stdout shows the errors where people look anyway.
            say_errors=job.out is not None or job.format != "table",
            mark=mark,
        )
    if job.ordered and tally.before and job.out is not None and not tally.interrupted:
        sort_lines(job.out)


def _choose_scale(job: Job, clips: int) -> Scale:
    on_cpu = runs_on_cpu(job.options.device)
    return choose_scale(
        clips, workers=job.workers, batch=job.batch, threads=job.options.threads, on_cpu=on_cpu
    )


def _outcomes(
    job: Job,
    scorer: ClipScorer | None,
    pending: list[tuple[int, ClipInput]],
    texts: Transcripts,
    scale: Scale,
    digests: bool,
) -> Generator[Scored]:
    """Yield what becomes of every clip, those that lead nowhere first where workers are used."""

    def nowhere(index: int, clip: ClipInput) -> Scored:
        return Scored(index, ClipFailure(str(clip.path), clip.error))

    if scorer is None or not scale.workers:
        for index, clip in pending:
            if scorer is None or clip.error:
                yield nowhere(index, clip)
            else:
                request = Request(index, clip.path, texts.read)
                yield from score_all(scorer, [request], scale, digests=digests, strict=len(pending) == 1)
        return
    yield from (nowhere(index, clip) for index, clip in pending if clip.error)
    requests = [Request(index, clip.path, texts.read) for index, clip in pending if not clip.error]
    if not requests:
        return
    with_text = job.transcript is not None or job.transcripts is not None
    text = with_text or scorer.listener.prepare()
    with contextlib.closing(score_all(scorer, requests, scale, text=text, digests=digests)) as found:
        yield from found
