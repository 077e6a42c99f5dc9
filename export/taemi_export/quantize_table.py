"""What ``taemi-export quantize`` prints: size and speed, and beside them what they cost."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from taemi_export.quantize import Quantized, QuantizedGraph
from taemi_export.tables import stdout_console
from taemi_runtime.console import format_size


def print_quantized(bundle: Path, done: Quantized) -> None:
    """Print one row for each graph, and what all of them do to the scores."""
    console = stdout_console()
    table = Table(title=f"{escape(str(bundle))}: int8 on this CPU, weights of {done.bits} bits")
    others = list(dict.fromkeys(label for graph in done.graphs for label in graph.speed.ratio))
    columns = ("graph", "call", "size", *(f"{label} ms" for label in others), "int8 ms")
    for name in (*columns, *(f"times {label}" for label in others), "cosine", "mean", "max"):
        table.add_column(name, overflow="fold")
    for graph in done.graphs:
        table.add_row(*_row(graph, others))
    console.print(table)
    chain = done.chain
    worst = chain.worst
    rho = min((item.rho for item in chain.combinations if item.rho is not None), default=None)
    console.print(
        escape(
            f"whole chain ({', '.join(chain.files)}): scores differ from fp32 by {worst.mean_abs:.2e} on "
            f"average in the worst of {len(chain.combinations)} presence combinations of {worst.rows} rows"
            f" (allowed {chain.gate.mean_abs:g})"
            + (f", rho at least {rho:.5f} (allowed {chain.gate.min_rho:g})" if rho is not None else "")
            + ("" if chain.trained else "; some weights are random")
        ),
        soft_wrap=True,
    )


def _row(graph: QuantizedGraph, others: list[str]) -> list[str]:
    outputs = graph.result.outputs
    speed = graph.speed
    return [
        escape(graph.file),
        ", ".join(f"{symbol} {length}" for symbol, length in speed.sizes.items()),
        f"{format_size(graph.source_bytes)} to {format_size(graph.bytes)}",
        *(f"{speed.median_ms[label]:.1f}" for label in others),
        f"{speed.median_ms['int8']:.1f}",
        *(f"{speed.ratio[label]:.2f}" for label in others),
        f"{min(item.min_cosine for item in outputs):.5f}",
        f"{max(item.mean_abs for item in outputs):.2e}",
        f"{max(item.max_abs for item in outputs):.2e}",
    ]
