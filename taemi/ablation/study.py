"""Training the rows of the paper's tables under one protocol, several seeds each.

Only what a row is made of changes between its runs and another's. The encoders are the same for all rows
and seeds, so that vision features are extracted once; a seed sets the fusion network's weights, the order
of clips, and dropout. Seeds are the outer loop: the table soon has a figure in every row.
"""

from __future__ import annotations

import gc
import json
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from taemi.ablation.protocol import Protocol, protocol_of, settle
from taemi.ablation.rows import Row
from taemi.ablation.runs import Failure, Result, finished, read_failures, read_results, record, run_folder
from taemi.assemble import assemble, encoder_notes
from taemi.choice import EncoderChoice
from taemi.corpus import Corpus
from taemi.curves import FOLDER_NAME as CURVES_NAME
from taemi.devices import torch_device
from taemi.encoder_sets import tiny_encoders
from taemi.processes import launched
from taemi.recipe import Recipe
from taemi.reports import Report
from taemi.system import TaemiSystem
from taemi.train import HISTORY_NAME, LAST_NAME, train
from taemi.training_data import Tick, Warn
from taemi_runtime.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    MissingExtraError,
    TaemiError,
    UsageError,
    WriteError,
)

ENCODERS_NAME = "encoders"
FEATURES_NAME = "features"
# The seed of tiny encoders, and of a head that an audio encoder lacks: one set for all runs.
ENCODER_SEED = Recipe().seed
_COMPUTING = ("taemi", "torch", "transformers", "numpy")
# What speaks of the data, the disk or the machine is the same for every row: going on would fail there, too.
_SHARED_TROUBLE = (DataError, WriteError, DeviceError, MissingExtraError, UsageError)


@dataclass(frozen=True)
class Study:
    """What is trained, and on what.

    Args:
        corpus: Must have ``train`` and ``valid`` splits.
        out: The ablation's folder.
        rows: The rows, in the table's order.
        seeds: The seeds of each row.
        recipe: How each is trained; its seed and modalities are replaced by the run's.
        choice: The encoders of all of them.
        max_fps: Sampling rate of vision features in frames a second; ``None`` is every frame.
        faces: How frames are cropped, as in ``VisionPreprocessing.faces``.
        yunet: The YuNet file that ``faces`` names by its digest, where it names one.
        device: Where to train: ``auto``, ``cpu`` or ``cuda[:N]``.
    """

    corpus: Corpus
    out: Path
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    choice: EncoderChoice
    max_fps: float | None = None
    faces: str = "none"
    yunet: str | None = None
    device: str = "cpu"
    workers: int | None = 0
    tensorboard: bool = False

    @property
    def runs(self) -> list[tuple[Row, int]]:
        """Every run, in the order in which they are trained."""
        return [(row, seed) for seed in self.seeds for row in self.rows]

    def system(self, row: Row, seed: int) -> TaemiSystem:
        """Return a row's system before its training."""
        tiny = self.choice.base == "tiny"
        return assemble(
            row.variant,
            self.choice,
            seed=seed,
            max_fps=self.max_fps,
            faces=self.faces,
            tiny=tiny_encoders(self.out / ENCODERS_NAME, ENCODER_SEED) if tiny else None,
        )


@dataclass(frozen=True)
class Listeners:
    """Who hears of a study's progress.

    Args:
        say: Takes a line when a run begins or ends.
        warn: Takes a sentence for each clip that is left out.
        report: Takes each epoch's report.
        tick: Takes (step name, done, total) within long steps.
    """

    say: Callable[[str], None] | None = None
    warn: Warn | None = None
    report: Report | None = None
    tick: Tick | None = None


