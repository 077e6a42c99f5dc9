"""Tables for the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from taemi_export.inspection import Artefact, format_parity
from taemi_export.report import EngineResult, VerifyReport
from taemi_runtime.console import format_size
from taemi_runtime.spec import Gate

# A pipe or a file has no width: lines there are for grep, and cut columns are useless to it.
_PIPE_WIDTH = 200


def stdout_console() -> Console:
    """Return a console on stdout, wide when nobody looks."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def print_verification(report: VerifyReport) -> None:
    """Print what was compared and what came out."""
    console = stdout_console()
    table = Table(title=f"{escape(str(report.bundle))} against PyTorch {report.tools.get('torch', '?')}")
    for name in ("engine", "output", "max |difference|", "mean |difference|", "cosine", "worst case", ""):
        table.add_column(name, overflow="fold")
    for engine in report.engines:
        for item in engine.outputs:
            gate = engine.gate or Gate(0.0, 0.0, 1.0)
            table.add_row(
                escape(engine.file),
                escape(f"{engine.graph}.{item.output}"),
                f"{item.max_abs:.2e} (allowed {gate.max_abs:g})",
                f"{item.mean_abs:.2e} (allowed {gate.mean_abs:g})",
                f"{item.min_cosine:.6f} (allowed {gate.min_cosine:g})",
                escape(item.worst.case.name),
                "ok" if item.passed else "[bold red]FAILED",
            )
        if not engine.outputs:
            table.add_row(
                escape(engine.file), escape(engine.graph), "", "", "", "not run", "[bold red]FAILED"
            )
    console.print(table)
    for engine in report.engines:
        console.print(escape(compared(engine)), soft_wrap=True)


def compared(engine: EngineResult) -> str:
    """Say what exactly was compared for one engine."""
    if not engine.outputs:
        return f"{engine.file}: not run, because its file is not what the manifest says"
    weights = (
        f"the digests of all {engine.weights} constant tensors with those at export, "
        if engine.weights
        else "its weights were not compared (only float32 ONNX graphs hold them unchanged), "
    )
    return (
        f"{engine.file} ({engine.precision}) on {engine.backend}, {engine.device}: compared {weights}"
        f"and {len(engine.outputs)} output{'s' if len(engine.outputs) > 1 else ''} in {engine.cases} cases "
        "of seeded inputs, with NaN, Inf and 3e38 wherever the graph promises not to look"
    )


def print_artefact(artefact: Artefact) -> None:
    """Print what an artefact is."""
    console = stdout_console()
    table = Table(title=f"{artefact.kind} {escape(artefact.path)}", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in artefact.facts.items():
        table.add_row(escape(label), escape(value))
    console.print(table)
    tensors = Table()
    for name in ("graph", "", "name", "type", "shape", ""):
        tensors.add_column(name, overflow="fold")
    for row in artefact.tensors:
        tensors.add_row(*map(escape, (row.graph, row.way, row.name, row.dtype, row.shape, row.note)))
    console.print(tensors)
    if artefact.files:
        files = Table()
        for name in ("file", "graph", "precision", "size", "sha256", "state", "parity"):
            files.add_column(name, overflow="fold")
        for file in artefact.files:
            parity = format_parity(file.parity) if file.graph else ""
            cells = (file.name, file.graph, file.precision, format_size(file.size), file.sha256[:16])
            files.add_row(*map(escape, (*cells, file.state, parity)))
        console.print(files)
