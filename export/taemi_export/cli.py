"""``taemi-export``: onnx, verify, inspect."""

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
    source = open_source(ckpt)
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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare engines with PyTorch's reference outputs; exit 1 when one is beyond its gate."""
    del debug
    from taemi_export.tables import print_verification
    from taemi_export.verify import verify_bundle
    from taemi_runtime.engine import EngineOptions

    step = Step("verify")
    with progress(quiet=quiet) as tick:
        report = verify_bundle(bundle, engine, EngineOptions(device=device), tick)
    print_verification(report)
    first, *others = report.all_errors or (None,)
    for error in others:
        say(f"error: {error}")
    if first is not None:
        raise first
    say(step.done(bundle, "everything holds"), quiet=quiet)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="a bundle, an ONNX file or a checkpoint")],
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


def main() -> None:
    """Run the command line."""
    run_app(app)
