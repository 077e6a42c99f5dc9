"""The options that make a training recipe, and the recipe that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from taemi.recipe import Recipe

# Processes that read batches, which keep a fast GPU fed; features are read from files, not decoded.
_READERS = 2

Epochs = Annotated[int, typer.Option(help="at most so many")]
Patience = Annotated[int, typer.Option(help="stop after so many epochs without a better rho")]
BatchSize = Annotated[int, typer.Option(help="clips a batch, in each process")]
Accumulation = Annotated[int, typer.Option(help="batches whose gradients make one step")]
LearningRate = Annotated[float, typer.Option(help="peak rate of AdamW")]
WeightDecay = Annotated[float, typer.Option(help="decay of AdamW")]
WarmupEpochs = Annotated[float, typer.Option(help="epochs of linear warm-up")]
Clip = Annotated[float, typer.Option(help="largest gradient, or norm of all of them")]
ClipMode = Annotated[
    str, typer.Option(metavar="value|norm", help="value: clip each gradient; norm: scale them together")
]
Precision = Annotated[
    str,
    typer.Option(metavar="auto|fp32|fp16|bf16", help="autocast; auto: fp16 on CUDA, fp32 on a CPU"),
]
LossScale = Annotated[float, typer.Option(help="first scale of the loss with fp16")]
Freeze = Annotated[list[str] | None, typer.Option(help="audio or text: keep that encoder's weights")]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="keep all encoders and train on their features, made once")
]
Pad = Annotated[
    str, typer.Option(metavar="max|longest", help="max: always 12 s; longest: the batch's longest clip")
]
Batching = Annotated[
    str,
    typer.Option(
        metavar="auto|shuffled|bucketed", help="bucketed: clips of like length; auto: with --frozen only"
    ),
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="less memory, more time: compute activations twice")
]
Compile = Annotated[bool, typer.Option("--compile", help="compile the network with torch.compile")]
SaveEvery = Annotated[int, typer.Option(help="steps after which last.pt is written, too; 0: never")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="auto: a GPU where there is one")]


def recipe_from(values: Mapping[str, Any], **settled: Any) -> Recipe:
    """Return the recipe that a command's options describe.

    Args:
        values: The options by name; what the command does not have stays at its default.
        settled: Fields that are settled already.

    Raises:
        UsageError: A value makes no sense.
    """
    named = {field.name: values[field.name] for field in fields(Recipe) if field.name in values} | settled
    named["freeze"] = tuple(named["freeze"] or ())
    if named["workers"] is None:
        named["workers"] = _READERS
    return Recipe(**named)
