"""What the rows of one scope share, and how rows grow along an axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from taemi_bench.machine import Noise
from taemi_bench.roofline import GraphCost
from taemi_bench.schedule import Stop
from taemi_bench.stats import Latency

ScopeKind = Literal["graph", "graph on the device", "features", "file"]
GRAPH_INCLUDES = "one engine call; inputs and outputs in host memory, copies to and from a GPU included"


@dataclass(frozen=True)
class ScopeReport:
    """What all rows of one scope have in common; rows of two scopes are never compared.

    Args:
        name: What it is called, e.g. the graph's name.
        kind: ``graph``: one engine call, from host memory to host memory; ``graph on the device``: the same
            without the copies; ``features``: from features to scores; ``file``: from a clip's file to scores.
        includes: What one call includes, in a sentence.
        sizes: Length of every axis; of a file's scope its facts, e.g. frames.
        seed: Seed of the inputs; 0 of a file's scope.
        inputs_sha256: Digest of the inputs, or of the file.
        rounds: Finished rounds.
        seconds: How long they took.
        stopped: Why timing ended.
        noise: What else the machine did meanwhile.
        cost: Operations and bytes counted from the graph; ``None`` where there is no one graph.
    """

    name: str
    kind: ScopeKind
    includes: str
    sizes: dict[str, int]
    seed: int
    inputs_sha256: str
    rounds: int
    seconds: float
    stopped: Stop
    noise: Noise
    cost: GraphCost | None = None


@dataclass(frozen=True)
class SweepRow:
    """One row at one point.

    Args:
        name: The row.
        latency_ms: Its calls; of concurrent callers, each caller's.
        items_per_second: Items (clips, frames) a second, over all callers.
        why: Why it did not run.
        rho: Mean correlation with labels (Pearson's, the challenge's), where labels are at hand.
    """

    name: str
    latency_ms: Latency | None = None
    items_per_second: float | None = None
    why: str = ""
    rho: float | None = None


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep; its rows are interleaved with each other.

    Args:
        label: What it is called, e.g. ``8`` or ``first input missing``.
        value: Where it stands on the axis; ``None`` when the axis has no order.
        sizes: Length of every axis.
        rows: Every row.
        stopped: Why timing ended.
        noise: What else the machine did meanwhile.
    """

    label: str
    value: float | None
    sizes: dict[str, int]
    rows: tuple[SweepRow, ...]
    stopped: Stop
    noise: Noise


@dataclass(frozen=True)
class SweepReport:
    """How rows grow along an axis.

    Args:
        scope: The scope that one call computes.
        axis: What changes: a symbol of the graph, ``presence``, ``callers`` or ``max_fps``.
        points: In rising order where there is one.
        why: Why it was not run.
        notes: What a reader should know.
    """

    scope: str
    axis: str
    points: tuple[SweepPoint, ...] = ()
    why: str = ""
    notes: dict[str, str] = field(default_factory=dict)
