"""What the runs of an ablation come to: means, spreads, and differences to the full model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from taemi.ablation.protocol import Protocol
from taemi.ablation.rows import FULL, ROWS, Printed, Row
from taemi.ablation.runs import Failure, Result


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: The mean.
        spread: Sample standard deviation (n - 1 in the denominator); ``None`` of a single value.
        n: How many values.
    """

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class RowFigures:
    """What a row came to.

    Args:
        row: The row's name.
        variant: Its network.
        modalities: What it sees.
        state: ``finished``, ``failed`` where a run of it failed, or ``not run``.
        rho: Mean validation correlation over seeds; ``None`` without a finished run.
        difference: Of rho to the row ``full``, over the seeds that both have; ``None`` without one, and for
            ``full`` itself.
        rho_by_output: Mean over seeds of each output's correlation; empty without a finished run.
        trained_weights: How many weights were trained, encoders included.
        fusion_weights: How many of them are the fusion network's.
        printed: What the paper gives.
        runs: Each finished run.
        failures: Each failed run.
    """

    row: str
    variant: str
    modalities: tuple[str, ...]
    state: str
    rho: Estimate | None
    difference: Estimate | None
    rho_by_output: tuple[float, ...]
    trained_weights: int | None
    fusion_weights: int | None
    printed: tuple[Printed, ...]
    runs: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Report:
    """An ablation's table and how it was made.

    Args:
        corpus: The corpus folder's name.
        synthetic: Whether its clips are.
        outputs: Names of the outputs in order.
        protocol: What all runs share.
        rows: One entry a row of the paper's tables, run or not.
        seeds: The seeds of finished runs.
        versions: Versions of each package that computed a run.
        devices: Where runs were trained.
    """

    corpus: str
    synthetic: bool
    outputs: tuple[str, ...]
    protocol: Protocol
    rows: tuple[RowFigures, ...]
    seeds: tuple[int, ...] = ()
    versions: dict[str, list[str]] = field(default_factory=dict)
    devices: tuple[str, ...] = ()


def make_report(
    corpus: str,
    outputs: Sequence[str],
    protocol: Protocol,
    results: Sequence[Result],
    failures: Sequence[Failure],
) -> Report:
    """Sum up what is finished.

    Args:
        corpus: The corpus folder's name.
        outputs: Names of the outputs in order.
        protocol: What all runs share.
        results: Every finished run.
        failures: Every failed one.
    """
    full = {result.seed: result.rho for result in results if result.row == FULL}
    packages = sorted({package for result in results for package in result.versions})
    return Report(
        corpus=corpus,
        synthetic=bool(protocol.data["synthetic"]),
        outputs=tuple(outputs),
        protocol=protocol,
        rows=tuple(
            _figures(
                row,
                [result for result in results if result.row == row.name],
                [failure for failure in failures if failure.row == row.name],
                full,
            )
            for row in ROWS.values()
        ),
        seeds=tuple(sorted({result.seed for result in results})),
        versions={
            package: sorted({result.versions[package] for result in results if package in result.versions})
            for package in packages
        },
        devices=tuple(sorted({result.device for result in results})),
    )


def _figures(row: Row, runs: list[Result], failures: list[Failure], full: dict[int, float]) -> RowFigures:
    differences = [run.rho - full[run.seed] for run in runs if run.seed in full]
    state = "failed" if failures else "finished" if runs else "not run"
    return RowFigures(
        row=row.name,
        variant=row.variant,
        modalities=row.modalities,
        state=state,
        rho=_estimate([run.rho for run in runs]),
        difference=_estimate(differences) if row.name != FULL else None,
        rho_by_output=tuple(np.mean([run.rho_by_output for run in runs], axis=0).tolist()) if runs else (),
        trained_weights=runs[0].trained_weights if runs else None,
        fusion_weights=runs[0].fusion_weights if runs else None,
        printed=row.printed,
        runs=tuple(runs),
        failures=tuple(failures),
    )


def _estimate(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), spread, len(values))
