"""``taemi ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.ablation.rows import ROWS, chosen_rows, chosen_seeds
from taemi.choice import EncoderChoice
from taemi.commands.config_file import Config, write_options
from taemi.commands.options import (
    AudioId,
    Debug,
    Encoders,
    FacesOrAsStored,
    Masked,
    MaxFps,
    Quiet,
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
from taemi.commands.train import CONFIG_NAME, format_epoch
from taemi.corpus import Layout
from taemi.pictures import pictures_fault
from taemi.sheets import format_sheets
from taemi_runtime.atomic import write_bytes
from taemi_runtime.console import Step, progress, say
from taemi_runtime.emotions import EMOTIONS

if TYPE_CHECKING:
    from taemi.ablation.figures import Report
    from taemi.ablation.protocol import Protocol


def ablate(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="a corpus, or a store that taemi extract made of one")],
    out: Annotated[Path, typer.Option(help="the ablation's folder: ablation.md, .csv, .json, .png, runs/")],
    config: Config = None,
    rows: Annotated[str | None, typer.Option(help=f"some of {', '.join(ROWS)}; default: all")] = None,
    seeds: Annotated[str, typer.Option(help="each row is trained with each of these")] = "1,2,3",
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
    freeze: Freeze = None,
    frozen: Frozen = False,
    pad: Pad = "max",
    batching: Batching = "auto",
    checkpointing: Checkpointing = False,
    compile: Compile = False,
    workers: Workers = None,
    save_every: SaveEvery = 200,
    device: Device = "auto",
    tensorboard: Annotated[bool, typer.Option(help="write each run's curves to its tensorboard/")] = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the rows of the paper's ablation tables and write a table like them; a second call goes on."""
    del config, debug
    chosen = chosen_rows(names(rows) if rows is not None else tuple(ROWS))
    seeds_asked = chosen_seeds(names(seeds))
    recipe = recipe_from(context.params)
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    need_torch("run an ablation")
    from taemi.data import read_data, settle_frames
    from taemi_runtime.faces.choice import faces_name

    corpus = read_data(data, Layout(vision=vision_from))
    max_fps, cropped = settle_frames(corpus, max_fps, None if faces is None else faces_name(faces))
    from taemi.ablation.study import Listeners, Study, run_study
    from taemi.ablation.table import MARKDOWN_NAME, main_sheet
    from taemi.training_data import told_once

    study = Study(
        corpus,
        out,
        chosen,
        seeds_asked,
        recipe,
        choice,
        max_fps=max_fps,
        faces=cropped,
        yunet=faces,
        device=device,
        workers=workers,
        tensorboard=tensorboard,
    )
    step = Step("ablate")
    if fault := pictures_fault():
        say(f"warning: {fault}")
    for note in corpus_notes(corpus, cropped):
        say(f"note: {note}", quiet=quiet)
    reports: list[Report] = []

    def write(protocol: Protocol) -> None:
        if not reports:
            # Not before the protocol is settled: a refused call changes nothing.
            write_options(context, out / CONFIG_NAME)
        reports[:] = [_write(out, corpus.name or corpus.root.resolve().name, protocol)]

    with progress(quiet=quiet) as tick:
        failures = run_study(
            study,
            write,
            Listeners(
                say=lambda line: say(line, quiet=quiet),
                # What is wrong with the data is wrong with it in every run.
                warn=told_once(lambda message: say(f"warning: {message}")),
                report=lambda report: say(f"  {format_epoch(report)}", quiet=quiet),
                tick=tick,
            ),
        )
    print(format_sheets([main_sheet(reports[-1])]))
    for failure in failures:
        say(f"failed: {failure.row}, seed {failure.seed}: {failure.reason}")
    say(
        step.done(out / MARKDOWN_NAME, f"{len(chosen) * len(seeds_asked)} runs, {len(failures)} failed"),
        quiet=quiet,
    )
    if failures:
        raise typer.Exit(1)


def _write(out: Path, corpus: str, protocol: Protocol) -> Report:
    from taemi.ablation.figures import make_report
    from taemi.ablation.picture import draw
    from taemi.ablation.runs import read_failures, read_results
    from taemi.ablation.table import PICTURE_NAME, write_tables

    report = make_report(corpus, EMOTIONS, protocol, read_results(out), read_failures(out))
    write_tables(out, report)
    if not pictures_fault():
        write_bytes(out / PICTURE_NAME, draw(report))
    return report
