"""``taemi ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.ablation.rows import ROWS, chosen_rows, chosen_seeds
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
    Quiet,
    TextId,
    VisionFrom,
    VisionId,
    WarmupEpochs,
    WeightDecay,
    corpus_notes,
    names,
    need_torch,
)
from taemi.commands.train import format_epoch
from taemi.corpus import Layout, read_corpus
from taemi.pictures import need_pictures
from taemi.recipe import Recipe
from taemi_runtime.console import Step, progress, say
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from taemi.ablation.figures import Report
    from taemi.ablation.protocol import Protocol


def ablate(
    data: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout")],
    out: Annotated[Path, typer.Option(help="the ablation's folder: ablation.md, .csv, .json, .png, runs/")],
    rows: Annotated[str, typer.Option(help="rows of the paper's tables, by name")] = ",".join(ROWS),
    seeds: Annotated[str, typer.Option(help="each row is trained with each of these")] = "1,2,3",
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
    pad: Pad = "max",
    device: Device = "cpu",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the rows of the paper's ablation tables and write a table like them; a second call goes on."""
    del debug
    chosen, seeds_asked = chosen_rows(names(rows)), chosen_seeds(names(seeds))
    recipe = Recipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        clip_value=clip_value,
        freeze=tuple(freeze or ()),
        pad=pad,
    )
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    need_torch("run an ablation")
    from taemi.ablation.study import Listeners, Study, run_study
    from taemi.ablation.table import MARKDOWN_NAME, main_table

    corpus = read_corpus(data, Layout(vision=vision_from))
    step = Step("ablate")
    try:
        need_pictures("the ablation gets no picture")
        picture = True
    except MissingExtraError as error:
        say(f"warning: {error}")
        picture = False
    for note in corpus_notes(corpus, faces):
        say(f"note: {note}", quiet=quiet)
    reports: list[Report] = []

    def write(protocol: Protocol) -> None:
        reports[:] = [_write(out, corpus.root.resolve().name, protocol, picture=picture)]

    with progress(quiet=quiet) as tick:
        failures = run_study(
            Study(corpus, out, chosen, seeds_asked, recipe, choice, max_fps, faces, device),
            write,
            Listeners(
                say=lambda line: say(line, quiet=quiet),
                warn=lambda message: say(f"warning: {message}"),
                report=lambda report: say(f"  {format_epoch(report)}", quiet=quiet),
                tick=tick,
            ),
        )
    print(main_table(reports[-1]))
    for failure in failures:
        say(f"failed: {failure.row}, seed {failure.seed}: {failure.reason}")
    say(
        step.done(out / MARKDOWN_NAME, f"{len(chosen) * len(seeds_asked)} runs, {len(failures)} failed"),
        quiet=quiet,
    )
    if failures:
        raise typer.Exit(1)


def _write(out: Path, corpus: str, protocol: Protocol, *, picture: bool) -> Report:
    from taemi.ablation.figures import make_report
    from taemi.ablation.picture import draw
    from taemi.ablation.runs import read_failures, read_results
    from taemi.ablation.table import PICTURE_NAME, write_tables

    report = make_report(corpus, EMOTIONS, protocol, read_results(out), read_failures(out))
    write_tables(out, report)
    if picture:
        draw(out / PICTURE_NAME, report)
    return report
