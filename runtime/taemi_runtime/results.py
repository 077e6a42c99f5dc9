"""What scoring a clip gives, and its form in JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taemi_runtime.engine import EngineInfo
from taemi_runtime.errors import TaemiError


@dataclass(frozen=True)
class AudioUse:
    """What was used of a clip's audio track.

    Args:
        present: Whether it entered the scores.
        frames: Frames of the encoder that were valid.
        seconds_used: Seconds of sound behind them; ``None`` where a feature file does not say.
        truncated: Whether the track goes on beyond what is used.
        why: Why it is not present; empty when it is.
    """

    present: bool
    frames: int = 0
    seconds_used: float | None = 0.0
    truncated: bool = False
    why: str = ""


@dataclass(frozen=True)
class VisionUse:
    """What was used of a clip's video track.

    Args:
        present: Whether it entered the scores.
        frames: Frames that were encoded.
        faces: Frames in which a face was found; ``None`` where whole frames are used and none is looked for.
        left_out: Frames that were left out as no face was found in them; ``None`` where none is looked for.
        seconds_used: Seconds of video behind them; ``None`` where a feature file does not say.
        truncated: Whether the track goes on beyond what is used.
        why: Why it is not present; empty when it is.
    """

    present: bool
    frames: int = 0
    faces: int | None = None
    left_out: int | None = None
    seconds_used: float | None = 0.0
    truncated: bool = False
    why: str = ""


@dataclass(frozen=True)
class TextUse:
    """What was used of a clip's transcript.

    Args:
        present: Whether it entered the scores.
        tokens: Tokens that were encoded, special ones included; ``None`` where a feature file does not say.
        transcript: The transcript; ``None`` where a feature file does not say.
        source: ``given``, ``file``, the name of a recogniser, ``features`` where it was read from a feature
            file, or ``none``.
        why: Why it is not present; empty when it is.
    """

    present: bool
    tokens: int | None = 0
    transcript: str | None = ""
    source: str = "none"
    why: str = ""


@dataclass(frozen=True)
class Timings:
    """How long each stage was busy, in milliseconds; opening engines is part of none.

    A stage whose engine is a plan says how long its calls took on the GPU, by the GPU's own events; every
    other one is wall clock. Stages run beside one another: they may add up to more than ``total``, which is
    wall clock, less the time in which nothing was done but opening engines. In a batch a clip has its share
    of each shared call, and ``total`` is the sum of its shares by the clock.
    """

    decode: float = 0.0
    audio: float = 0.0
    vision: float = 0.0
    asr: float = 0.0
    text: float = 0.0
    fusion: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class ClipResult:
    """The scores of one clip.

    Args:
        clip: The clip as it was named.
        clip_seconds: Its duration; ``None`` where a feature file does not say.
        intensities: The scores by name, in the model's order.
        audio: What was used of the audio track.
        vision: What was used of the video track.
        text: What was used of the transcript.
        engine: What ran the fusion network.
        timings_ms: Where the time went.
        attention: For each modality what every head attended to, one weight for each valid position; ``None``
            where nobody asked.
        untrained: Whether the weights are random, so that the scores mean nothing.
        warnings: What is worth knowing about the clip.
        key: What the scores depend on, where it is recorded; see ``taemi_runtime.resume``.
    """

    clip: str
    clip_seconds: float | None
    intensities: dict[str, float]
    audio: AudioUse
    vision: VisionUse
    text: TextUse
    engine: EngineInfo
    timings_ms: Timings
    attention: dict[str, list[list[float]]] | None = field(default=None)
    untrained: bool = False
    warnings: tuple[str, ...] = field(default=())
    key: dict[str, Any] | None = field(default=None)

    @property
    def missing(self) -> list[str]:
        """Names of the modalities that did not enter the scores."""
        present = {"audio": self.audio.present, "vision": self.vision.present, "text": self.text.present}
        return [name for name, there in present.items() if not there]

    def to_object(self, index: int) -> dict[str, Any]:
        """Return the JSON object of this result.

        Args:
            index: The clip's position among all inputs, from 0.
        """
        found: dict[str, Any] = {
            "clip": self.clip,
            "index": index,
            "clip_seconds": _rounded(self.clip_seconds),
            "intensities": dict(self.intensities),
            "modalities": {
                "audio": _use(
                    self.audio.why,
                    present=self.audio.present,
                    frames=self.audio.frames,
                    seconds_used=_rounded(self.audio.seconds_used),
                    truncated=self.audio.truncated,
                ),
                "vision": _use(
                    self.vision.why,
                    present=self.vision.present,
                    frames=self.vision.frames,
                    faces=self.vision.faces,
                    **_left_out(self.vision.left_out),
                    seconds_used=_rounded(self.vision.seconds_used),
                    truncated=self.vision.truncated,
                ),
                "text": _use(
                    self.text.why,
                    present=self.text.present,
                    tokens=self.text.tokens,
                    transcript=self.text.transcript,
                    source=self.text.source,
                ),
            },
            "engine": {
                "path": self.engine.path,
                "backend": self.engine.backend,
                "precision": self.engine.precision,
            },
            "timings_ms": {
                name: round(getattr(self.timings_ms, name), 3)
                for name in ("decode", "audio", "vision", "asr", "text", "fusion", "total")
            },
        }
        if self.attention is not None:
            found["attention"] = self.attention
        if self.untrained:
            found["untrained"] = True
        if self.warnings:
            found["warnings"] = list(self.warnings)
        if self.key is not None:
            found["key"] = self.key
        return found


@dataclass(frozen=True)
class ClipFailure:
    """A clip that could not be scored.

    Args:
        clip: The clip as it was named.
        error: Why, in one line.
    """

    clip: str
    error: str

    @classmethod
    def from_error(cls, clip: str, error: Exception) -> ClipFailure:
        """Describe what went wrong with a clip; an error that is not ours is marked as a defect."""
        if isinstance(error, TaemiError):
            return cls(clip, str(error))
        return cls(clip, f"{type(error).__name__}: {error} (a defect of taemi; --debug shows where)")

    @property
    def message(self) -> str:
        """The error with the clip's name, once."""
        return self.error if self.clip in self.error else f"{self.clip}: {self.error}"

    def to_object(self, index: int) -> dict[str, Any]:
        """Return the JSON object of this failure."""
        return {"clip": self.clip, "index": index, "error": self.error}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _left_out(frames: int | None) -> dict[str, int]:
    return {} if frames is None else {"left_out": frames}


def _use(why: str, **values: Any) -> dict[str, Any]:
    return {**values, "why": why} if why else values
