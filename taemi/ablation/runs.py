"""The runs of an ablation on disk: one folder for each row and seed, and what came of it.

A run is finished when its ``result.json`` is there, which is written last and atomically. One that failed
has ``failure.json`` instead, and is tried again by the next call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from taemi.ablation.rows import ROWS, Row
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError
from taemi_runtime.strict import from_plain, to_json

RUNS_NAME = "runs"
RESULT_NAME = "result.json"
FAILURE_NAME = "failure.json"


@dataclass(frozen=True)
class Result:
    """What a finished run came to.

    Args:
        row: The row's name.
        seed: Seed of the fusion network's weights, the order of clips, and dropout.
        rho: Mean validation correlation of the best epoch.
        rho_by_output: The correlation of each output in that epoch.
        best_epoch: Which one that was, from 1.
        epochs: How many there were.
        seconds: Wall time of the epochs.
        trained_weights: How many weights were trained, encoders included.
        fusion_weights: How many of them are the fusion network's.
        device: Where it was trained.
        versions: Of the packages that compute.
    """

    row: str
    seed: int
    rho: float
    rho_by_output: tuple[float, ...]
    best_epoch: int
    epochs: int
    seconds: float
    trained_weights: int
    fusion_weights: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """Why a run came to nothing.

    Args:
        row: The row's name.
        seed: The run's seed.
        reason: In one line.
        traceback: Where it happened.
    """

    row: str
    seed: int
    reason: str
    traceback: str


Outcome = TypeVar("Outcome", Result, Failure)


def run_folder(out: Path, row: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / RUNS_NAME / row / f"seed-{seed}"


def record(out: Path, outcome: Result | Failure) -> None:
    """Write what came of a run; a result takes the place of an earlier failure."""
    folder = run_folder(out, outcome.row, outcome.seed)
    name = RESULT_NAME if isinstance(outcome, Result) else FAILURE_NAME
    write_text(folder / name, to_json(outcome))
    if isinstance(outcome, Result):
        (folder / FAILURE_NAME).unlink(missing_ok=True)


def finished(out: Path, row: Row, seed: int) -> bool:
    """Say whether a run has its result."""
    return (run_folder(out, row.name, seed) / RESULT_NAME).exists()


def read_results(out: Path) -> list[Result]:
    """Return every finished run, row by row, seeds in order.

    Raises:
        DataError: A result is damaged.
    """
    return _read(out, RESULT_NAME, Result)


def read_failures(out: Path) -> list[Failure]:
    """Return every run that failed and was not finished since.

    Raises:
        DataError: A record is damaged.
    """
    done = {(result.row, result.seed) for result in read_results(out)}
    return [
        failure for failure in _read(out, FAILURE_NAME, Failure) if (failure.row, failure.seed) not in done
    ]


def _read(out: Path, name: str, kind: type[Outcome]) -> list[Outcome]:
    found = []
    for row in ROWS:
        for path in (out / RUNS_NAME / row).glob(f"seed-*/{name}"):
            try:
                outcome = from_plain(json.loads(path.read_text(encoding="utf-8")), kind)
            except (ValueError, OSError) as error:
                raise DataError(
                    f"cannot read {path}",
                    str(error),
                    f"Delete the run to train it again: rm -r {path.parent}",
                ) from error
            found.append(outcome)
    order = list(ROWS)
    return sorted(found, key=lambda outcome: (order.index(outcome.row), outcome.seed))
