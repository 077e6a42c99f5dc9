"""End-to-end training: the audio and text encoders with the fusion network, vision from features.

AdamW with one group for all weights, linear warm-up and cosine decay a step, mean squared error,
early stopping on the mean validation correlation. Float32 on one device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from taemi.batches import Collate, loader
from taemi.checkpoint import Progress, save_checkpoint
from taemi.corpus import ClipRow, Corpus
from taemi.features import FeatureStore
from taemi.metrics import pearson
from taemi.recipe import TRAINABLE, Recipe
from taemi.system import Batch, TaemiSystem
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError
from taemi_runtime.strict import to_json
from taemi_runtime.tokens import Tokenizer

BEST_NAME = "best.pt"
LAST_NAME = "last.pt"
HISTORY_NAME = "history.json"


@dataclass(frozen=True)
class EpochReport:
    """What one epoch did.

    Args:
        epoch: From 1.
        epochs: The most there will be.
        loss: Mean squared error over the training clips of the epoch.
        rho: Mean validation correlation over the outputs.
        rho_by_output: The correlation of each output.
        best: Whether it is the best so far.
        seconds: Wall time, validation included.
    """

    epoch: int
    epochs: int
    loss: float
    rho: float
    rho_by_output: tuple[float, ...]
    best: bool
    seconds: float


Report = Callable[[EpochReport], None]
Tick = Callable[[str, int, int], None]


def train(
    system: TaemiSystem,
    corpus: Corpus,
    out: Path,
    recipe: Recipe,
    *,
    report: Report | None = None,
    warn: Callable[[str], None] | None = None,
    tick: Tick | None = None,
    device: str = "cpu",
    faces: str | None = None,
    features: Path | None = None,
) -> Progress:
    """Train a system and write ``best.pt``, ``last.pt`` and ``history.json`` (a report for each epoch).

    Args:
        system: Fresh or pretrained encoders with a fresh fusion network; it is trained in place.
        corpus: Must have ``train`` and ``valid`` splits.
        out: The run's folder.
        recipe: How to train.
        report: Called after each epoch.
        warn: Called with a sentence for each clip, or part of one, that cannot be read and is left out.
        tick: Called with (step name, done, total) within long steps.
        device: Where to train, ``cpu`` or ``cuda[:N]``.
        faces: The YuNet file that the system's preprocessing names by its digest, where it names one.
        features: Where features are kept; ``out/features`` when ``None``.

    Returns:
        The progress record of the best epoch.

    Raises:
        DataError: A split is missing or no clip of it can be read.
    """
    torch.manual_seed(recipe.seed)
    # The spans that SpecAugment masks in wav2vec2 are drawn from NumPy's own generator.
    np.random.seed(recipe.seed)
    # The vision encoder stays on the CPU: its features are extracted once, before training.
    store = FeatureStore(features or out / "features", system.vision_encoder, system.preprocessing, faces)
    train_rows = _extract(store, corpus, "train", tick, warn)
    valid_rows = _extract(store, corpus, "valid", tick, warn)
    _freeze(system, recipe)
    target = torch.device(device)
    system.to(target)
    collate = Collate(
        Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text),
        system.preprocessing,
        system.config.vision_dim,
        pad_to_max=recipe.pad == "max",
        modalities=recipe.modalities,
    )
    weights = [weight for weight in system.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = math.ceil(len(train_rows) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_cosine(recipe, steps))
    described = f"{'synthetic, ' if corpus.synthetic else ''}{len(train_rows)} clips of {corpus.root.name}"
    best = Progress(trained=False, recipe=asdict(recipe), corpus=described)
    history: list[EpochReport] = []
    since_best = 0
    for epoch in range(1, recipe.epochs + 1):
        start = time.perf_counter()
        batches = loader(train_rows, store, collate, recipe.batch_size, seed=recipe.seed + epoch)
        loss = _run_epoch(system, batches, optimiser, schedule, recipe, target, tick, epoch, steps)
        predicted, labels = predict(
            system, loader(valid_rows, store, collate, recipe.batch_size, seed=None), target
        )
        by_output = pearson(predicted, labels)
        rho = float(by_output.mean())
        improved = best.rho is None or rho > best.rho
        now = Progress(True, epoch, rho, asdict(recipe), described)
        if improved:
            best, since_best = now, 0
            save_checkpoint(out / BEST_NAME, system, now)
        else:
            since_best += 1
        state = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        save_checkpoint(out / LAST_NAME, system, Progress(True, epoch, rho, asdict(recipe), described, state))
        seconds = time.perf_counter() - start
        history.append(
            EpochReport(epoch, recipe.epochs, loss, rho, tuple(by_output.tolist()), improved, seconds)
        )
        write_text(out / HISTORY_NAME, to_json(history))
        if report is not None:
            report(history[-1])
        if since_best >= recipe.patience:
            break
    return best


def predict(
    system: TaemiSystem, batches: Iterable[Any], device: torch.device
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Score batches in evaluation mode.

    Returns:
        Predictions and labels, each [clips, outputs] float32.
    """
    system.eval()
    predicted, labels = [], []
    with torch.inference_mode():
        for batch in batches:
            predicted.append(system(batch.to(device)).intensities.float().cpu().numpy())
            labels.append(batch.labels.numpy())
    return np.concatenate(predicted), np.concatenate(labels)


def _run_epoch(
    system: TaemiSystem,
    batches: Iterable[Any],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    device: torch.device,
    tick: Tick | None,
    epoch: int,
    steps: int,
) -> float:
    system.train()
    for name in _frozen(recipe):
        getattr(system, f"{name}_encoder").eval()
    total, clips = 0.0, 0
    for step, item in enumerate(batches, 1):
        batch: Batch = item.to(device)
        loss = F.mse_loss(system(batch).intensities, batch.labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_value_(system.parameters(), recipe.clip_value)
        optimiser.step()
        schedule.step()
        total += float(loss.detach()) * len(batch.labels)
        clips += len(batch.labels)
        if tick is not None:
            tick(f"epoch {epoch}", step, steps)
    return total / clips


def _warmup_cosine(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Linear from 0 over the warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017, equation 5)."""
    warmup = round(recipe.warmup_epochs * steps)
    total = recipe.epochs * steps

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def _freeze(system: TaemiSystem, recipe: Recipe) -> None:
    for name in _frozen(recipe):
        getattr(system, f"{name}_encoder").requires_grad_(False)


def _frozen(recipe: Recipe) -> set[str]:
    # Weight decay alone would wear down an encoder that is never heard.
    return set(recipe.freeze) | (set(TRAINABLE) - set(recipe.modalities))


def _extract(
    store: FeatureStore,
    corpus: Corpus,
    split: str,
    tick: Tick | None,
    warn: Callable[[str], None] | None,
) -> Sequence[ClipRow]:
    rows = corpus.split(split)
    step = f"features of {split}"
    failures = store.extract(rows, (lambda done, total: tick(step, done, total)) if tick else None, warn)
    if warn is not None:
        for name, reason in failures.items():
            warn(f"clip {name} is left out: {reason}")
    usable = [row for row in rows if row.name not in failures]
    if not usable:
        name, reason = next(iter(failures.items()), ("", "the split file has no rows"))
        raise DataError(f"no clip of the {split} split can be used", f"{name} {reason}".strip())
    return usable
