"""``taemi-export``: onnx, tensorrt, verify, inspect, triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi_runtime.console import Step, progress, run_app, say

app = typer.Typer(
    name="taemi-export",
    help="Turn a checkpoint into ONNX graphs, verified against PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="nothing on stderr but errors")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks and PyTorch's own report")]


@app.command()
def onnx(
    ckpt: Annotated[Path, typer.Argument(help="the checkpoint")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="BUNDLE", help="the bundle; default: CKPT's name with .taemi"),
    ] = None,
    fusion_only: Annotated[
        bool, typer.Option("--fusion-only", help="only the graph that gives the scores, no encoders")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="also give the attention weights, for taemi-infer --attention")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing bundle")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, verified before it is put in place."""
    from taemi_export.export import check_packages, check_target, default_bundle, export_onnx

    bundle = out if out is not None else default_bundle(ckpt)
    check_target(bundle, force=force)
    check_packages()
    from taemi.exportable import open_source

    step = Step("export")
    source = open_source(ckpt, first_only=fusion_only, attention=attention)
    with progress(quiet=quiet) as tick:
        lines: list[str] = []
        export_onnx(
            source,
            bundle,
            force=force,
            fusion_only=fusion_only,
            debug=debug,
            progress=tick,
            say=lines.append,
        )
    for line in lines:
        say(line, quiet=quiet)
    trained = "verified" if source.trained else "verified, untrained"
    say(step.done(bundle, trained), quiet=quiet)
    follow = f"taemi-bench run {bundle}" if fusion_only else f"taemi-infer clip.mp4 --engine {bundle}"
    say(f"next: {follow}", quiet=quiet)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    engine: Annotated[
        Path | None, typer.Option(metavar="FILE", help="only this engine: of the bundle, or an exported file")
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEV", help="auto, cpu, cuda or cuda:N")] = "auto",
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[GRAPH.]PRECISION.LIMIT=X",
            help="a tighter gate, e.g. fp16.max_abs=1e-2; may be repeated",
        ),
    ] = None,
    gates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="tighter gates: TOML with tables [[GRAPH.]PRECISION]")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare engines with PyTorch's reference outputs; exit 1 when one is beyond its gate."""
    del debug
    from taemi_export.gates import parse_limits
    from taemi_export.plans.execution import note_executions
    from taemi_export.tables import print_verification
    from taemi_export.verify import store_parity, verify_bundle
    from taemi_runtime.engine import EngineOptions

    limits = parse_limits(gate or (), gates)
    step = Step("verify")
    with progress(quiet=quiet) as tick:
        report = verify_bundle(bundle, engine, EngineOptions(device=device), tick, limits)
    print_verification(report)
    if store_parity(report):
        for plan in note_executions(bundle, report.engines, device):
            say(f"{plan}: executed for the first time; its sidecar says where", quiet=quiet)
    else:
        say(f"warning: {bundle} cannot be written: its manifest keeps the parity that it had")
    first, *others = report.all_errors or (None,)
    for error in others:
        say(f"error: {error}")
    if first is not None:
        raise first
    unrun = len(report.unrun)
    result = "everything holds" + (f" that was run; built, not run: {unrun}" if unrun else "")
    say(step.done(bundle, result), quiet=quiet)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="a bundle, an ONNX file, a plan or a checkpoint")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    debug: Debug = False,
) -> None:
    """Say what an artefact is: inputs, outputs, precision, versions, digest, parity, trained or not."""
    del debug
    from taemi_export.inspection import inspect_path

    artefact = inspect_path(path)
    if as_json:
        from taemi_runtime.strict import to_json

        typer.echo(to_json(artefact), nl=False)
        return
    from taemi_export.tables import print_artefact

    print_artefact(artefact)


