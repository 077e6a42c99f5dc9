"""``taemi train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.ablation.rows import row_to_train
from taemi.choice import EncoderChoice
from taemi.commands.config_file import Config, write_options
from taemi.commands.options import (
    AudioId,
    Debug,
    Encoders,
    FacesOrAsStored,
    Masked,
    MaxFps,
    Preset,
    Quiet,
    Seed,
    TextId,
    VisionFrom,
    VisionId,
    Workers,
    corpus_notes,
    names,
    need_torch,
)
from taemi.commands.recipe_options import (
    Accumulation,
    Batching,
    BatchSize,
    Checkpointing,
    Clip,
    ClipMode,
    Compile,
    Device,
    Epochs,
    Freeze,
    Frozen,
    LearningRate,
    LossScale,
    Pad,
    Patience,
    Precision,
    SaveEvery,
    WarmupEpochs,
    WeightDecay,
    recipe_from,
)
from taemi.corpus import Layout
from taemi_runtime.console import Step, format_size, progress, say
from taemi_runtime.errors import UsageError

if TYPE_CHECKING:
    from taemi.reports import EpochReport

CONFIG_NAME = "config.toml"


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="a corpus, or a store that taemi extract made of one")],
    out: Annotated[Path, typer.Option(help="the run's folder: best.pt, last.pt, config.toml, features/")],
    config: Config = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from OUT/last.pt where there is one")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="begin again where OUT holds a run")] = False,
    variant: Preset = "paper",
    encoders: Encoders = "paper",
    audio_encoder: AudioId = None,
    text_encoder: TextId = None,
    vision_encoder: VisionId = None,
    mask_in_encoder: Masked = True,
    max_fps: MaxFps = None,
    faces: FacesOrAsStored = None,
    vision_from: VisionFrom = None,
    epochs: Epochs = 50,
    patience: Patience = 5,
    batch_size: BatchSize = 32,
    accumulation: Accumulation = 1,
    learning_rate: LearningRate = 1e-4,
    weight_decay: WeightDecay = 0.01,
    warmup_epochs: WarmupEpochs = 1.0,
    clip: Clip = 100.0,
    clip_mode: ClipMode = "value",
    precision: Precision = "auto",
    loss_scale: LossScale = 1024.0,
    modality_dropout: Annotated[
        float | None, typer.Option(help="chance of dropping a modality; default: as the variant says")
    ] = None,
    freeze: Freeze = None,
    frozen: Frozen = False,
    modalities: Annotated[
        str | None,
        typer.Option(
            help="what the model sees, e.g. text or audio,text; the others count as missing; default: what "
            "the variant sees"
        ),
    ] = None,
    pad: Pad = "max",
    batching: Batching = "auto",
    checkpointing: Checkpointing = False,
    compile: Compile = False,
    workers: Workers = None,
    save_every: SaveEvery = 200,
    seed: Seed = 3407,
    device: Device = "auto",
    tensorboard: Annotated[bool, typer.Option(help="write curves to OUT/tensorboard")] = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train end to end; writes OUT/best.pt and OUT/last.pt.

    On several GPUs: accelerate launch --multi_gpu --num_processes N -m taemi.cli train ...
    """
    del config, debug
    row = row_to_train(variant, names(modalities) if modalities is not None else None)
    recipe = recipe_from(context.params, modalities=row.modalities)
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    need_torch("train")
    from taemi.data import read_data, settle_frames
    from taemi_runtime.faces.choice import faces_name

    corpus = read_data(data, Layout(vision=vision_from))
    max_fps, cropped = settle_frames(corpus, max_fps, None if faces is None else faces_name(faces))
    from taemi.assemble import assemble, encoder_notes
    from taemi.curves import FOLDER_NAME
    from taemi.processes import launched
    from taemi.train import BEST_NAME, LAST_NAME
    from taemi.train import train as run

    rank, _ = launched()
    quiet = quiet or rank > 0
    if (out / LAST_NAME).exists() and not (resume or force):
        raise UsageError(
            f"cannot train into {out}",
            f"it holds a run already ({LAST_NAME})",
            "Go on with it: --resume; begin again: --force; or name another folder",
        )
    step = Step("train")
    system = assemble(
        row.variant,
        choice,
        seed=seed,
        max_fps=max_fps,
        faces=cropped,
        modality_dropout=modality_dropout,
    )
    for note in [*encoder_notes(system), *corpus_notes(corpus, cropped)]:
        say(f"note: {note}", quiet=quiet)
    if resume and not (out / LAST_NAME).exists():
        say(f"note: {out} holds no {LAST_NAME} to go on from: the training begins", quiet=quiet)
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
            workers=workers,
            resume=resume,
            curves=out / FOLDER_NAME if tensorboard else None,
            begin=lambda: write_options(context, out / CONFIG_NAME),
        )
    say(step.done(out / BEST_NAME, f"best rho {best.rho:.3f} in epoch {best.epoch}"), quiet=quiet)
    say(f"next: taemi-export onnx {out / BEST_NAME}", quiet=quiet)


def format_epoch(report: EpochReport) -> str:
    """Format an epoch as one line: loss, mean rho, rho of each output, speed, memory, seconds."""
    each = " ".join(f"{rho:+.2f}" for rho in report.rho_by_output)
    mark = "  best so far" if report.best else ""
    waiting = report.waiting_seconds / report.training_seconds if report.training_seconds else 0.0
    return (
        f"epoch {report.epoch:>2}/{report.epochs}  loss {report.loss:.4f}  rho {report.rho:+.3f} ({each})"
        f"  {report.clips_per_s:.1f} clips/s, {waiting:.0%} waiting for data,"
        f" {format_size(report.peak_memory_bytes)}  {report.seconds:.1f} s{mark}"
    )
