"""What is measured: which graphs, at which lengths, on which devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import DeviceError, UsageError
from taemi_runtime.host import cuda_driver, parse_device
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph, ExportSource


def choose_graphs(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    """Return the names of the graphs to measure, in the bundle's order.

    Args:
        bundle: The bundle; a graph without an engine file has nothing to measure.
        asked: Names; all when empty.

    Raises:
        UsageError: A name is unknown, or there is nothing to measure.
    """
    known = [name for name in bundle.manifest.graphs if bundle.engine_files(name)]
    unknown = [name for name in asked if name not in known]
    if unknown or not known:
        raise UsageError(
            f"cannot measure {', '.join(unknown) or 'anything'} of {bundle.folder}",
            f"the bundle has engines for {', '.join(known) or 'no graph'}",
            "Name one of its graphs with --graph" if known else "Export it again: taemi-export onnx CKPT",
        )
    return [name for name in known if name in asked or not asked]


def choose_sizes(specs: Mapping[str, GraphSpec], asked: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Hand every asked length to the graphs that have such an axis.

    Args:
        specs: The graphs by name.
        asked: Lengths by ``SYMBOL`` or ``GRAPH.SYMBOL``.

    Returns:
        For each graph the chosen lengths of its free symbols.

    Raises:
        UsageError: No graph has such a free axis.
        InputError: A length is out of range.
    """
    chosen: dict[str, dict[str, int]] = {name: {} for name in specs}
    free = {name: {symbol.name for symbol in spec.free_symbols} for name, spec in specs.items()}
    for key, length in asked.items():
        graph, dot, symbol = key.rpartition(".")
        takers = [name for name in specs if symbol in free[name] and (not dot or name == graph)]
        if not takers:
            axes = ", ".join(f"{name}.{symbol}" for name in specs for symbol in sorted(free[name]))
            raise UsageError(
                f"cannot set size {key}", "no graph has such a free axis", f"Choose from: {axes}"
            )
        for name in takers:
            chosen[name][symbol] = length
    for name, spec in specs.items():
        spec.sizes(chosen[name])
    return chosen


def choose_devices(device: str) -> list[str]:
    """Return the devices that get rows; ``auto`` is the CPU and the first CUDA device.

    Raises:
        DeviceError: CUDA was asked for by name and there is none.
    """
    kind, _ = parse_device(device)
    if kind == "auto":
        return ["cpu", "cuda:0"]
    if kind == "cuda" and (why := cuda_driver().why):
        raise DeviceError(f"cannot measure on {device}", why, "Measure on the CPU: --device cpu")
    return [device]


def graph_source(source: ExportSource | None, name: str, note: str) -> tuple[ExportGraph | None, str]:
    """Return the checkpoint's graph called ``name``, or why there is none.

    Args:
        source: The opened checkpoint.
        name: The graph.
        note: Why there is no ``source``.
    """
    if source is None:
        return None, note
    for graph in source.graphs:
        if graph.spec.name == name:
            return graph, ""
    return None, f"the checkpoint has no graph {name!r}"