@app.command()
def tensorrt(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    library: Annotated[
        str, typer.Option(metavar="NAME", help="tensorrt, or rtx: TensorRT for RTX, which needs no GPU")
    ] = "tensorrt",
    precision: Annotated[str, typer.Option(metavar="NAME", help="fp16 or fp32")] = "fp16",
    target: Annotated[
        str,
        typer.Option(metavar="GPU", help="current, ampere-plus, a compute capability (sm80) or a GPU (a100)"),
    ] = "current",
    shapes: Annotated[
        list[str] | None,
        typer.Option(metavar="GRAPH.INPUT=MIN:OPT:MAX", help="range of an input's axes; may be repeated"),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="range of every first axis; default: 1:8:32")
    ] = None,
    graph: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="only this graph; may be repeated")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="let float32 products be rounded to TF32")] = False,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="most scratch memory of a plan; default: no limit")
    ] = None,
    timing_cache: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="measured kernels, or none; default: in the user's cache folder"),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Build TensorRT plans of a bundle's graphs, for this machine's GPU or, with rtx, for a named one."""
    del debug
    from taemi_export.plans.build import PlanRequest, build_plans

    step = Step("tensorrt")
    request = PlanRequest(
        library,
        precision,
        target,
        batch,
        tuple(shapes or ()),
        tuple(graph or ()),
        tf32,
        None if workspace is None else workspace << 20,
        timing_cache,
    )
    lines: list[str] = []
    try:
        with progress(quiet=quiet) as tick:
            plans = build_plans(bundle, request, tick=tick, say=lines.append)
    finally:
        for line in lines:
            say(line, quiet=quiet)
    count = f"{len(plans)} plan{'s' * (len(plans) != 1)}, built and never executed"
    say(step.done(bundle, count), quiet=quiet)


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    graph: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="only this graph; may be repeated")
    ] = None,
    weight_bits: Annotated[
        str,
        typer.Option(
            metavar="N", help="auto, 8, or 7: exact on processors without integer dot products, too"
        ),
    ] = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="time PyTorch with this checkpoint, too")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace int8 graphs that are there")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Add int8 graphs for CPUs to a bundle, accepted by what they do to the scores."""
    del debug
    from taemi_export.quantize import QuantizeRequest, parse_bits, quantize_bundle
    from taemi_export.quantize_table import print_quantized

    step = Step("quantize")
    request = QuantizeRequest(tuple(graph or ()), force, parse_bits(weight_bits), checkpoint)
    lines: list[str] = []
    try:
        with progress(quiet=quiet) as tick:
            done = quantize_bundle(bundle, request, tick=tick, say=lines.append)
    finally:
        for line in lines:
            say(line, quiet=quiet)
    print_quantized(bundle, done)
    say(step.done(bundle, f"{len(done.graphs)} of {len(done.graphs) + len(done.left)} graphs"), quiet=quiet)
    say(f"next: taemi-infer clip.mp4 --engine {bundle / done.graphs[0].file}", quiet=quiet)


@app.command()
def triton(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    out: Annotated[Path, typer.Argument(help="the repository's folder")],
    name: Annotated[str | None, typer.Option(help="what the models are called; default: the family")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="serve this file; may be repeated; default: fp32 ONNX and the plan"
        ),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(metavar="N", help="largest batch")] = None,
    preferred: Annotated[
        list[int] | None, typer.Option(metavar="N", help="a batch to send at once; may be repeated")
    ] = None,
    queue_us: Annotated[
        int, typer.Option(metavar="US", help="how long a request may wait for others, in microseconds")
    ] = 1000,
    instances: Annotated[int, typer.Option(metavar="N", help="copies of each model on a device")] = 1,
    device: Annotated[str, typer.Option(metavar="DEV", help="auto, cpu, cuda or cuda:N")] = "auto",
    threads: Annotated[int, typer.Option(metavar="N", help="threads of an ONNX model's instance")] = 0,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="capture CUDA graphs at the shapes a plan is tuned for")
    ] = False,
    link: Annotated[bool, typer.Option("--link", help="hard links to the bundle instead of copies")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing repository")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a Triton Inference Server model repository for the graph that gives the scores."""
    del debug
    from taemi_export.triton import export_triton
    from taemi_export.triton_config import Serving

    step = Step("triton")
    serving = Serving(
        max_batch, tuple(preferred or ()), queue_us, instances, device, threads, cuda_graphs=cuda_graphs
    )
    lines: list[str] = []
    export_triton(
        bundle,
        out,
        name=name,
        engines=tuple(engine or ()),
        serving=serving,
        link=link,
        force=force,
        say=lines.append,
    )
    for line in lines:
        say(line, quiet=quiet)
    say(step.done(out), quiet=quiet)
    say(f"next: start the server as {out / 'README.md'} says", quiet=quiet)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
