"""The training recipe as one frozen config; defaults are the published settings (docs/model.md)."""

from __future__ import annotations

from dataclasses import dataclass

from taemi_runtime.errors import UsageError

# The encoders that can be kept as they are; vision always is.
TRAINABLE: tuple[str, str] = ("audio", "text")
MODALITIES: tuple[str, str, str] = ("audio", "vision", "text")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Args:
        epochs: At most so many epochs, 50 in the paper.
        patience: Stop after so many epochs without a better validation rho, 5 in the paper.
        batch_size: Clips a step, 32 in the paper.
        learning_rate: Peak rate of AdamW, 1e-4 in the authors' settings.
        weight_decay: AdamW's decay on all weights, 0.01 in the authors' settings.
        warmup_epochs: Epochs of linear warm-up before the cosine, 1 in the paper.
        clip_value: Gradients are clipped to this absolute value, 100 in the authors' settings.
        freeze: Encoders whose weights stay as they are.
        modalities: What the model sees. The others count as missing in every clip, in training and in
            validation, and their encoders stay as they are.
        pad: Length of waveforms: ``max`` pads to the full window, as published; ``longest`` to the
            longest clip of the batch, which gives the same numbers when the encoder is masked, sooner.
        seed: Seed of weights, order and dropout, 3407 in the authors' settings.
    """

    epochs: int = 50
    patience: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    clip_value: float = 100.0
    freeze: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    pad: str = "max"
    seed: int = 3407

    def __post_init__(self) -> None:
        asked = "the training recipe is inconsistent"
        for name in ("epochs", "patience", "batch_size", "learning_rate", "clip_value"):
            if not getattr(self, name) > 0:
                raise UsageError(asked, f"{name} is {getattr(self, name)}", "Give a positive number")
        for name in ("weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(asked, f"{name} is {getattr(self, name)}", "Give zero or more")
        unknown = set(self.freeze) - set(TRAINABLE)
        if unknown:
            raise UsageError(
                asked, f"cannot freeze {sorted(unknown)}", f"Choose from: {', '.join(TRAINABLE)}"
            )
        unknown = set(self.modalities) - set(MODALITIES)
        if unknown or not self.modalities:
            found = f"there is no modality {sorted(unknown)[0]!r}" if unknown else "it is to see no modality"
            raise UsageError(asked, found, f"Choose from: {', '.join(MODALITIES)}")
        if self.pad not in ("max", "longest"):
            raise UsageError(asked, f"pad is {self.pad!r}", "Choose --pad max or --pad longest")
