"""``taemi-bench``: latency and parity, side by side with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi_runtime.console import progress, run_app, say
from taemi_runtime.errors import UsageError

app = typer.Typer(
    name="taemi-bench",
    help="Measure exported models side by side with PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def callback() -> None:
    """Measure exported models side by side with PyTorch."""


@app.command()
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
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


@app.command()
def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A.json", help="What taemi-bench run --json wrote before.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="And after.")],
    threshold: Annotated[
        str, typer.Option(metavar="P%", help="Changes up to this many percent are never flagged.")
    ] = "5%",
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Judge milliseconds, even where both have PyTorch's row.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the comparison as JSON.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Say what became slower, less exact or larger from one run to another, beyond noise.

    Exit code: 0 nothing did, 1 something did, 2 usage (a file that is no report is usage, too).
    """
    del debug
    from taemi_bench.compare import compare_reports, parse_threshold
    from taemi_bench.compare_tables import print_comparison
    from taemi_bench.report import read_report
    from taemi_runtime.atomic import write_text
    from taemi_runtime.errors import DataError
    from taemi_runtime.output import require_writable
    from taemi_runtime.strict import to_json

    share = parse_threshold(threshold)
    if json_file is not None:
        require_writable(json_file)
    try:
        old, new = read_report(before), read_report(after)
    except DataError as error:
        # Exit code 1 is a regression here.
        raise UsageError(error.asked, error.found, error.fix) from error
    names = (str(before), str(after))
    found = compare_reports(old, new, names=names, threshold=share, absolute=absolute)
    if json_file is not None:
        write_text(json_file, to_json(found))
    print_comparison(found)
    if found.regressions:
        raise typer.Exit(1)


@app.command()
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
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


def parse_sizes(options: list[str], option_name: str = "--size") -> dict[str, int]:
    """Read ``S=N`` options.

    Args:
        options: What was given.
        option_name: What the option is called.

    Raises:
        UsageError: One is no ``S=N`` with a whole number from 1 up.
    """
    sizes = {}
    for option in options:
        name, _, length = option.partition("=")
        if not name or not (length.isascii() and length.isdigit()) or int(length) < 1:
            raise UsageError(
                f"cannot read {option_name} {option}",
                "expected S=N, N a whole number from 1 up",
                f"E.g. {option_name} batch=4" if option_name == "--size" else f"E.g. {option_name} NAME=300",
            )
        sizes[name.strip()] = int(length)
    return sizes


def main() -> None:
    """Run the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
