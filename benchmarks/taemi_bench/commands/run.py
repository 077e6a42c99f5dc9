"""``taemi-bench run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi_bench.commands.options import Debug, Quiet, parse_sizes
from taemi_runtime.console import progress, say


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder made by taemi-export onnx.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT", help="The checkpoint that it was made from; found when near the bundle."
        ),
    ] = None,
    graph: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure only this graph; may be repeated.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="S=N", help="Length of an axis, SYMBOL=N or GRAPH.SYMBOL=N; may be repeated."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Fewest rounds of each graph: 30, with --quick 10.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Shortest time of each graph: 3 s, with --quick 1 s; both are reached."),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Longest time of each graph: 60 s, with --quick 15 s.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of every row on the CPU; 0 is every core that may be used.")
    ] = 0,
    device: Annotated[
        str, typer.Option(metavar="DEV", help="auto, cpu, cuda or cuda:N; auto is the CPU and CUDA.")
    ] = "auto",
    clip: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Measure this clip from file to scores; may be repeated."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS",
            help="AXIS, GRAPH.AXIS, presence, callers, max_fps, all (default) or none; may be repeated.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Labelled clips: the max_fps sweep says what each rate costs."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Only rows with this word in their names; may be repeated."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="No such rows, e.g. openvino; may be repeated.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="WORD", help="Also max-autotune, which compiles for minutes."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="No compiled rows, memory or sweeps, fewer rounds: a first look.")
    ] = False,
    memory_seconds: Annotated[
        float, typer.Option(min=0, help="Time for measuring each row's memory; 0 leaves it out.")
    ] = 120.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything, samples included.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a line for each row and sweep point.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one self-contained page with pictures.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the engines' and PyTorch's traces and costliest operators."),
    ] = None,
    roof: Annotated[
        bool, typer.Option("--roof/--no-roof", help="Measure the machine's ceilings and each row's floor.")
    ] = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time every engine of a bundle against PyTorch, on the same inputs.

    Exit code: 0 all rows that can run here ran, 1 one failed or gave wrong numbers, 2 usage,
    130 interrupted (what was finished is printed and written).
    """
    del debug
    sizes = parse_sizes(size or [])
    from taemi_bench.checkpoint import open_checkpoint
    from taemi_bench.further import Further, check_further
    from taemi_bench.outputs import Outputs
    from taemi_bench.profiles import make_folder
    from taemi_bench.pytorch_rows import COMPILED
    from taemi_bench.roof import print_roof, try_add_roof
    from taemi_bench.rows import RowChoice
    from taemi_bench.run import check_choice, run_bundle
    from taemi_bench.schedule import default_schedule
    from taemi_bench.selection import choose_devices, choose_graphs, choose_sizes
    from taemi_bench.tables import print_report
    from taemi_runtime.bundle import Bundle

    schedule = default_schedule(quick=quick, rounds=rounds, seconds=seconds, max_seconds=max_seconds)
    usual = () if quick else (COMPILED, "reduce-overhead")
    choice = RowChoice(tuple(rows or ()), tuple(without or ()), (*usual, *(also or ())))
    outputs = Outputs(json=json_file, markdown=markdown, csv=csv_file, html=html)
    outputs.check()
    if profile is not None:
        make_folder(profile)
    opened = Bundle.open(bundle)
    # Before the checkpoint is opened, which takes seconds: what was asked for must exist.
    names = choose_graphs(opened, graph or ())
    choose_sizes({name: opened.manifest.graphs[name] for name in names}, sizes)
    check_choice(opened, names, choose_devices(device), choice)
    further = Further(tuple(clip or ()), tuple(sweep or (("none",) if quick else ("all",))), data)
    check_further(further, opened, names)
    source, why = open_checkpoint(bundle, opened.manifest, checkpoint)
    if source is None:
        say(f"no PyTorch rows: {why}", quiet=quiet)
    with progress(quiet=quiet) as tick:
        report = run_bundle(
            opened,
            source,
            source_note=why,
            graphs=names,
            sizes=sizes,
            schedule=schedule,
            threads=threads,
            device=device,
            further=further,
            choice=choice,
            memory_seconds=0.0 if quick else memory_seconds,
            progress=tick,
        )
        looked = try_add_roof(report, opened, source, folder=profile, wanted=roof, progress=tick)
        report = looked.report
    try:
        # Before the table, which a closed pipe may stop.
        for path in outputs.write(report):
            say(f"written: {path}", quiet=quiet)
    finally:
        print_report(report)
        print_roof(report, looked.profiles, operators=profile is not None)
    for reason in looked.why:
        say(f"no floors: {reason}", quiet=quiet)
    if profile is not None:
        say(f"written: {profile}", quiet=quiet)
    if report.interrupted or looked.interrupted:
        raise typer.Exit(130)
    if report.failures or all(row.state == "not run" for row in report.rows):
        raise typer.Exit(1)
