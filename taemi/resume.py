"""Going on with a run that was cut off: what is kept in ``last.pt``, and how it is taken up.

All that the next step depends on is kept as tensors and plain values: weights, optimiser, loss scale, the
place in the epoch, and the random generators of every process. At the same number of threads a run on a CPU
that is taken up ends with the same bits as one that was never cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from taemi.checkpoint import Progress, save_checkpoint
from taemi.corpus import ClipRow
from taemi.exportable import read_checkpoint
from taemi.processes import Processes
from taemi.random_state import random_state, restore_random_state
from taemi.recipe import FREE_TO_CHANGE, Recipe
from taemi.reports import EpochReport
from taemi.stepper import Stepper
from taemi.system import TaemiSystem
from taemi_runtime.errors import CheckpointError
from taemi_runtime.strict import from_plain, to_plain


@dataclass
class Place:
    """Where a run stands.

    Args:
        best: The record of the best epoch so far.
        epoch: The epoch that is going on, from 1.
        steps: Its steps that are done.
        loss: Sum of the clips' losses in it, as far as this process has seen them.
        clips: How many clips these were.
        since_best: Epochs since the best one.
        history: A report for each epoch that is done.
    """

    best: Progress
    epoch: int = 1
    steps: int = 0
    loss: float = 0.0
    clips: int = 0
    since_best: int = 0
    history: list[EpochReport] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What makes a run the same run.

    Args:
        recipe: How it trains.
        data: Digest of its clips, see ``data_digest``.
        processes: How many processes share its steps.
    """

    recipe: Recipe
    data: str
    processes: int


def data_digest(*splits: Sequence[ClipRow]) -> str:
    """Return a digest of the clips of some splits in their order: names, labels, words."""
    sha = hashlib.sha256()
    for rows in splits:
        for row in rows:
            sha.update(repr((row.name, row.labels, row.transcript)).encode())
        sha.update(b"\0")
    return sha.hexdigest()


def save_place(path: Path, stepper: Stepper, place: Place, run: Run, processes: Processes) -> None:
    """Write a checkpoint from which the run can go on; all processes have to call it.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    # What each process has seen of the epoch; the first one has it all afterwards.
    seen = processes.gather((place.loss, place.clips, random_state()))
    place.loss, place.clips = 0.0, 0
    if processes.first:
        place.loss, place.clips = sum(loss for loss, _, _ in seen), sum(clips for _, clips, _ in seen)
    random = [state for _, _, state in seen]
    processes.first_alone(
        lambda: save_checkpoint(path, stepper.system, _progress(stepper, place, run, random))
    )


def _progress(stepper: Stepper, place: Place, run: Run, random: list[dict[str, Any]]) -> Progress:
    done = place.history[-1] if place.history else None
    return Progress(
        trained=stepper.step > 0,
        epoch=done.epoch if done else 0,
        rho=done.rho if done else None,
        recipe=asdict(run.recipe),
        corpus=place.best.corpus,
        resume={
            **stepper.state(),
            "place": {
                **vars(place),
                "best": dict(vars(place.best)),
                "history": [to_plain(report) for report in place.history],
            },
            "run": to_plain(run),
            "random": random,
            "threads": torch.get_num_threads(),
        },
    )


def read_place(
    path: Path,
    system: TaemiSystem,
    run: Run,
    processes: Processes,
    warn: Callable[[str], None] | None = None,
) -> tuple[Place, dict[str, Any]]:
    """Put a system where a run stood when it was kept.

    Args:
        path: The ``last.pt``.
        system: The same system as was trained; its weights are replaced.
        run: What makes it the same run.
        processes: This process among those that train.
        warn: Called with a sentence where going on will not give the same bits.

    Returns:
        The place, and the state that ``take_up`` takes once there is an optimiser.

    Raises:
        CheckpointError: The file is damaged, cannot be gone on with, or is of another run; what differs is
            named with both values.
    """
    data = read_checkpoint(path)
    asked = _asked(path)
    resume = (data.get("progress") or {}).get("resume") or {}
    if "place" not in resume:
        raise CheckpointError(asked, "it keeps no state of a training", "Train again without --resume")
    with _damage_named(asked):
        kept = resume["run"]
        _compare(asked, "the recipe", kept["recipe"], to_plain(run.recipe), free=FREE_TO_CHANGE)
        _compare(asked, "the model", data["model"], system.config.to_plain())
        _compare(asked, "the preprocessing", data["preprocessing"], to_plain(system.preprocessing))
        if kept["data"] != run.data:
            raise CheckpointError(
                f"{asked}: the data is another",
                "names, labels or words of the clips differ from those that it was trained on",
                "Name the corpus of the run that was cut off, or train into another folder",
            )
        _compare(asked, "the launch", {"processes": kept["processes"]}, {"processes": run.processes})
        for name in ("audio", "text"):
            encoder = getattr(system, f"{name}_encoder")
            packed = data["encoders"][name]
            _compare(asked, f"the {name} encoder", packed["description"], encoder.describe())
            encoder.load_state_dict(packed["weights"])
        system.fusion.load_state_dict(data["fusion"])
        place = from_plain(resume["place"], Place)
        threads = resume["threads"]
    if not processes.first:
        place.loss, place.clips = 0.0, 0
    if warn is not None and threads != torch.get_num_threads():
        warn(
            f"{path.name} was trained with {threads} threads, this goes on with {torch.get_num_threads()}: "
            "sums are rounded differently, and weights will differ in their last bits"
        )
    return place, resume


def take_up(path: Path, stepper: Stepper, resume: dict[str, Any], processes: Processes) -> None:
    """Put optimiser and random generators where they stood.

    Args:
        path: The file that ``read_place`` read.
        stepper: Made since.
        resume: The state that ``read_place`` returned.
        processes: This process among those that train.

    Raises:
        CheckpointError: The file is damaged.
    """
    with _damage_named(_asked(path)):
        stepper.restore(resume)
        restore_random_state(resume["random"][processes.rank])


def _asked(path: Path) -> str:
    return f"cannot go on with {path}"


@contextmanager
def _damage_named(asked: str) -> Iterator[None]:
    """Turn what damaged values make of the reading into one clear message."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(asked, reason, "The file is damaged: train again without --resume") from error


def _compare(
    asked: str,
    what: str,
    kept: Mapping[str, Any],
    now: Mapping[str, Any],
    free: frozenset[str] = frozenset(),
) -> None:
    for key in sorted({*kept, *now} - free):
        before, after = _plain(kept.get(key)), _plain(now.get(key))
        if before != after:
            raise CheckpointError(
                f"{asked}: {what} is another",
                f"{key} was {before!r} and is {after!r} now",
                "Give the options of the run that was cut off, or train into another folder",
            )


def _plain(value: Any) -> Any:
    # A checkpoint keeps tuples; plain values have lists.
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
