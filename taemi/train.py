"""Training: the audio and text encoders with the fusion network, vision from features.

AdamW with one group for all weights, linear warm-up and cosine decay a step, mean squared error, early
stopping on the mean validation correlation; or the fusion network alone on features of all three
(``Recipe.frozen``). One process or several: docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taemi.checkpoint import Progress
from taemi.corpus import Corpus
from taemi.curves import FOLDER_NAME, check_curves, curve_files, open_curves
from taemi.features import open_features
from taemi.processes import joined
from taemi.recipe import Recipe
from taemi.reports import Report
from taemi.stopping import StopRequests
from taemi.system import TaemiSystem
from taemi.trainer import BEST_NAME, HISTORY_NAME, LAST_NAME, Trainer, TrainingError, predict
from taemi.training_data import Tick, TrainingData, Warn, extract_split, make_collate, told_once
from taemi_runtime.atomic import explain_write

__all__ = ["BEST_NAME", "HISTORY_NAME", "LAST_NAME", "TrainingError", "predict", "train"]


def train(
    system: TaemiSystem,
    corpus: Corpus,
    out: Path,
    recipe: Recipe,
    *,
    report: Report | None = None,
    warn: Warn | None = None,
    tick: Tick | None = None,
    device: str = "cpu",
    faces: str | None = None,
    features: Path | None = None,
    workers: int | None = 0,
    resume: bool = False,
    curves: Path | None = None,
    begin: Callable[[], None] | None = None,
) -> Progress:
    """Train a system and write ``best.pt``, ``last.pt`` and ``history.json`` (a report for each epoch).

    Launched as one of several processes it shares every step with the others, and the first one writes. A run
    that begins takes the place of the one that the folder held: once all that can be refused was looked at,
    the earlier one's checkpoints, history and curves are removed.

    Args:
        system: Fresh or pretrained encoders with a fresh fusion network; it is trained in place.
        corpus: Must have ``train`` and ``valid`` splits.
        out: The run's folder.
        recipe: How to train.
        report: Called after each epoch.
        warn: Called with a sentence for each clip, or part of one, that cannot be read and is left out, and
            for what makes figures doubtful; once for each sentence.
        tick: Called with (step name, done, total) within long steps.
        device: Where to train: ``auto``, ``cpu`` or ``cuda[:N]``.
        faces: The YuNet file that the system's preprocessing names by its digest, where it names one.
        features: Where features are kept; ``out/features`` when ``None``, and not used where ``corpus`` is a
            store.
        workers: Processes that read clips for extraction; 0 reads in this one, ``None`` leaves it to the
            machine.
        resume: Whether to go on from ``last.pt`` where there is one.
        curves: Folder for TensorBoard; ``None`` for none.
        begin: Called in the first process before the first step, when nothing can be refused any more.

    Returns:
        The progress record of the best epoch.

    Raises:
        DataError: A split is missing or no clip of it can be read.
        CheckpointError: ``last.pt`` is of another run.
        MissingExtraError: Curves are wanted, and TensorBoard is not installed.
        TrainingError: The loss is no finite number any more.
        UsageError: There is no such device, or it cannot compute in the recipe's precision.
    """
    with joined(device) as processes:
        if not processes.first:
            report = warn = tick = None
        warn = told_once(warn) if warn is not None else None
        store = open_features(
            corpus,
            features or out / "features",
            system,
            frozen=recipe.frozen,
            faces=faces,
            workers=workers,
            device=processes.device,
        )
        splits = processes.first_alone(
            lambda: {split: extract_split(store, corpus, split, tick, warn) for split in ("train", "valid")}
        )
        kind = "synthetic, " if corpus.synthetic else ""
        data = TrainingData(
            store,
            splits["train"],
            splits["valid"],
            make_collate(system, recipe),
            f"{kind}{len(splits['train'])} clips of {corpus.name}",
        )
        stop = StopRequests(warn)
        trainer = Trainer(
            system, data, out, recipe, processes, stop, resume=resume, report=report, warn=warn, tick=tick
        )
        processes.first_alone(lambda: _settle(out, curves, begin, replaced=trainer.begins))
        with open_curves(curves if processes.first else None, trainer.stepper.step) as lines, stop.heard():
            return trainer.run(lines)


def _settle(out: Path, curves: Path | None, begin: Callable[[], None] | None, *, replaced: bool) -> None:
    """Make a folder that of the run that begins, or goes on, now."""
    if curves is not None:
        check_curves()
    # First what --resume would go on from.
    names = (LAST_NAME, BEST_NAME, HISTORY_NAME)
    # A kill in the middle of a write leaves what atomic_file had begun, and a checkpoint is large.
    old = [part for name in names for part in out.glob(f".{name}.*.part")]
    if replaced:
        old += [out / name for name in names]
        old += curve_files(curves or out / FOLDER_NAME)
    for path in old:
        with explain_write(path):
            path.unlink(missing_ok=True)
    if begin is not None:
        begin()
