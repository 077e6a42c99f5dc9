"""Trains as one of several processes and writes down gradients and weights; started by ``accelerate launch``.

accelerate launch --multi_gpu --num_processes 2 two_processes.py CORPUS FOLDER BATCH_SIZE
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from taemi.assemble import assemble
from taemi.choice import EncoderChoice
from taemi.corpus import read_corpus
from taemi.recipe import Recipe
from taemi.stepper import Stepper
from taemi.system import TaemiSystem
from taemi.train import train


def main() -> None:
    """Train two epochs without dropout, and keep each step's loss and gradients."""
    torch.set_num_threads(1)
    corpus, out, batch_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    made = assemble("paper", EncoderChoice("tiny"), seed=1, max_fps=2.0, modality_dropout=0.0)
    config = replace(made.config, hidden=32, feed_forward=32, head_hidden=16)
    torch.manual_seed(1)
    system = TaemiSystem(
        config, made.audio_encoder, made.text_encoder, made.vision_encoder, made.preprocessing
    )
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
    train(
        system,
        read_corpus(corpus),
        out,
        recipe,
        report=lambda report: losses.extend([report.loss, report.rho]),
        device="cpu",
        features=out.parent / "features",
        resume=True,
    )
    if losses:
        torch.save({"losses": losses, "grads": kept, "weights": system.state_dict()}, out / "kept.pt")


if __name__ == "__main__":
    main()
