"""``taemi init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi.choice import EncoderChoice
from taemi.commands.options import (
    AudioId,
    Debug,
    Encoders,
    Faces,
    Masked,
    MaxFps,
    Preset,
    Quiet,
    Seed,
    TextId,
    VisionId,
    need_torch,
)
from taemi.config import variant as named_variant
from taemi_runtime.console import Step, say
from taemi_runtime.errors import CheckpointError


def init(
    ckpt: Annotated[Path, typer.Argument(help="the checkpoint to write")],
    preset: Preset = "paper",
    encoders: Encoders = "paper",
    audio_encoder: AudioId = None,
    text_encoder: TextId = None,
    vision_encoder: VisionId = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="published sizes, random weights, no download")
    ] = False,
    mask_in_encoder: Masked = True,
    max_fps: MaxFps = None,
    faces: Faces = "none",
    seed: Seed = 3407,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write an untrained checkpoint, e.g. to measure latency before anything is trained."""
    del debug
    if ckpt.exists() and not force:
        raise CheckpointError(f"cannot write {ckpt}", "it exists already", "Name another file or add --force")
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, random_weights, mask_in_encoder
    )
    named_variant(preset)
    need_torch("make a checkpoint")
    from taemi_runtime.faces.choice import faces_name

    crops = faces_name(faces)
    from taemi.assemble import assemble, encoder_notes
    from taemi.checkpoint import Progress, save_checkpoint

    step = Step("init")
    system = assemble(preset, choice, seed=seed, max_fps=max_fps, faces=crops)
    for note in encoder_notes(system):
        say(f"note: {note}", quiet=quiet)
    save_checkpoint(ckpt, system, Progress(trained=False))
    say(step.done(ckpt, "untrained"), quiet=quiet)
    say(f"next: taemi-export onnx {ckpt}", quiet=quiet)
