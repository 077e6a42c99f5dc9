"""Which encoders a new system gets; light, so that a wrong choice is refused before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from taemi_runtime.errors import UsageError


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoders a system gets.

    Args:
        base: ``paper``, the published ones, or ``tiny``, small seeded ones of the same architectures.
        audio: A hub id or a local folder instead of the base's audio encoder.
        text: The same for text.
        vision: The same for vision.
        random_weights: Whether the published architectures get random weights: nothing is downloaded.
        mask_in_encoder: Whether the audio encoder is given the padding mask.

    Raises:
        UsageError: There is no such base.
    """

    base: str = "paper"
    audio: str | None = None
    text: str | None = None
    vision: str | None = None
    random_weights: bool = False
    mask_in_encoder: bool = True

    def __post_init__(self) -> None:
        if self.base not in ("paper", "tiny"):
            raise UsageError(f"there is no encoder set {self.base!r}", "", "Choose --encoders paper or tiny")
