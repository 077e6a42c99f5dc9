"""The training recipe as one frozen config; defaults are the published settings (docs/training.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from taemi_runtime.errors import UsageError

# The encoders that can be kept as they are; vision always is.
TRAINABLE: tuple[str, str] = ("audio", "text")
MODALITIES: tuple[str, str, str] = ("audio", "vision", "text")

Pad = Literal["max", "longest"]
ClipMode = Literal["value", "norm"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Batching = Literal["auto", "shuffled", "bucketed"]

# What may change between the parts of one run: none of it changes a single weight.
FREE_TO_CHANGE: frozenset[str] = frozenset({"workers", "save_every"})


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Args:
        epochs: At most so many epochs, 50 in the paper.
        patience: Stop after so many epochs without a better validation rho, 5 in the paper.
        batch_size: Clips a batch of each process, 32 in the paper.
        accumulation: Batches whose gradients make one optimiser step, 1 in the authors' settings.
        learning_rate: Peak rate of AdamW, 1e-4 in the authors' settings.
        weight_decay: AdamW's decay on all weights, 0.01 in the authors' settings.
        warmup_epochs: Epochs of linear warm-up before the cosine, 1 in the paper.
        clip: Where gradients are clipped, 100 in the authors' settings.
        clip_mode: ``value`` clips each gradient to that absolute value, as published; ``norm`` scales all
            of them to that norm together.
        precision: ``fp16`` is autocast with a scaled loss, as published; ``bf16`` autocast without; ``auto``
            takes fp16 on CUDA and fp32 on a CPU.
        loss_scale: Where the scale of the loss starts with fp16, 2^10 in the authors' settings.
        modality_dropout: Chance per clip and modality of being dropped; ``None`` leaves what the variant
            says, 0.1 in the paper.
        freeze: Encoders whose weights stay as they are.
        frozen: Whether all encoders stay as they are and are not even run: training reads their features,
            in half precision, from the store.
        modalities: What the model sees. The others count as missing in every clip, in training and in
            validation, and their encoders stay as they are.
        pad: Length of waveforms: ``max`` pads to the full window, as published; ``longest`` to the
            longest clip of the batch, which gives the same numbers when the encoder is masked, sooner.
        batching: ``shuffled`` draws each batch from all clips, as published; ``bucketed`` from clips of
            like length, so that less is padded; ``auto`` buckets in frozen mode only.
        checkpointing: Whether encoders keep no activations and compute them again on the way back.
        compile: Whether ``torch.compile`` compiles the network.
        workers: Processes that read and pad batches; 0 does it in between.
        save_every: Optimiser steps after which ``last.pt`` is written within an epoch, too; 0 for never.
        seed: Seed of weights, order and dropout, 3407 in the authors' settings.

    Raises:
        UsageError: A value makes no sense.
    """

    epochs: int = 50
    patience: int = 5
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    clip: float = 100.0
    clip_mode: ClipMode = "value"
    precision: Precision = "auto"
    loss_scale: float = 1024.0
    modality_dropout: float | None = None
    freeze: tuple[str, ...] = ()
    frozen: bool = False
    modalities: tuple[str, ...] = MODALITIES
    pad: Pad = "max"
    batching: Batching = "auto"
    checkpointing: bool = False
    compile: bool = False
    workers: int = 0
    save_every: int = 200
    seed: int = 3407

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "patience",
            "batch_size",
            "accumulation",
            "learning_rate",
            "clip",
            "loss_scale",
        ):
            _check(getattr(self, name) > 0, f"{name} is {getattr(self, name)}", "Give a positive number")
        for name in ("weight_decay", "warmup_epochs", "workers", "save_every"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}", "Give zero or more")
        dropout = self.modality_dropout
        _check(
            dropout is None or 0 <= dropout < 1,
            f"modality_dropout is {dropout}",
            "Give a number from 0 to below 1",
        )
        unknown = set(self.freeze) - set(TRAINABLE)
        _check(not unknown, f"cannot freeze {sorted(unknown)}", f"Choose from: {', '.join(TRAINABLE)}")
        unknown = set(self.modalities) - set(MODALITIES)
        found = f"there is no modality {sorted(unknown)[0]!r}" if unknown else "it is to see no modality"
        _check(bool(self.modalities) and not unknown, found, f"Choose from: {', '.join(MODALITIES)}")
        for name, values in (
            ("pad", Pad),
            ("clip_mode", ClipMode),
            ("precision", Precision),
            ("batching", Batching),
        ):
            known = get_args(values)
            value = getattr(self, name)
            option = f"--{name.replace('_', '-')}"
            _check(value in known, f"{name} is {value!r}", f"Choose {option} {' or '.join(known)}")

    @property
    def kept(self) -> frozenset[str]:
        """The encoders whose weights stay as they are."""
        # Weight decay alone would wear down an encoder that is never heard.
        every = frozenset(TRAINABLE)
        return every if self.frozen else frozenset(self.freeze) | (every - set(self.modalities))

    @property
    def buckets(self) -> bool:
        """Whether batches are made of clips of like length."""
        return self.frozen if self.batching == "auto" else self.batching == "bucketed"


def _check(right: bool, found: str, fix: str) -> None:
    if not right:
        raise UsageError("the training recipe is inconsistent", found, fix)
