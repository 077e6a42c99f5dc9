"""``taemi evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taemi.commands.options import Debug, Quiet, TestFolder, VisionFrom, names
from taemi.corpus import RAW, Layout
from taemi_runtime.console import Step, progress, say
from taemi_runtime.errors import UsageError

if TYPE_CHECKING:
    from taemi.evaluate import Robustness


def evaluate(
    model: Annotated[Path, typer.Argument(help="a checkpoint, a bundle, or an engine file in a bundle")],
    data: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout, or its feature store")],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="another model to score on the same clips and compare with; may be given often"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test")] = "valid",
    vision_from: VisionFrom = None,
    test_folder: TestFolder = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness", help="also curves over noise, covered frames, left-out words and --max-fps"
        ),
    ] = False,
    snr: Annotated[
        str | None,
        typer.Option(metavar="DB,...", help="levels of noise, e.g. 20,10,0; this curve alone, too"),
    ] = None,
    occlude: Annotated[
        str | None, typer.Option(metavar="SHARE,...", help="shares of frames to cover, e.g. 0.5,1; likewise")
    ] = None,
    drop_words: Annotated[
        str | None, typer.Option(metavar="SHARE,...", help="shares of words to leave out; likewise")
    ] = None,
    at_fps: Annotated[
        str | None, typer.Option(metavar="FPS,...", help="frame rates to look at; likewise")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="write everything into this folder: tables, figures, scores, pictures")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="write a challenge submission there")] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures there")] = None,
    faces: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|FILE",
            help="cut out the largest face: OpenCV's cascade, no, or a YuNet model; default: as trained",
        ),
    ] = None,
    max_fps: Annotated[
        float | None, typer.Option(help="frames a second to look at; default: as trained")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N]")] = "auto",
    resamples: Annotated[int, typer.Option(min=100, help="resamples behind the intervals")] = 10_000,
    seed: Annotated[int, typer.Option(help="seed of the resamples and of what --robustness does")] = 3407,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Correlation with the labels, per emotion and per combination of modalities, with intervals."""
    del debug
    from taemi.data import StoredCorpus, read_data
    from taemi.evaluate import Asked, compare, evaluate_models
    from taemi.evaluate.files import write_figures, write_submission
    from taemi.evaluate.report import write_report
    from taemi.evaluate.tables import sheets
    from taemi.sheets import format_sheets

    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"cannot write a report to {report}", "it is a file", "Name a folder")
    levels = _levels(robustness, noise=snr, occlusion=occlude, words=drop_words, max_fps=at_fps)
    corpus = read_data(data, Layout(test_folder, vision_from))
    if corpus.vision != RAW and not isinstance(corpus, StoredCorpus):
        say(
            f"note: vision comes from {corpus.vision}/ of {corpus.root.name}, not from the clips", quiet=quiet
        )
    step = Step(f"evaluate {split}")
    asked = Asked(faces, max_fps, device, levels, resamples, seed)
    with progress(quiet=quiet) as tick:
        found = evaluate_models([model, *(against or [])], corpus, split, asked, tick=tick, warn=_warn)
    differences = compare(found)
    first, *others = found
    print(format_sheets(sheets(found, differences)))
    if csv is not None and (filled := write_submission(csv, first)):
        _warn(filled)
    if json is not None:
        write_figures(json, first, list(zip(others, differences[1:], strict=True)))
    if report is not None:
        for line in write_report(report, found, differences):
            _warn(line)
    say(step.done(report, f"{len(first.names)} clips"), quiet=quiet)
    if first.failures:
        raise typer.Exit(1)


def _levels(every: bool, **given: str | None) -> Robustness:
    """Return the levels of the curves: those that are given, else the usual ones if asked for."""
    from taemi.evaluate.cases import NO_CURVES, Robustness

    chosen = {curve: _numbers(text) for curve, text in given.items() if text is not None}
    return replace(Robustness() if every else NO_CURVES, **chosen)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, names(text)))
    except ValueError as error:
        raise UsageError(
            f"cannot take levels from {text!r}", str(error), "Give numbers, e.g. 0.5,1"
        ) from error


def _warn(text: str) -> None:
    say(f"warning: {text}")
