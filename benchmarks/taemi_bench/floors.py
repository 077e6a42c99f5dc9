"""How far rows are from what the machine can do, and where to look.

A node's floor is the longer of its arithmetic at the ceiling of its precision and its bytes at the
bandwidth; a graph's floor is the sum over its nodes, as they are computed one after the other. Rules:

* Products count at the ceiling of their element type, or at float32's where that was measured to be higher
  (or alone): an engine may compute in float32 what is stored in less. Other operations count as so many
  multiply-adds of float32.
* What one node hands to the next is in the caches where a node's inputs and outputs fit into the last one;
  then they count at the bandwidth measured there. Weights do so, too, where all that a call reads of them
  fits together with the largest node's values, for they then stay from one call to the next.
* Nothing is fused. A row that fuses passes over memory can therefore end below its floor, as can one that
  was timed in a quieter moment than the ceilings: such a share is printed as it is, with a remark.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from taemi_bench.counting import CountedGraph, NodeCost, count_file
from taemi_bench.profiles import Profile, row_key
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import Floor, RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.scope_report import ScopeReport
from taemi_bench.stats import Latency
from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError

Bound = Literal["compute", "memory"]
_FULL = "fp32"
_NAMED_SHARE = 0.05
"""Operators below this share of a floor are not named."""
_MOST_NAMED = 3
_FLOATS = {"fp16": "float16", "bf16": "bfloat16"}
_GRAPH_SCOPES = ("graph", "graph on the device")


@dataclass(frozen=True)
class NodeFloor:
    """The least time of one node.

    Args:
        node: The node.
        ms: Milliseconds.
        bound: What takes that long.
    """

    node: NodeCost
    ms: float
    bound: Bound


def node_floors(
    nodes: Iterable[NodeCost], ceilings: Ceilings, *, weights_cached: bool
) -> tuple[NodeFloor, ...]:
    """Return the floor of every node.

    Args:
        nodes: The nodes.
        ceilings: What the device can do.
        weights_cached: Whether weights are in the caches when a call begins.
    """
    memory = ceilings.bytes_per_second
    cached = max(memory, ceilings.cached_bytes_per_second or memory)
    found = []
    for node in nodes:
        rate = ceilings.product_rate(node.precision)
        full = ceilings.multiply_adds_per_second.get(_FULL) or rate
        compute = node.multiply_adds / rate + node.other_operations / full if rate else 0.0
        values = node.input_bytes + node.output_bytes
        moved = values / (cached if values <= ceilings.cache_bytes else memory)
        moved += node.weight_bytes / (cached if weights_cached else memory)
        found.append(NodeFloor(node, max(compute, moved) * 1e3, "compute" if compute >= moved else "memory"))
    return tuple(found)


def weights_stay_cached(graph: CountedGraph, ceilings: Ceilings) -> bool:
    """Return whether what a call reads fits into the caches, so that the next call finds it there."""
    largest = max((node.input_bytes + node.output_bytes for node in graph.nodes), default=0)
    return graph.read_weight_bytes + largest <= ceilings.cache_bytes


def graph_floor(
    graph: CountedGraph, ceilings: Ceilings, p50_ms: float, profile: Profile | None = None
) -> Floor:
    """Return a row's floor.

    Args:
        graph: What it computes, counted.
        ceilings: What its device can do.
        p50_ms: The row's median.
        profile: Where its time goes, if that was looked at.
    """
    cached = weights_stay_cached(graph, ceilings)
    floors = node_floors(graph.nodes, ceilings, weights_cached=cached)
    total = sum(floor.ms for floor in floors)
    share = total / p50_ms if p50_ms else 0.0
    remarks = [_where(floors, total)]
    remarks.append(_look_next(floors, profile))
    if share > 1:
        remarks.append(
            "it is faster than its floor: it fuses what is counted apart, or the machine was busier "
            "while its ceilings were measured"
        )
    if cached:
        remarks.append("its weights stay in the caches")
    missing = sorted({node.precision for node in graph.nodes} - set(ceilings.multiply_adds_per_second) - {""})
    if missing:
        remarks.append(f"no ceiling of {', '.join(missing)} was measured: float32's is used")
    if graph.cost.note:
        remarks.append(graph.cost.note)
    return Floor(total, share, "; ".join(remark for remark in remarks if remark))


def with_floors(
    report: Report, bundle: Bundle, ceilings: Mapping[str, Ceilings], profiles: Mapping[str, Profile]
) -> Report:
    """Add to a report what its graphs cost and how far its rows are from their floors.

    Args:
        report: The report.
        bundle: The bundle that was measured.
        ceilings: What each device can do, by its name.
        profiles: Where the time of rows goes, by ``profiles.row_key``.

    Returns:
        The report with ``ScopeReport.cost`` where a scope is one graph of which there is an ONNX file, and
        ``RowReport.floor`` of every row of such a scope that ran on a device with ceilings.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    counted: dict[tuple[str, str, str], CountedGraph | None] = {}

    def count(file: str, scope: ScopeReport, floats: str = "float32") -> CountedGraph | None:
        key = (file, str(sorted(scope.sizes.items())), floats)
        if key not in counted:
            try:
                counted[key] = count_file(bundle.file(file), scope.sizes, floats=floats)
            except BundleError:  # a damaged file: its row has failed already and says so
                counted[key] = None
        return counted[key]

    scopes = {}
    for scope in report.scopes:
        file = _graph_file(bundle, scope, _FULL)
        graph = count(file, scope) if file else None
        scopes[scope.name] = replace(scope, cost=graph.cost) if graph else scope
    rows = []
    for row in report.rows:
        scope, limits = scopes[row.scope], ceilings.get(row.device)
        file = _counted_file(bundle, scope, row)
        if not file or limits is None or row.latency_ms is None or row.state != "ran":
            rows.append(row)
            continue
        holds = bundle.manifest.files[file].precision or _FULL
        floats = _FLOATS.get(row.precision, "float32") if holds == _FULL else "float32"
        graph = count(file, scope, floats)
        if graph is not None:
            floor = graph_floor(graph, limits, median_ms(row.latency_ms), profiles.get(row_key(row)))
        rows.append(row if graph is None else replace(row, floor=floor))
    return replace(report, scopes=tuple(scopes.values()), rows=tuple(rows), ceilings=dict(ceilings))


