"""What every measurement of a run is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taemi_bench.rows import RowChoice
from taemi_runtime.bundle import Bundle
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

SEED = 20
"""Seed of every drawn input."""


@dataclass(frozen=True)
class Setting:
    """A bundle, its checkpoint, and where both run.

    Args:
        bundle: The bundle.
        source: The checkpoint that it was made from, opened; ``None`` where there is none.
        note: Why there is no ``source``.
        devices: The devices that get rows.
        threads: Threads of every row on the CPU.
        choice: Which rows are measured.
    """

    bundle: Bundle
    source: ExportSource | None
    note: str
    devices: Sequence[str]
    threads: int
    choice: RowChoice = field(default_factory=RowChoice)

    @property
    def first(self) -> GraphSpec:
        """The model's first graph, which gives its scores."""
        return next(iter(self.bundle.manifest.graphs.values()))
