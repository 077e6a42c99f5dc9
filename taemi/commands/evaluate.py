"""``taemi evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi.commands.options import Debug, Quiet, TestFolder
from taemi.corpus import Layout, read_corpus
from taemi_runtime.console import Step, progress, say


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
