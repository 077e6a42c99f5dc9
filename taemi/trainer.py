"""One training run: epochs of steps, validation, checkpoints, and ending or going on at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from taemi.batches import in_order
from taemi.checkpoint import Progress, save_checkpoint
from taemi.corpus import ClipRow
from taemi.curves import Curves
from taemi.metrics import pearson
from taemi.processes import Processes
from taemi.random_state import seed_all
from taemi.recipe import Recipe
from taemi.reports import EpochReport, Report, peak_memory_bytes
from taemi.resume import Place, Run, data_digest, read_place, save_place, take_up
from taemi.schedule import WarmupCosine
from taemi.step_plan import StepPlan
from taemi.stepper import Stepper
from taemi.stopping import StopRequests
from taemi.system import TaemiSystem
from taemi.training_data import Tick, TrainingData, Warn
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import TaemiError
from taemi_runtime.strict import to_json

BEST_NAME = "best.pt"
LAST_NAME = "last.pt"
HISTORY_NAME = "history.json"
# Steps between two points of a curve, and between two moments in which processes tell each other whether to
# end: both wait for what the device computes.
_LOG_EVERY = 10


class TrainingError(TaemiError):
    """A training that cannot go on."""


class Trainer:
    """One run: begun, or taken up where it stood.

    Args:
        system: Trained in place.
        data: What it is trained on.
        out: The run's folder.
        recipe: How.
        processes: This process among those that train together.
        stop: Whether somebody asked for the end.
        resume: Whether to go on from ``last.pt`` where there is one.
        report: Called after each epoch.
        warn: Called with a sentence for what makes figures doubtful.
        tick: Called with (step name, done, total).

    Attributes:
        begins: Whether the run begins, and none is taken up.
        place: Where the run stands.
        stepper: What takes its steps.

    Raises:
        CheckpointError: ``last.pt`` is of another run, or damaged.
        UsageError: The device cannot compute in the recipe's precision.
    """

    def __init__(
        self,
        system: TaemiSystem,
        data: TrainingData,
        out: Path,
        recipe: Recipe,
        processes: Processes,
        stop: StopRequests,
        *,
        resume: bool = False,
        report: Report | None = None,
        warn: Warn | None = None,
        tick: Tick | None = None,
    ) -> None:
        self._system = system
        self._data = data
        self._out = out
        self._recipe = recipe
        self._processes = processes
        self._stop = stop
        self._report = report
        self._warn = warn
        self._tick = tick
        self._plan = StepPlan(
            len(data.train),
            recipe.batch_size,
            recipe.accumulation,
            processes.count,
            recipe.seed,
            data.lengths(recipe.modalities) if recipe.buckets else None,
        )
        self._run = Run(recipe, data_digest(data.train, data.valid), processes.count)
        last = out / LAST_NAME
        self.begins = not (resume and last.exists())
        if self.begins:
            self.place = Place(Progress(trained=False, recipe=asdict(recipe), corpus=data.corpus))
        else:
            self.place, kept = read_place(last, system, self._run, processes, warn)
        system.to(processes.device)
        steps = self._plan.steps
        schedule = WarmupCosine(
            recipe.learning_rate, round(recipe.warmup_epochs * steps), recipe.epochs * steps
        )
        self.stepper = Stepper(system, recipe, schedule, processes)
        # Each process drops other layers and modalities.
        seed_all(recipe.seed + processes.rank)
        if not self.begins:
            take_up(last, self.stepper, kept, processes)

    def run(self, curves: Curves) -> Progress:
        """Train to the end, or to the step in which somebody asks for it.

        Args:
            curves: Where curves are written.

        Returns:
            The record of the best epoch.
        """
        place, recipe = self.place, self._recipe
        while place.epoch <= recipe.epochs and place.since_best < recipe.patience:
            start = time.perf_counter()
            clips, waited = self._steps(curves)
            trained = time.perf_counter()
            predicted, labels = self._validate()
            by_output = pearson(predicted, labels, names=self._system.config.outputs, warn=self._warn)
            self._finish_epoch(start, trained, clips, waited, by_output, curves)
        return place.best

    def _steps(self, curves: Curves) -> tuple[int, float]:
        """Take the steps of the epoch that are left.

        Returns:
            The clips of these steps, over all processes, and the seconds spent waiting for batches.
        """
        place, stepper, total = self.place, self.stepper, self._plan.steps
        shares = self._plan.epoch(place.epoch, self._processes.rank, place.steps)
        stepper.train_mode()
        waited = 0.0
        # On the device, as reading it each step would wait for it.
        loss = torch.zeros((), dtype=torch.float64, device=self._processes.device)
        batches = self._load(self._data.train, [share.clips for share in shares])
        for share in shares:
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            loss += stepper.add(batch.to(self._processes.device), share)
            place.clips += share.counted
            if not share.last:
                continue
            place.steps += 1
            due = place.steps % _LOG_EVERY == 0 or place.steps == total
            if due:
                self._take(loss)
                curves.add(
                    {
                        "train/loss": place.loss / max(1, place.clips),
                        "train/learning_rate": stepper.schedule.rate(stepper.step - 1),
                        "train/loss_scale": stepper.scaler.get_scale(),
                    },
                    stepper.step,
                )
            if self._tick is not None:
                self._tick(f"epoch {place.epoch}", place.steps, total)
            if (due or self._processes.count == 1) and self._asked_to_stop():
                self._take(loss)
                self._leave()
            if self._recipe.save_every and place.steps % self._recipe.save_every == 0 and place.steps < total:
                self._take(loss)
                self._save()
        return sum(share.of for share in shares if share.last), waited

    def _take(self, loss: torch.Tensor) -> None:
        """Move what was summed on the device to where the run stands; all processes have to call it.

        Raises:
            TrainingError: The sum is no finite number in one of them.
        """
        self.place.loss += float(loss)
        loss.zero_()
        # One that left alone would keep the others waiting.
        if self._processes.any(not math.isfinite(self.place.loss)):
            raise TrainingError(
                "the training cannot go on",
                f"the loss is no finite number in epoch {self.place.epoch}, by step {self.place.steps}",
                "Lower --learning-rate, clip with --clip-mode norm --clip 1, or choose another --precision; "
                f"{LAST_NAME} holds the last state that was kept",
            )

    def _asked_to_stop(self) -> bool:
        asked = self._processes.most(self._stop.signal or 0)
        if asked:
            # All of them end as the one that was asked does.
            self._stop.signal = asked
        return bool(asked)

    def _validate(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Score the validation split, each process its part of it."""
        processes, rows = self._processes, self._data.valid
        size = self._recipe.batch_size
        mine = in_order(len(rows), size)[processes.rank :: processes.count]
        with self.stepper.autocast():
            scored = predict(self._system, self._until_stopped(self._load(rows, mine)), processes.device)
        if self._asked_to_stop():
            self._leave()
        every = processes.gather(scored)
        return np.concatenate([scores for scores, _ in every]), np.concatenate([marks for _, marks in every])

    def _until_stopped(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            # One of several processes that left alone would keep the others waiting.
            if self._processes.count == 1 and self._stop.signal is not None:
                self._leave()
            yield batch

    def _finish_epoch(
        self,
        start: float,
        trained: float,
        clips: int,
        waited: float,
        by_output: npt.NDArray[np.float64],
        curves: Curves,
    ) -> None:
        place, recipe, processes = self.place, self._recipe, self._processes
        totals = torch.tensor([place.loss, place.clips], dtype=torch.float64, device=processes.device)
        loss, counted = processes.sum(totals).tolist()
        rho = float(by_output.mean())
        improved = place.best.rho is None or rho > place.best.rho
        place.since_best = 0 if improved else place.since_best + 1
        now = replace(place.best, trained=True, epoch=place.epoch, rho=rho)
        seconds = trained - start
        done = EpochReport(
            epoch=place.epoch,
            epochs=recipe.epochs,
            loss=loss / counted,
            rho=rho,
            rho_by_output=tuple(by_output.tolist()),
            best=improved,
            seconds=time.perf_counter() - start,
            training_seconds=seconds,
            waiting_seconds=waited,
            clips_per_s=clips / seconds if seconds else 0.0,
            learning_rate=self.stepper.schedule.rate(self.stepper.step - 1),
            peak_memory_bytes=peak_memory_bytes(processes.device),
        )
        place.history.append(done)
        if improved:
            place.best = now
            processes.first_alone(lambda: save_checkpoint(self._out / BEST_NAME, self._system, now))
        place.epoch, place.steps, place.loss, place.clips = place.epoch + 1, 0, 0.0, 0
        self._save()
        if processes.first:
            write_text(self._out / HISTORY_NAME, to_json(place.history))
            by_name = zip(self._system.config.outputs, done.rho_by_output, strict=True)
            curves.add(
                {"valid/rho": rho, **{f"valid/rho {name}": value for name, value in by_name}},
                self.stepper.step,
            )
        if self._report is not None:
            self._report(done)

    def _leave(self) -> None:
        self._save()
        self._stop.leave()

    def _save(self) -> None:
        save_place(self._out / LAST_NAME, self.stepper, self.place, self._run, self._processes)

    def _load(self, rows: Sequence[ClipRow], indices: Sequence[Sequence[int]]) -> Iterator[Any]:
        pin = self._processes.device.type == "cuda"
        return self._data.load(rows, indices, workers=self._recipe.workers, pin=pin)


def predict(
    system: TaemiSystem, batches: Iterable[Any], device: torch.device
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Score batches in evaluation mode.

    Returns:
        Predictions and labels, each [clips, outputs] float32.
    """
    system.eval()
    nothing = np.zeros((0, len(system.config.outputs)), np.float32)
    predicted, labels = [nothing], [nothing]
    with torch.inference_mode():
        for batch in batches:
            predicted.append(system(batch.to(device)).intensities.float().cpu().numpy())
            labels.append(batch.labels.numpy())
    return np.concatenate(predicted), np.concatenate(labels)
