"""Every row of one graph of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taemi_bench.engine_rows import engine_ways, lacking_ways
from taemi_bench.openvino_row import openvino_ways
from taemi_bench.pytorch_rows import pytorch_ways
from taemi_bench.rows import Way, distinct
from taemi_runtime.bundle import Bundle
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Arrays

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph


def graph_ways(
    bundle: Bundle,
    graph: str,
    inputs: Arrays,
    source: ExportGraph | None,
    source_note: str,
    *,
    threads: int,
    devices: Sequence[str],
) -> list[Way]:
    """Return the rows of a graph, none of them open, each under a name of its own.

    Args:
        bundle: The bundle.
        graph: The graph.
        inputs: The call's inputs.
        source: The checkpoint's graph; ``None`` when there is none.
        source_note: Why there is none.
        threads: Threads inside one call on the CPU.
        devices: ``cpu``, ``cuda`` or ``cuda:N``, one or several.
    """
    spec = bundle.manifest.graphs[graph]
    ways: list[Way] = []
    for device in devices:
        ways += pytorch_ways(source, spec, inputs, device, threads, source_note)
        ways += engine_ways(bundle, graph, inputs, device, threads)
        ways += lacking_ways(bundle, graph, device)
        if parse_device(device)[0] == "cpu":
            ways += openvino_ways(bundle, graph, inputs, threads)
    return distinct(ways)
