"""What ``taemi-infer`` is asked to do over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class OverTime:
    """Windows of clips, or of a live source.

    Args:
        hop: From the beginning of one window to that of the next, in seconds; ``None`` is 2 for live sources.
        plot: The picture to draw.
        live: The live source; ``None`` scores the job's clips at full speed.
        live_pcm: What raw samples on stdin are, ``FORMAT:RATE``.
        live_options: Options for FFmpeg, ``NAME=VALUE``.
    """

    hop: float | None = None
    plot: Path | None = None
    live: str | None = None
    live_pcm: str | None = None
    live_options: tuple[str, ...] = ()

    @classmethod
    def asked(
        cls,
        hop: float | None,
        plot: Path | None,
        live: str | None,
        live_pcm: str | None,
        live_options: Sequence[str] | None,
    ) -> Self | None:
        """Return what was asked for; ``None`` where nothing was."""
        if all(option is None for option in (hop, plot, live, live_pcm, live_options)):
            return None
        return cls(hop, plot, live, live_pcm, tuple(live_options or ()))