def median_ms(latency: Latency) -> float:
    """Return the median of however few samples there are."""
    return statistics.median(latency.values)


def largest_gaps(report: Report) -> list[tuple[RowReport, float]]:
    """Return the engines' rows by how many milliseconds they take beyond their floor, the largest first.

    PyTorch's rows, which the engines are compared with, are not among them.
    """
    gaps = [
        (row, median_ms(row.latency_ms) - row.floor.floor_ms)
        for row in report.rows
        if row.floor is not None and row.latency_ms is not None and row.backend != PYTORCH
    ]
    return sorted(gaps, key=lambda item: -item[1])


def describe_gaps(report: Report, most: int = 10) -> list[str]:
    """Return a line for each of the largest gaps: how large, and which operator to look at."""
    return [
        f"{row.scope}, {row.name}: {gap:.2f} ms above its floor of {row.floor.floor_ms:.2f} ms "
        f"({row.floor.share:.0%} of what the machine can do); {row.floor.note}"
        for row, gap in largest_gaps(report)[:most]
        if row.floor is not None
    ]


def _counted_file(bundle: Bundle, scope: ScopeReport, row: RowReport) -> str:
    """Return the ONNX file that says what a row computes: its own, or for others the graph's."""
    if row.file.endswith(".onnx") and scope.kind in _GRAPH_SCOPES:
        return row.file
    return _graph_file(bundle, scope, row.precision) or _graph_file(bundle, scope, _FULL)


def _graph_file(bundle: Bundle, scope: ScopeReport, precision: str) -> str:
    """Return a scope's ONNX file of a precision; empty where it has none or is no single graph."""
    if scope.kind not in _GRAPH_SCOPES:
        return ""
    for file, entry in bundle.manifest.files.items():
        of_graph = file.endswith(".onnx") and entry.graph in bundle.manifest.graphs
        if of_graph and _is_of(scope.name, entry.graph or "") and (entry.precision or _FULL) == precision:
            return file
    return ""


def _is_of(scope: str, graph: str) -> bool:
    """Return whether a scope is of a graph: it is called like it, alone or followed by more words."""
    return scope == graph or scope.startswith((f"{graph} ", f"{graph},"))


def _where(floors: Iterable[NodeFloor], total: float) -> str:
    """Say which operators a floor consists of."""
    sums: dict[tuple[str, Bound], float] = {}
    for floor in floors:
        key = (floor.node.operator, floor.bound)
        sums[key] = sums.get(key, 0.0) + floor.ms
    ranked = sorted(sums.items(), key=lambda item: -item[1])
    named = [
        f"{ms / total:.0%} {'of the floor is ' if not place else ''}{operator} ({bound}-bound)"
        for place, ((operator, bound), ms) in enumerate(ranked[:_MOST_NAMED])
        if total and (not place or ms / total >= _NAMED_SHARE)
    ]
    return ", ".join(named)


def _look_next(floors: Iterable[NodeFloor], profile: Profile | None) -> str:
    """Say which operator to look at next: the one that is farthest above its own floor."""
    if profile is None:
        return ""
    gaps: dict[str, list[float]] = {}
    for node in profile.nodes:
        if node.floor_ms is not None:
            spent = gaps.setdefault(node.operator, [0.0, 0.0])
            spent[0] += node.ms
            spent[1] += node.floor_ms
    if not gaps:
        return ""
    operator, (ms, least) = max(gaps.items(), key=lambda item: item[1][0] - item[1][1])
    return f"look next at {operator}: {ms:.2f} ms of the call, {least:.2f} ms at the ceilings"
