"""``taemi train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.ablation.rows import row_to_train
from taemi.choice import EncoderChoice
from taemi.commands.options import (
    AudioId,
    BatchSize,
    ClipValue,
    Debug,
    Device,
    Encoders,
    Epochs,
    Faces,
    Freeze,
    LearningRate,
    Masked,
    MaxFps,
    Pad,
    Patience,
    Preset,
    Quiet,
    Seed,
    TextId,
    VisionFrom,
    VisionId,
    WarmupEpochs,
    WeightDecay,
    corpus_notes,
    names,
    need_torch,
)
from taemi.corpus import Layout, read_corpus
from taemi.recipe import Recipe
from taemi_runtime.console import Step, progress, say
from taemi_runtime.faces.choice import faces_name

if TYPE_CHECKING:
    from taemi.train import EpochReport


def train(
    data: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout")],
    out: Annotated[Path, typer.Option(help="the run's folder: best.pt, last.pt, features/")],
    variant: Preset = "paper",
    encoders: Encoders = "paper",
    audio_encoder: AudioId = None,
    text_encoder: TextId = None,
    vision_encoder: VisionId = None,
    mask_in_encoder: Masked = True,
    max_fps: MaxFps = None,
    faces: Faces = "none",
    vision_from: VisionFrom = None,
    epochs: Epochs = 50,
    patience: Patience = 5,
    batch_size: BatchSize = 32,
    learning_rate: LearningRate = 1e-4,
    weight_decay: WeightDecay = 0.01,
    warmup_epochs: WarmupEpochs = 1.0,
    clip_value: ClipValue = 100.0,
    freeze: Freeze = None,
    modalities: Annotated[
        str | None,
        typer.Option(
            help="what the model sees, e.g. text or audio,text; the others count as missing; default: what "
            "the variant sees"
        ),
    ] = None,
    pad: Pad = "max",
    seed: Seed = 3407,
    device: Device = "cpu",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train end to end; writes OUT/best.pt and OUT/last.pt."""
    del debug
    row = row_to_train(variant, names(modalities) if modalities is not None else None)
    recipe = Recipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        clip_value=clip_value,
        freeze=tuple(freeze or ()),
        modalities=row.modalities,
        pad=pad,
        seed=seed,
    )
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    need_torch("train")
    corpus = read_corpus(data, Layout(vision=vision_from))
    from taemi.assemble import assemble, encoder_notes
    from taemi.train import BEST_NAME
    from taemi.train import train as run

    step = Step("train")
    system = assemble(
        row.variant, choice, seed=seed, max_fps=max_fps, faces=faces_name(faces), tiny_folder=out / "encoders"
    )
    for note in [*encoder_notes(system), *corpus_notes(corpus, faces)]:
        say(f"note: {note}", quiet=quiet)
    with progress(quiet=quiet) as tick:
        best = run(
            system,
            corpus,
            out,
            recipe,
            report=lambda report: say(format_epoch(report), quiet=quiet),
            warn=lambda message: say(f"warning: {message}"),
            tick=tick,
            device=device,
            faces=faces,
        )
    say(step.done(out / BEST_NAME, f"best rho {best.rho:.3f} in epoch {best.epoch}"), quiet=quiet)
    say(f"next: taemi-export onnx {out / BEST_NAME}", quiet=quiet)


def format_epoch(report: EpochReport) -> str:
    """Format an epoch as one line: loss, mean rho, rho of each output, seconds."""
    each = " ".join(f"{rho:+.2f}" for rho in report.rho_by_output)
    mark = "  best so far" if report.best else ""
    return (
        f"epoch {report.epoch:>2}/{report.epochs}  loss {report.loss:.4f}  rho {report.rho:+.3f} ({each})"
        f"  {report.seconds:.1f} s{mark}"
    )
