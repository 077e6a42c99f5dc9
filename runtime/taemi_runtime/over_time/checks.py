"""Whether what ``taemi-infer`` was asked to do over time makes sense."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from taemi_runtime.asr.listener import DEFAULT_SECONDS
from taemi_runtime.errors import UsageError
from taemi_runtime.job import Job
from taemi_runtime.job_options import check_options
from taemi_runtime.over_time.canvas import canvas_for
from taemi_runtime.over_time.live import STDIN, check_live
from taemi_runtime.over_time.options import OverTime
from taemi_runtime.over_time.pcm import PcmFormat
from taemi_runtime.over_time.session import DEFAULT_HOP_S, check_hop


@dataclass(frozen=True)
class Checked:
    """What of a job is numbers and names.

    Args:
        hop_s: From the beginning of one window to that of the next, in seconds.
        pcm: What raw samples are; ``None`` where nothing was said.
        options: Options for FFmpeg.
    """

    hop_s: float
    pcm: PcmFormat | None
    options: dict[str, str]


def check(job: Job, asked: OverTime) -> Checked:
    """Refuse what makes no sense, before anything is opened.

    Raises:
        UsageError: The job contradicts itself.
        MediaError: There is no such live source.
    """
    check_options(job, "windows over time")
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
    if asked.live == STDIN and (sys.stdin is None or sys.stdin.isatty()):
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
    hop_s = check_hop(DEFAULT_HOP_S if asked.hop is None else asked.hop)
    pcm = PcmFormat.parse(asked.live_pcm) if asked.live_pcm is not None else None
    options = dict(map(_option, asked.live_options))
    if asked.live is not None:
        check_live(asked.live)
    return Checked(hop_s, pcm, options)


def check_one_clip(job: Job, asked: OverTime, clips: int) -> None:
    """Refuse one picture or transcript for several clips.

    Raises:
        UsageError: There is one, and more than one clip.
    """
    if clips == 1:
        return
    for name, value in (("--plot", asked.plot), ("--transcript", job.transcript)):
        if value is not None:
            raise UsageError(
                f"cannot give one {name} to {clips} clips", "each has its own", "Name one clip at a time"
            )


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"cannot use --live-option {text}", "expected NAME=VALUE", "E.g. framerate=30")
    return name, value
