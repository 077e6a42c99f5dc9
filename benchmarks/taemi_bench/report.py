"""The report of a run: everything that was measured, as a versioned JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taemi_bench.machine import Machine, Noise
from taemi_bench.schedule import Schedule, Stop
from taemi_bench.stats import Latency, Ratio
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError
from taemi_runtime.strict import from_plain, to_json

SCHEMA = 1
KIND: Literal["taemi-bench"] = "taemi-bench"
SCOPE = "one engine call; inputs and outputs in host memory, copies to and from a GPU included"

State = Literal["ran", "not run", "failed"]


@dataclass(frozen=True)
class RowReport:
    """One row of the table.

    Args:
        graph: The graph that one call computes.
        name: What the row is called.
        backend: ``pytorch`` or a registered backend's name.
        precision: ``fp32``, ``fp16`` or ``int8``.
        device: ``cpu`` or ``cuda:N``.
        state: ``failed`` is what should have run and did not, or gave numbers beyond its gate.
        why: Why it did not run, or what is wrong with it.
        file: The engine file; empty for PyTorch.
        versions: Versions of the libraries underneath.
        threads: Threads inside one call; 0 on a GPU.
        cold_ms: The first call, in none of the statistics.
        warmup_calls: How many calls warmed it up.
        calls_per_round: How many timed calls each round holds.
        latency_ms: Statistics and all samples of the warm calls.
        baseline: Name of the PyTorch row of the same device; empty for that row itself.
        times_faster: How many times faster than the baseline, round by round.
        output: The output that differs most from PyTorch's on the CPU.
        max_abs: Its largest absolute difference.
        mean_abs: Its mean absolute difference.
        cosine: Its cosine similarity.
        parity_note: Why there is no parity, or what is wrong with it.
    """

    graph: str
    name: str
    backend: str
    precision: str
    device: str
    state: State
    why: str = ""
    file: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    cold_ms: float | None = None
    warmup_calls: int = 0
    calls_per_round: int = 1
    latency_ms: Latency | None = None
    baseline: str = ""
    times_faster: Ratio | None = None
    output: str = ""
    max_abs: float | None = None
    mean_abs: float | None = None
    cosine: float | None = None
    parity_note: str = ""


@dataclass(frozen=True)
class GraphReport:
    """What all rows of one graph have in common.

    Args:
        graph: Its name.
        sizes: Length of every axis.
        seed: Seed of the inputs.
        inputs_sha256: Digest of the inputs.
        rounds: Finished rounds.
        seconds: How long they took.
        stopped: Why timing ended.
        noise: What else the machine did meanwhile.
    """

    graph: str
    sizes: dict[str, int]
    seed: int
    inputs_sha256: str
    rounds: int
    seconds: float
    stopped: Stop
    noise: Noise


@dataclass(frozen=True)
class Report:
    """A whole run.

    Args:
        bundle: The bundle's name.
        family: Its model family.
        trained: ``False``: the weights are random, and every output says ``untrained``.
        source: Name of the checkpoint that the bundle was made from; empty when unknown.
        device: The device that was asked for.
        threads: Threads that every row on the CPU was given.
        machine: The machine.
        schedule: How long it was measured.
        graphs: What the rows of each graph have in common.
        rows: Every row of every graph.
        created: UTC time in ISO 8601.
        scope: What one call includes.
        tf32: Whether CUDA matrix products could round to TF32.
        kind: Always ``taemi-bench``.
        schema: The schema version.
    """

    bundle: str
    family: str
    trained: bool
    source: str
    device: str
    threads: int
    machine: Machine
    schedule: Schedule
    graphs: tuple[GraphReport, ...]
    rows: tuple[RowReport, ...]
    created: str
    scope: str = SCOPE
    tf32: bool = False
    kind: Literal["taemi-bench"] = KIND
    schema: int = SCHEMA

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(graph.stopped == "interrupted" for graph in self.graphs)

    @property
    def failures(self) -> tuple[RowReport, ...]:
        """Rows that should have run and did not, or that gave wrong numbers."""
        return tuple(row for row in self.rows if row.state == "failed")


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_text(path, to_json(report))


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        DataError: The file is missing, no report, or of another schema.
    """
    asked = f"cannot read benchmark report {path}"
    again = "Measure again: taemi-bench run BUNDLE --json FILE"
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(asked, str(error), again) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise DataError(asked, f"its kind is not {KIND!r}", "Name a file that taemi-bench run wrote")
    if data.get("schema") != SCHEMA:
        raise DataError(asked, f"its schema is {data.get('schema')!r}, this taemi reads {SCHEMA}", again)
    try:
        return from_plain(data, Report)
    except ValueError as error:
        raise DataError(asked, f"it breaks schema {SCHEMA}: {error}", again) from error