def run_study(study: Study, write: Callable[[Protocol], None], listeners: Listeners) -> list[Failure]:
    """Train every run that is not finished yet.

    Args:
        study: What to train.
        write: Called before the first run and after each one: it writes the table.
        listeners: Who hears of it.

    Returns:
        The runs of this study that failed, with their reasons.

    Raises:
        DataError: The folder holds runs of another protocol, or the corpus cannot be trained on.
        DeviceError: There is no such device.
        UsageError: Several processes were launched to share each step.
        WriteError: The disk is full, or the place cannot be written to.
    """
    _, processes = launched()
    if processes > 1:
        raise UsageError(
            "cannot share one run of an ablation among processes",
            f"{processes} processes were launched",
            "Start one for each GPU, on a feature store (taemi extract), with other --rows or --seeds, its "
            "own --device and the same --out",
        )
    device = torch_device(study.device)
    system = study.system(study.rows[0], ENCODER_SEED)
    protocol = protocol_of(system, study.corpus, study.recipe, device)
    settle(study.out, protocol)
    say = listeners.say or (lambda line: None)
    for note in encoder_notes(system):
        say(f"note: {note}")
    # Of encoders of the published sizes there is one set in memory at a time.
    del system
    write(protocol)
    failures = []
    for number, (row, seed) in enumerate(study.runs, 1):
        name = f"run {number}/{len(study.runs)}: {row.name}, seed {seed}"
        if finished(study.out, row, seed):
            # What a kill between the result and this left behind.
            (run_folder(study.out, row.name, seed) / LAST_NAME).unlink(missing_ok=True)
            say(f"{name}: finished before")
            continue
        say(f"{name}{_time_left(study)}")
        outcome = _run(study, row, seed, listeners)
        record(study.out, outcome)
        if isinstance(outcome, Result):
            # It is there to go on from, and with the optimiser's state three times as large as best.pt.
            (run_folder(study.out, row.name, seed) / LAST_NAME).unlink(missing_ok=True)
            say(f"{name}: rho {outcome.rho:.3f} in epoch {outcome.best_epoch}, {outcome.seconds:.1f} s")
        else:
            failures.append(outcome)
            say(f"{name}: failed: {outcome.reason}")
        write(protocol)
    return failures


def _run(study: Study, row: Row, seed: int, listeners: Listeners) -> Result | Failure:
    try:
        return _train(study, row, seed, listeners)
    except _SHARED_TROUBLE:
        raise
    except Exception as error:
        # A run of hours must not end the hours of all others, whatever it died of.
        reason = str(error) if isinstance(error, TaemiError) else f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointError):
            # It would fail the next time, too, and for ever.
            (run_folder(study.out, row.name, seed) / LAST_NAME).unlink(missing_ok=True)
        failure = Failure(row.name, seed, " ".join(reason.split()), traceback.format_exc())
    # Outside of the handler nothing holds the tensors of the frames that failed any longer.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure


def _train(study: Study, row: Row, seed: int, listeners: Listeners) -> Result:
    folder = run_folder(study.out, row.name, seed)
    system = study.system(row, seed)
    best = train(
        system,
        study.corpus,
        folder,
        replace(study.recipe, seed=seed, modalities=row.modalities),
        report=listeners.report,
        warn=listeners.warn,
        tick=listeners.tick,
        device=study.device,
        faces=study.yunet,
        features=study.out / FEATURES_NAME,
        workers=study.workers,
        resume=True,
        curves=folder / CURVES_NAME if study.tensorboard else None,
    )
    if best.rho is None or not math.isfinite(best.rho):
        raise ArithmeticError(f"the correlation in epoch {best.epoch} is {best.rho}: training diverged")
    # Not from the reports that were heard: an epoch may have run before this process began.
    history = json.loads((folder / HISTORY_NAME).read_text(encoding="utf-8"))
    return Result(
        row=row.name,
        seed=seed,
        rho=best.rho,
        rho_by_output=tuple(next(item for item in history if item["epoch"] == best.epoch)["rho_by_output"]),
        best_epoch=best.epoch,
        epochs=len(history),
        seconds=sum(item["seconds"] for item in history),
        trained_weights=_trained(system),
        fusion_weights=_trained(system.fusion),
        device=_device_name(study.device),
        versions={package: version(package) for package in _COMPUTING},
    )


def _trained(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def _time_left(study: Study) -> str:
    seconds = [result.seconds for result in read_results(study.out)]
    if not seconds:
        return ""
    failed = {(failure.row, failure.seed) for failure in read_failures(study.out)}
    left = [
        (row, seed)
        for row, seed in study.runs
        if not finished(study.out, row, seed) and (row.name, seed) not in failed
    ]
    total = sum(seconds) / len(seconds) * max(1, len(left))
    return f", about {format_duration(total)} left for {max(1, len(left))} (from {len(seconds)} finished)"


def format_duration(seconds: float) -> str:
    """Format a duration in the two units that matter, e.g. ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _device_name(device: str) -> str:
    target = torch_device(device)
    return torch.cuda.get_device_name(target) if target.type == "cuda" else target.type
