"""``taemi``: init, synth, check, train, evaluate, demo."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.choice import EncoderChoice
from taemi.config import variant as named_variant
from taemi.corpus import FACES, RAW, Corpus, Layout, read_corpus
from taemi.recipe import MODALITIES, Recipe
from taemi_runtime.atomic import write_text
from taemi_runtime.console import Step, progress, run_app, say
from taemi_runtime.errors import CheckpointError, MissingExtraError
from taemi_runtime.faces.choice import faces_name
from taemi_runtime.preprocessing import FACES_NONE
from taemi_runtime.strict import to_json

if TYPE_CHECKING:
    from taemi.train import EpochReport

app = typer.Typer(
    name="taemi",
    help="Train TAEMI: six emotional mimicry intensities from a clip's sound, face and words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Preset = Annotated[str, typer.Option(help="paper, released, or a row of the ablation tables")]
Encoders = Annotated[str, typer.Option(help="paper: the published ones; tiny: small seeded ones")]
AudioId = Annotated[str | None, typer.Option(help="hub id or folder of another audio encoder")]
TextId = Annotated[str | None, typer.Option(help="hub id or folder of another text encoder")]
VisionId = Annotated[str | None, typer.Option(help="hub id or folder of another vision encoder")]
Masked = Annotated[bool, typer.Option(help="give the audio encoder the padding mask")]
Seed = Annotated[int, typer.Option(help="seed of weights, order and dropout")]
MaxFps = Annotated[
    float | None, typer.Option(help="frames a second for vision features; default: every frame")
]
Faces = Annotated[
    str,
    typer.Option(
        metavar="auto|none|FILE",
        help="auto: cut out each frame's largest face; FILE: with this YuNet model; none: whole frames or "
        "ready crops",
    ),
]
VisionFrom = Annotated[
    str | None,
    typer.Option(
        metavar="raw|face_images|FOLDER",
        help="where vision comes from: the clips, their face crops, or a folder of feature pickles; "
        "default: face crops where there are any",
    ),
]
TestFolder = Annotated[
    str | None, typer.Option(help="folder of the test clips; default: test_data or test, whichever is there")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress on stderr")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("demo"),
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go the whole way on synthetic clips, offline, on a CPU, in a few minutes."""
    del debug
    _need_torch("run the demo")
    from taemi.demo import run_demo

    run_demo(out, quiet=quiet)


@app.command()
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
    _need_torch("make a checkpoint")
    from taemi.assemble import assemble, encoder_notes
    from taemi.checkpoint import Progress, save_checkpoint

    step = Step("init")
    system = assemble(preset, choice, seed=seed, max_fps=max_fps, faces=faces_name(faces))
    for note in encoder_notes(system):
        say(f"note: {note}", quiet=quiet)
    save_checkpoint(ckpt, system, Progress(trained=False))
    say(step.done(ckpt, "untrained"), quiet=quiet)
    say(f"next: taemi-export onnx {ckpt}", quiet=quiet)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="folder to write the corpus into")],
    clips: Annotated[int, typer.Option(min=5, help="number of clips over all splits")] = 200,
    seed: Annotated[int, typer.Option(help="seed of everything drawn")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="processes that draw")] = 2,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a synthetic corpus in the Hume-Vidmimic2 layout."""
    del debug
    from taemi.synth import write_corpus

    step = Step("synth")
    with progress(quiet=quiet) as tick:
        write_corpus(
            out,
            clips=clips,
            seed=seed,
            workers=workers,
            progress=lambda done, total: tick("clips", done, total),
        )
    say(step.done(out, f"{clips} synthetic clips"), quiet=quiet)
    say(f"next: taemi train {out} --out run --encoders tiny", quiet=quiet)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout")],
    vision_from: VisionFrom = None,
    test_folder: TestFolder = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="decode every clip as training does, not headers alone")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="clips looked at at a time")] = 2,
    everything: Annotated[bool, typer.Option("--all", help="list every finding, not 20 of a kind")] = False,
    json: Annotated[bool, typer.Option("--json", help="everything as JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="write there instead of on stdout")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what is in a corpus and what is wrong with it; exit code 1 where training would fail."""
    del debug
    from taemi.check import check_corpus, format_report

    step = Step("check")
    layout = Layout(test_folder, vision_from)
    with progress(quiet=quiet) as tick:
        report = check_corpus(data, layout, jobs=jobs, decode=decode, tick=tick)
    text = to_json(report) if json else format_report(report, everything=everything) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
    clips = sum(split.rows for split in report.splits)
    say(step.done(out, f"{clips:,} clips, {len(report.findings):,} findings"), quiet=quiet)
    if not report.trains:
        raise typer.Exit(1)


@app.command()
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
    _need_torch("train")
    corpus = read_corpus(data, Layout(vision=vision_from))
    from taemi.assemble import assemble, encoder_notes
    from taemi.train import BEST_NAME
    from taemi.train import train as run

    step = Step("train")
    system = assemble(
        variant, choice, seed=seed, max_fps=max_fps, faces=faces_name(faces), tiny_folder=out / "encoders"
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


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="a checkpoint or a bundle")],
    data: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout")],
    split: Annotated[str, typer.Option(help="train, valid or test")] = "valid",
    test_folder: TestFolder = None,
    csv: Annotated[Path | None, typer.Option(help="write a challenge submission there")] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures there")] = None,
    faces: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|FILE",
            help="cut out the largest face: OpenCV's cascade, no, or a YuNet model; default: as trained",
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Correlation with the labels, per emotion and per combination of modalities."""
    del debug
    from taemi.evaluate import evaluate_split, format_table, write_figures, write_submission

    corpus = read_corpus(data, Layout(test_folder=test_folder))
    step = Step(f"evaluate {split}")
    with progress(quiet=quiet) as tick:
        evaluation = evaluate_split(
            model, corpus, split, faces=faces, tick=tick, warn=lambda text: say(f"warning: {text}")
        )
    print(format_table(evaluation))
    if csv is not None:
        write_submission(csv, evaluation)
    if json is not None:
        write_figures(json, evaluation)
    say(step.done(None, f"{len(evaluation.names)} clips"), quiet=quiet)
    if evaluation.failures:
        raise typer.Exit(1)


def format_epoch(report: EpochReport) -> str:
    """Format an epoch as one line: loss, mean rho, rho of each output, seconds."""
    each = " ".join(f"{rho:+.2f}" for rho in report.rho_by_output)
    mark = "  best so far" if report.best else ""
    return (
        f"epoch {report.epoch:>2}/{report.epochs}  loss {report.loss:.4f}  rho {report.rho:+.3f} ({each})"
        f"  {report.seconds:.1f} s{mark}"
    )


def corpus_notes(corpus: Corpus, faces: str) -> list[str]:
    """Return what a user should know of how a corpus is used, one sentence each.

    Args:
        corpus: The corpus to train on.
        faces: How the model crops the frames of clips, as on the command line.
    """
    if corpus.vision == RAW:
        return []
    notes = [f"vision comes from {corpus.vision}/ of {corpus.root.name}, not from the clips' frames"]
    if corpus.vision == FACES and faces == FACES_NONE:
        notes.append(
            "the model is trained on face crops, and will be given whole frames of clips; with --faces auto "
            "it will be given their largest faces"
        )
    return notes


def _need_torch(what: str) -> None:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"cannot {what}", f"{package} is not installed", 'pip install "taemi[train]"'
            )


def main() -> None:
    """Run the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
