"""``taemi train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.choice import EncoderChoice
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
    need_torch,
)
from taemi.config import variant as named_variant
from taemi.corpus import Layout
from taemi.data import read_data, settle_frames
from taemi.recipe import MODALITIES, Recipe
from taemi_runtime.console import Step, progress, say
from taemi_runtime.faces.choice import faces_name

if TYPE_CHECKING:
    from taemi.train import EpochReport


def train(
    data: Annotated[Path, typer.Argument(help="a corpus, or a store that taemi extract made of one")],
    out: Annotated[Path, typer.Option(help="the run's folder: best.pt, last.pt, features/")],
    variant: Preset = "paper",
    encoders: Encoders = "paper",
    audio_encoder: AudioId = None,
    text_encoder: TextId = None,
    vision_encoder: VisionId = None,
    mask_in_encoder: Masked = True,
    max_fps: MaxFps = None,
    faces: FacesOrAsStored = None,
    vision_from: VisionFrom = None,
    epochs: Annotated[int, typer.Option(help="at most so many")] = 50,
    patience: Annotated[int, typer.Option(help="stop after so many epochs without a better rho")] = 5,
    batch_size: Annotated[int, typer.Option(help="clips a step")] = 32,
    learning_rate: Annotated[float, typer.Option(help="peak rate of AdamW")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="decay of AdamW")] = 0.01,
    warmup_epochs: Annotated[float, typer.Option(help="epochs of linear warm-up")] = 1.0,
    clip_value: Annotated[float, typer.Option(help="largest absolute gradient")] = 100.0,
    freeze: Annotated[
        list[str] | None, typer.Option(help="audio or text: keep that encoder's weights")
    ] = None,
    modalities: Annotated[
        str, typer.Option(help="what the model sees, e.g. text or audio,text; the others count as missing")
    ] = ",".join(MODALITIES),
    pad: Annotated[str, typer.Option(help="max: always 12 s; longest: the batch's longest clip")] = "max",
    seed: Seed = 3407,
    device: Annotated[str, typer.Option(help="cpu or cuda[:N]")] = "cpu",
    workers: Workers = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train end to end; writes OUT/best.pt and OUT/last.pt."""
    del debug
    recipe = Recipe(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        clip_value=clip_value,
        freeze=tuple(freeze or ()),
        modalities=tuple(name.strip() for name in modalities.split(",") if name.strip()),
        pad=pad,
        seed=seed,
    )
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    named_variant(variant)
    need_torch("train")
    corpus = read_data(data, Layout(vision=vision_from))
    max_fps, cropped = settle_frames(corpus, max_fps, None if faces is None else faces_name(faces))
    from taemi.assemble import assemble, encoder_notes
    from taemi.train import BEST_NAME
    from taemi.train import train as run

    step = Step("train")
    system = assemble(
        variant, choice, seed=seed, max_fps=max_fps, faces=cropped, tiny_folder=out / "encoders"
    )
    for note in [*encoder_notes(system), *corpus_notes(corpus, cropped)]:
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
            workers=workers,
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
