"""``taemi-bench store``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi_bench.commands.options import Debug, Quiet, parse_sizes
from taemi_runtime.console import progress, say


def store(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder or engine file.")],
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="A feature store.")],
    draw: Annotated[
        int | None,
        typer.Option("--draw", min=1, metavar="N", help="First make STORE: N clips of random features."),
    ] = None,
    longest: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=N", help="With --draw: rows of the longest clip; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is timed.")] = 6,
    clips: Annotated[int, typer.Option(min=1, metavar="N", help="Clips a round.")] = 256,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips a call; default: as taemi-infer.")
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop files from the system's cache before each timing.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0 is every usable core.")] = 0,
    device: Annotated[str, typer.Option(metavar="DEV", help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything, every round included.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time a feature store through an engine, beside the engine alone and the reading alone."""
    del debug
    from taemi_bench.store_throughput import draw_store, measure_store, open_scorer
    from taemi_runtime.atomic import write_text
    from taemi_runtime.strict import to_json

    with open_scorer(bundle, device, threads, batch) as scorer, progress(quiet=quiet) as tick:
        if draw is not None:
            draw_store(folder, scorer, draw, parse_sizes(longest or [], "--longest"), tick)
        report = measure_store(
            scorer, scorer.find([folder]), rounds=rounds, clips=clips, cold=cold, progress=tick
        )
    if json_file is not None:
        write_text(json_file, to_json(report))
    for row, rate in report.medians.items():
        typer.echo(f"{row:6} {rate:10.1f} clips/s")
    typer.echo(f"share  {report.share:10.1%} of the slower of engine and read")
    if report.noise is not None and report.noise.note:
        say(f"note: {report.noise.note}", quiet=quiet)
