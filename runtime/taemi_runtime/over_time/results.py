"""What scoring a window gives, and its form in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taemi_runtime.results import AudioUse, ClipResult, TextUse, Timings, VisionUse


@dataclass(frozen=True)
class WindowResult:
    """The scores of one window.

    Args:
        index: Its position among all results of this source, from 0.
        start_s: Its beginning, in seconds of the source's presentation time.
        end_s: Its end.
        scores: The scores and what they rest on, as for a clip that consists of the window.
        partial: Whether the source ended, or stopped, before the window's full length.
        skipped: How many windows before this one were left out, since the machine is too slow for them.
        dropped_frames: How many frames were not looked at since the last result, for the same reason.
        gap_s: How long the source gave nothing before the stretch that begins with this window; ``None``
            where no stretch begins.
        late_s: How long after its last moment was due the window was scored, in seconds; ``None`` where the
            source is not live.
    """

    index: int
    start_s: float
    end_s: float
    scores: ClipResult
    partial: bool = False
    skipped: int = 0
    dropped_frames: int = 0
    gap_s: float | None = None
    late_s: float | None = None

    @property
    def clip(self) -> str:
        """The source as it was named."""
        return self.scores.clip

    @property
    def intensities(self) -> dict[str, float]:
        """The scores by name, in the model's order."""
        return self.scores.intensities

    @property
    def audio(self) -> AudioUse:
        """What was used of the sound."""
        return self.scores.audio

    @property
    def vision(self) -> VisionUse:
        """What was used of the frames."""
        return self.scores.vision

    @property
    def text(self) -> TextUse:
        """What was used of the transcript."""
        return self.scores.text

    @property
    def missing(self) -> list[str]:
        """Names of the modalities that did not enter the scores."""
        return self.scores.missing

    @property
    def timings_ms(self) -> Timings:
        """Where the time went; decoding and frames count since the last result."""
        return self.scores.timings_ms

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is worth knowing about the window."""
        return self.scores.warnings

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object of this result."""
        rest = self.scores.to_object(self.index)
        clip, index, seconds = rest.pop("clip"), rest.pop("index"), rest.pop("clip_seconds")
        found: dict[str, Any] = {
            "clip": clip,
            "index": index,
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "window_seconds": seconds,
            "partial": self.partial,
            "skipped": self.skipped,
            "dropped_frames": self.dropped_frames,
        }
        if self.gap_s is not None:
            found["gap_s"] = round(self.gap_s, 3)
        if self.late_s is not None:
            found["late_s"] = round(self.late_s, 3)
        return {**found, **rest}
