"""Evaluation on a split, through the runtime that users run: correlation per emotion and presence.

Each clip is decoded and encoded once; the fusion graph then scores it under every combination of
modalities, the others being switched off.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi.corpus import ClipRow, Corpus
from taemi.metrics import pearson
from taemi_runtime.atomic import write_text
from taemi_runtime.emotions import CSV_HEADER, EMOTIONS
from taemi_runtime.errors import DataError, MediaError
from taemi_runtime.loading import open_model
from taemi_runtime.pipeline import MODALITIES, ClipScorer

# Every combination with at least one modality, the full one first.
CONDITIONS: tuple[tuple[bool, bool, bool], ...] = tuple(
    sorted(
        (flags for flags in itertools.product((True, False), (True, False), (True, False)) if any(flags)),
        key=lambda flags: -sum(flags),
    )
)


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a split.

    Args:
        split: The split's name.
        synthetic: Whether the corpus is synthetic.
        trained: Whether the model was trained at all.
        names: The clips that were scored.
        predicted: [clips, outputs] float32, all modalities that a clip has, clipped to [0, 1].
        rho: For each condition (named like ``audio+text``) the correlation of each output; NaN where the
            clips have no labels.
        clips: For each condition how many clips had all of its modalities.
        failures: The reason for each clip that could not be read, by name.
        faces: How frames were cropped, as in ``VisionPreprocessing.faces``.
    """

    split: str
    synthetic: bool
    trained: bool
    names: tuple[str, ...]
    predicted: npt.NDArray[np.float32]
    rho: dict[str, tuple[float, ...]]
    clips: dict[str, int]
    failures: dict[str, str]
    faces: str = "none"

    @property
    def mean_rho(self) -> float:
        """Mean correlation over the outputs with everything that each clip has."""
        return float(np.mean(self.rho[condition_name(CONDITIONS[0])]))


def evaluate_split(
    model: Path,
    corpus: Corpus,
    split: str,
    *,
    faces: str | None = None,
    tick: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score a split.

    A clip that lacks a modality is scored without it under every condition, as it would be in use; the
    count beside each condition says how many clips really had all of it.

    Args:
        model: A checkpoint or a bundle.
        corpus: The corpus.
        split: One of its splits.
        faces: How frames are cropped: ``none``, ``auto``, or the path of a YuNet file; as trained when
            ``None``.
        tick: Called with (step, done, total) after each clip.
        warn: Called with a sentence for each clip that cannot be read, and where frames are cropped in
            another way than in training.

    Raises:
        BundleError: The model was trained with a face detector from a file, and none is given.
        DataError: The split is missing, or none of its clips can be read.
    """
    rows = corpus.split(split)
    if warn is not None and rows and not np.isfinite(rows[0].labels).all():
        warn(f"the {split} split has no labels: there are scores, and no correlation with anything")
    kept: list[ClipRow] = []
    scores: list[npt.NDArray[np.float32]] = []
    present: list[npt.NDArray[np.bool_]] = []
    failures: dict[str, str] = {}
    with open_model(model) as loaded:
        scorer = ClipScorer(loaded, faces=faces)
        if scorer.faces_differ and warn is not None:
            warn(scorer.faces_differ)
        for done, row in enumerate(rows, 1):
            try:
                features = scorer.features(row.media, row.transcript)
            except MediaError as error:
                failures[row.name] = str(error)
                if warn is not None:
                    warn(f"clip {row.name} is left out: {error}")
                continue
            has = features.inputs["present"][0]
            scores.append(np.stack([scorer.fuse(features, has & np.array(flags)) for flags in CONDITIONS]))
            present.append(has)
            kept.append(row)
            if tick is not None:
                tick(f"evaluate {split}", done, len(rows))
        trained = loaded.manifest.trained
        used = scorer.preprocessing.vision.faces
    if not kept:
        name, reason = next(iter(failures.items()), ("", "the split file has no rows"))
        raise DataError(f"no clip of the {split} split can be used", f"{name} {reason}".strip())
    labels = np.array([row.labels for row in kept], dtype=np.float32)
    clipped = np.clip(np.stack(scores), 0, 1)
    has_all = np.stack(present)
    return Evaluation(
        split=split,
        synthetic=corpus.synthetic,
        trained=trained,
        names=tuple(row.name for row in kept),
        predicted=clipped[:, 0],
        rho={
            condition_name(flags): tuple(pearson(clipped[:, index], labels))
            for index, flags in enumerate(CONDITIONS)
        },
        clips={condition_name(flags): int(has_all[:, np.array(flags)].all(1).sum()) for flags in CONDITIONS},
        failures=failures,
        faces=used,
    )


def condition_name(flags: tuple[bool, bool, bool]) -> str:
    """Name a combination of modalities, e.g. ``audio+text``."""
    return "+".join(name for name, flag in zip(MODALITIES, flags, strict=True) if flag)


def format_table(evaluation: Evaluation) -> str:
    """Format the correlations as a table: a row for each combination of modalities."""
    from rich.console import Console
    from rich.table import Table

    marks = [
        *(["synthetic clips"] if evaluation.synthetic else []),
        *([] if evaluation.trained else ["untrained"]),
    ]
    title = f"Pearson's rho on {evaluation.split}, {len(evaluation.names)} clips"
    table = Table(title=f"{title} ({', '.join(marks)})" if marks else title)
    table.add_column("modalities used", no_wrap=True)
    table.add_column("clips with all", justify="right")
    table.add_column("mean", justify="right")
    for emotion in EMOTIONS:
        table.add_column(emotion, justify="right")
    for name, rho in evaluation.rho.items():
        cells = [f"{value:.3f}" if math.isfinite(value) else "-" for value in (float(np.mean(rho)), *rho)]
        table.add_row(name, str(evaluation.clips[name]), *cells)
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return stream.getvalue().rstrip()


def write_figures(path: Path, evaluation: Evaluation) -> None:
    """Write the correlations as JSON."""
    figures = {
        "split": evaluation.split,
        "synthetic": evaluation.synthetic,
        "trained": evaluation.trained,
        "clips": len(evaluation.names),
        "mean_rho": _finite(evaluation.mean_rho),
        "rho": {
            name: dict(zip(EMOTIONS, map(_finite, rho), strict=True)) for name, rho in evaluation.rho.items()
        },
        "clips_with_all": evaluation.clips,
        "faces": evaluation.faces,
        "failures": evaluation.failures,
    }
    write_text(path, json.dumps(figures, indent=2) + "\n")


def _finite(value: float) -> float | None:
    # JSON has no NaN, which stands for what cannot be said of clips without labels.
    return value if math.isfinite(value) else None


def write_submission(path: Path, evaluation: Evaluation) -> None:
    """Write a challenge submission: the label files' header, one row a clip."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for name, row in zip(evaluation.names, evaluation.predicted, strict=True):
        writer.writerow([name, *(f"{value:.6f}" for value in row)])
    write_text(path, stream.getvalue())
