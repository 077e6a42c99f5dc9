"""From what ``taemi-infer`` was asked for to the scorer that does it, and what is worth knowing of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from taemi_runtime.asr.listener import Listener
from taemi_runtime.engine import EngineOptions
from taemi_runtime.inputs import ClipInput
from taemi_runtime.loading import open_model
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.transcripts import Transcripts

if TYPE_CHECKING:
    from taemi_runtime.job import Job

_log = logging.getLogger(__name__)


def make_listener(job: Job) -> Listener:
    """Return what hears words in clips that have no transcript; nothing is loaded yet."""
    return Listener(job.asr, seconds=job.asr_seconds, device=job.options.device, threads=job.options.threads)


def make_scorer(job: Job, listener: Listener, options: EngineOptions) -> ClipScorer:
    """Open the model; its engines are opened when they are first needed.

    Args:
        job: What was asked for.
        listener: From ``make_listener``.
        options: How engines are opened.

    Raises:
        TaemiError: The model cannot be opened.
    """
    return ClipScorer(
        open_model(job.engine, bundle=job.bundle, options=options),
        max_fps=job.max_fps,
        faces=job.faces,
        clip_scores=job.clip_scores,
        listener=listener,
        limits=job.limits,
    )


def open_scorer(
    job: Job, clips: list[ClipInput], texts: Transcripts, options: EngineOptions
) -> tuple[ClipScorer, bool]:
    """Open the model, and the recogniser where clips need it.

    Args:
        job: What was asked for.
        clips: The clips that can be scored.
        texts: What finds transcripts.
        options: How engines are opened.

    Returns:
        The scorer, and whether the text encoder is needed.

    Raises:
        TaemiError: The model, or the recogniser that was asked for, cannot be opened.
    """
    listener = make_listener(job)
    with_text = sum(texts.has(clip.path) for clip in clips)
    # What was asked for must work, whether a clip turns out to need it or not.
    listens = (listener.is_explicit or with_text < len(clips)) and listener.prepare()
    return make_scorer(job, listener, options), with_text > 0 or listens


def warn_of_texts(job: Job, without: int, clips: int) -> None:
    """Say how many clips have no transcript, where a folder of them was given."""
    if job.transcripts is not None and without:
        _log.warning(
            "%d of %d clips have no transcript in %s (NAME.txt, .vtt or .srt)",
            without,
            clips,
            job.transcripts,
        )


def warn_of_model(job: Job, *, untrained: bool, faces_differ: str = "") -> None:
    """Say what makes a model's scores doubtful.

    Args:
        job: What was asked for.
        untrained: Whether its weights are random.
        faces_differ: How frames are cropped in another way than in training; empty when they are not.
    """
    if faces_differ:
        _log.warning("%s", faces_differ)
    if untrained:
        _log.warning("%s is untrained: its scores mean nothing", job.engine)
