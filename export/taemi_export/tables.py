"""Tables for the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from taemi_export.chain import chain_failures
from taemi_export.inspection import Artefact, format_parity
from taemi_export.method import explain
from taemi_export.report import ChainResult, EngineResult, OutputResult, VerifyReport
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
    for name in ("engine", "output", "max |difference|", "mean", "cosine", "rho", "NaN", "worst case", ""):
        table.add_column(name, overflow="fold")
    for engine in report.engines:
        for item in engine.outputs:
            gate = engine.gate or Gate()
            scale = item.worst.scale if gate.relative else 1.0
            table.add_row(
                escape(engine.file),
                escape(f"{engine.graph}.{item.output}"),
                f"{item.max_abs:.2e}{_allowed(gate.max_abs, scale)}",
                f"{item.mean_abs:.2e}{_allowed(gate.mean_abs, scale)}",
                f"{item.min_cosine:.6f}{_allowed(gate.min_cosine)}",
                "constant" if item.min_rho is None else f"{item.min_rho:.6f}{_allowed(gate.min_rho)}",
                str(item.nans),
                escape(item.worst.case.name),
                "ok" if item.passed else "[bold red]FAILED",
            )
        if not engine.outputs:
            verdict = "[bold red]FAILED" if engine.errors else "[yellow]built, not run"
            table.add_row(escape(engine.file), escape(engine.graph), *[""] * 5, "not run", verdict)
    console.print(table)
    for chain in report.chains:
        console.print(_chain_table(chain))
    for engine in report.engines:
        console.print(escape(compared(engine)), soft_wrap=True)
    for chain in report.chains:
        console.print(escape(_chained(chain)), soft_wrap=True)
    measured = [(engine, item) for engine in report.engines for item in engine.outputs]
    if measured:
        engine, item = max(measured, key=lambda pair: _severity(*pair))
        console.print(
            escape(
                f"worst case: {engine.file}, {engine.graph}.{item.output} in case {item.worst.case.name}: "
                f"max |difference| {item.worst.max_abs:.2e}, allowed {_limit(engine.gate, item.worst.scale)}"
            ),
            soft_wrap=True,
        )


def _allowed(limit: float | None, scale: float = 1.0) -> str:
    if limit is None:
        return ""
    return f" (allowed {limit:g}{f' x {scale:.3g}' if scale > 1 else ''})"


def _limit(gate: Gate | None, scale: float) -> str:
    if gate is None or gate.max_abs is None:
        return "by no limit of its own"
    return f"{gate.max_abs * (scale if gate.relative else 1.0):g}"


def _severity(engine: EngineResult, item: OutputResult) -> tuple[bool, float]:
    """Order results by how much of its gate each uses up."""
    gate = engine.gate or Gate()
    scale = item.worst.scale if gate.relative else 1.0
    used = [
        value / (limit * scale)
        for value, limit in ((item.max_abs, gate.max_abs), (item.mean_abs, gate.mean_abs))
        if limit
    ]
    if gate.min_cosine is not None and gate.min_cosine < 1:
        used.append((1 - item.min_cosine) / (1 - gate.min_cosine))
    return not item.passed, max(used, default=0.0)


def compared(engine: EngineResult) -> str:
    """Say what exactly was compared for one engine."""
    if not engine.outputs:
        if engine.errors:
            return f"{engine.file}: not run, because its file is not what the manifest says"
        return f"{engine.file} ({engine.precision}): {explain('not run')}"
    weights = (
        f"the digests of all {engine.weights} constant tensors with those at export, and "
        if engine.weights
        else ""
    )
    padding = [item.padding for item in engine.outputs if item.padding is not None]
    notes = f"; a padded row and the same row alone differ by {max(padding):.1e}" if padding else ""
    if not engine.weights:
        notes += "; its weights were not compared, which only float32 ONNX graphs hold unchanged"
    if engine.refused:
        notes += f"; outside its profiles: {', '.join(engine.refused)}"
    if engine.method != "executed":
        notes += f"; {explain(engine.method)}"
    if not engine.trained:
        notes += f"; {UNTRAINED}"
    return (
        f"{engine.file} ({engine.precision}) on {engine.backend}, {engine.device}: compared {weights}"
        f"{len(engine.outputs)} output{'s' if len(engine.outputs) > 1 else ''} in {engine.cases} cases "
        f"of seeded inputs, with NaN, Inf and 3e38 wherever the graph promises not to look{notes}"
    )


UNTRAINED = "random weights, which lack the outlier activations of trained ones"


def _chain_table(chain: ChainResult) -> Table:
    table = Table(title=f"scores of the whole chain, {chain.precision} against fp32")
    for name in ("present", "rows", "mean |difference|", "max", "rho", ""):
        table.add_column(name, overflow="fold")
    for item in chain.combinations:
        flags = " ".join("yes" if flag else "no" for flag in item.present) or "all"
        table.add_row(
            flags,
            str(item.rows),
            f"{item.mean_abs:.2e}{_allowed(chain.gate.mean_abs)}",
            f"{item.max_abs:.2e}{_allowed(chain.gate.max_abs)}",
            "constant" if item.rho is None else f"{item.rho:.5f}{_allowed(chain.gate.min_rho)}",
            "[bold red]FAILED" if chain_failures(chain.gate, (item,)) else "ok",
        )
    return table


def _chained(chain: ChainResult) -> str:
    sizes = "; ".join(
        f"{graph} {', '.join(f'{name} {length}' for name, length in lengths.items())}"
        for graph, lengths in chain.sizes.items()
        if lengths
    )
    note = "" if chain.trained else f"; {UNTRAINED}"
    return (
        f"whole chain with {', '.join(chain.files)}: {chain.worst.rows} seeded rows in each combination"
        + (f", short ones ({sizes})" if sizes else "")
        + note
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
