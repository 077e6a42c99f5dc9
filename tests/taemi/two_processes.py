"""Trains as one of several processes and writes down gradients and weights; started by ``accelerate launch``.

accelerate launch --multi_gpu --num_processes 2 two_processes.py CORPUS FOLDER BATCH_SIZE
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_systems import small
from torch import Tensor

import taemi.train
from taemi import trainer
from taemi.corpus import read_corpus
from taemi.processes import Processes, joined
from taemi.recipe import Recipe
from taemi.reports import Report
from taemi.stepper import Stepper
from taemi.system import TaemiSystem
from taemi.train import TrainingError, train


def main() -> None:
    """Train as often as it takes, in one group of processes: a second one could not meet."""
    torch.set_num_threads(1)
    # Before they meet: of processes that did transformers lets only the first one write encoders.
    system = small(max_fps=2.0, modality_dropout=0.0)
    with joined("cpu") as processes:
        taemi.train.joined = lambda _: nullcontext(processes)  # type: ignore[assignment]
        learn(system, processes)


def learn(system: TaemiSystem, processes: Processes) -> None:
    """Train two epochs without dropout, and keep each step's loss and gradients."""
    corpus, out, batch_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    # Evaluation mode has no dropout, no dropped layers and no masked spans.
    Stepper.train_mode = lambda self: self.system.eval()  # type: ignore[method-assign]
    update, kept = Stepper._update, []

    def keep(self: Stepper) -> None:
        grads = [weight.grad for weight in self._weights]
        kept.append([None if grad is None else grad.clone() for grad in grads])
        update(self)

    Stepper._update = keep  # type: ignore[method-assign]
    recipe = Recipe(
        epochs=2, patience=2, batch_size=batch_size, learning_rate=1e-3, pad="longest", save_every=2
    )
    losses: list[float] = []

    def run(name: str, recipe: Recipe, report: Report | None = None) -> None:
        train(
            system,
            read_corpus(corpus),
            out / name,
            recipe,
            report=report,
            device="cpu",
            features=out.parent / "features",
            resume=True,
        )

    run("", recipe, lambda report: losses.extend([report.loss, report.rho]))
    if losses:
        torch.save({"losses": losses, "grads": kept, "weights": system.state_dict()}, out / "kept.pt")
    if processes.count > 1:
        once = replace(recipe, batch_size=1, epochs=1, save_every=0)
        alone_in_trouble(out, processes.rank, lambda name: run(name, once))


def alone_in_trouble(out: Path, rank: int, run: Callable[[str], None]) -> None:
    """Let one process alone find a loss that is no number, or be asked to stop; write how each one ends."""
    trainer._LOG_EVERY = 2
    add, update = Stepper.add, Stepper._update

    def spoilt(self: Stepper, *given: Any) -> Tensor:
        return add(self, *given) * (float("nan") if rank == 1 else 1.0)

    def asked(self: Stepper) -> None:
        update(self)
        if rank == 1 and self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    for name, change in (("spoilt", {"add": spoilt}), ("asked", {"_update": asked})):
        for method, replaced in change.items():
            setattr(Stepper, method, replaced)
        try:
            run(name)
            end = "trained"
        except (TrainingError, SystemExit) as error:
            end = f"{type(error).__name__}: {error}"
        Stepper.add, Stepper._update = add, update  # type: ignore[method-assign]
        (out / f"{name}-{rank}.txt").write_text(end)


if __name__ == "__main__":
    main()
