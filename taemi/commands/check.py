"""``taemi check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from taemi.commands.options import Debug, Quiet, TestFolder, VisionFrom
from taemi.corpus import Layout
from taemi_runtime.atomic import write_text
from taemi_runtime.console import Step, progress, say
from taemi_runtime.strict import to_json


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
