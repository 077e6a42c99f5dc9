"""The report of a run: everything that was measured, as a versioned JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from taemi_bench.machine import Machine
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import RowReport
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import ScopeReport, SweepReport
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError
from taemi_runtime.strict import from_plain, to_json

SCHEMA = 2
KIND: Literal["taemi-bench"] = "taemi-bench"


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
        scopes: What the rows of each scope have in common.
        rows: Every row of every scope.
        created: UTC time in ISO 8601.
        sweeps: How rows grow along an axis; each is measured apart from ``rows``.
        ceilings: What each device with rows can do at most, by its name; empty where nobody measured it.
        cut: Whether Ctrl-C ended it between two measurements, or in a sweep.
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
    scopes: tuple[ScopeReport, ...]
    rows: tuple[RowReport, ...]
    created: str
    sweeps: tuple[SweepReport, ...] = ()
    ceilings: dict[str, Ceilings] = field(default_factory=dict)
    cut: bool = False
    tf32: bool = False
    kind: Literal["taemi-bench"] = KIND
    schema: int = SCHEMA

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.cut or any(scope.stopped == "interrupted" for scope in self.scopes)

    @property
    def failures(self) -> tuple[RowReport, ...]:
        """Rows that should have run and did not, or that gave wrong numbers."""
        return tuple(row for row in self.rows if row.state == "failed")


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_text(path, to_json(report))


def read_report(path: Path) -> Report:
    """Read a report, also one with the ceilings of one device alone, as reports had them at first.

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
    _name_ceilings(data)
    try:
        return from_plain(data, Report)
    except ValueError as error:
        raise DataError(asked, f"it breaks schema {SCHEMA}: {error}", again) from error


def _name_ceilings(data: dict[str, Any]) -> None:
    """Put ceilings that stand for themselves under their device's name; ``None`` was none at all."""
    ceilings = data.get("ceilings", {})
    if ceilings is None:
        data["ceilings"] = {}
    elif isinstance(ceilings, dict) and isinstance(ceilings.get("device"), str):
        data["ceilings"] = {ceilings["device"]: ceilings}
