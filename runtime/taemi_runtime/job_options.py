"""Which options of ``taemi-infer`` mean nothing to a kind of run: refused, never ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taemi_runtime.asr import AUTO, NONE
from taemi_runtime.errors import UsageError
from taemi_runtime.writers import FORMATS

if TYPE_CHECKING:
    from taemi_runtime.job import Job

# What clips are turned into features by.
_MADE_BY = ("--transcript", "--transcripts", "--asr", "--max-fps", "--faces")
_FOR_ONE_RUN_OVER_CLIPS = ("--save-features", "--attention")
_FOR_MANY = ("--workers", "--batch", "--ordered", "--resume")
# kind of run -> the options that mean nothing to it, and what to do
_MEANINGLESS: dict[str, tuple[tuple[str, ...], str]] = {
    "features": (
        (*_MADE_BY, "--save-features", "--workers", "--ray"),
        "features hold what clips were turned into already",
    ),
    "windows over time": (
        (*_FOR_MANY, "--ray", *_FOR_ONE_RUN_OVER_CLIPS),
        "clips are taken one after the other, and each gives many results",
    ),
    "clips on a cluster": (
        _FOR_ONE_RUN_OVER_CLIPS,
        "a cluster gives back scores, not what they are made from",
    ),
}


def check_options(job: Job, kind: str) -> None:
    """Refuse options that would be ignored.

    Args:
        job: What was asked for.
        kind: ``features``, ``windows over time``, ``clips on a cluster`` or ``clips``.

    Raises:
        UsageError: There is one.
    """
    given = {
        "--transcript": job.transcript is not None,
        "--transcripts": job.transcripts is not None,
        "--asr": job.asr not in (AUTO, NONE),
        "--max-fps": job.max_fps is not None,
        "--faces": job.faces is not None,
        "--save-features": job.save_features is not None,
        "--attention": job.attention,
        "--workers": job.workers is not None,
        "--batch": job.batch is not None,
        "--ordered": job.ordered,
        "--resume": job.resume,
        "--ray": job.ray is not None,
    }
    names, why = _MEANINGLESS.get(kind, ((), ""))
    wrong = [name for name in names if given[name]]
    if wrong:
        raise UsageError(f"cannot score {kind} with {', '.join(wrong)}", why, "Leave it out")
    if job.resume and (job.out is None or not FORMATS[job.format].appends):
        raise UsageError(
            "cannot resume",
            "only a file of JSON lines says what is done" + ("" if job.out else ", and no --out was given"),
            "Give --format jsonl --out FILE",
        )
