"""An evaluation in files: figures as JSON, curves as CSV, and the challenge's submission."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from taemi.evaluate.resampling import Interval
from taemi.evaluate.results import Difference, Evaluation, Figures
from taemi_runtime.atomic import write_text
from taemi_runtime.emotions import CSV_HEADER, EMOTIONS


def write_figures(
    path: Path, evaluation: Evaluation, others: Sequence[tuple[Evaluation, Difference]] = ()
) -> None:
    """Write an evaluation as JSON.

    Args:
        path: Where to.
        evaluation: The model.
        others: Models on the same clips, and how they differ from it.
    """
    figures = {
        "split": evaluation.split,
        "synthetic": evaluation.synthetic,
        **_model(evaluation),
        "clips": len(evaluation.names),
        "clips_with_all": evaluation.clips,
        "vision": evaluation.vision,
        "failures": evaluation.failures,
        "intervals": {
            "method": evaluation.sampling.method,
            "confidence": evaluation.sampling.confidence,
            "resamples": evaluation.sampling.resamples,
            "seed": evaluation.sampling.seed,
        },
        "against": [
            {
                **_model(item),
                "difference": {
                    "mean": _finite(gap.mean),
                    "mean_interval": _ends(gap.interval),
                    "rho": _by_emotion(map(_finite, gap.rho)),
                    "rho_intervals": _by_emotion(map(_ends, gap.intervals)),
                    "max_abs_score": gap.max_abs,
                },
            }
            for item, gap in others
        ],
    }
    write_text(path, json.dumps(figures, indent=2) + "\n")


def write_curves(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write every point of every curve as CSV: a row a model, level and emotion, their mean included."""
    rows: list[tuple[object, ...]] = [("model", "curve", "level", "emotion", "rho", "low", "high")]
    for item in evaluations:
        for curve in item.curves:
            for point in curve.points:
                named = (
                    item.model,
                    curve.kind.name,
                    curve.kind.clean if point.level is None else point.level,
                )
                figures = point.figures
                each = zip(EMOTIONS, figures.rho, figures.intervals or (None,) * len(EMOTIONS), strict=True)
                for name, value, ends in (*each, ("mean", figures.mean, figures.mean_interval)):
                    known = (ends.low, ends.high) if ends is not None else (math.nan, math.nan)
                    cells = (f"{number:.6f}" if math.isfinite(number) else "" for number in (value, *known))
                    rows.append((*named, name, *cells))
    write_text(path, _csv(rows))


def write_submission(path: Path, evaluation: Evaluation) -> str:
    """Write a challenge submission: the label files' header and a row for every clip of the split.

    The challenge takes no file with clips missing. One that could not be scored gets the mean of the scores
    of all others, which moves the correlation least: it adds nothing to the covariance.

    Args:
        path: Where to.
        evaluation: The scores.

    Returns:
        What was filled in, as a sentence; empty where every clip has scores of its own.
    """
    scores = dict(zip(evaluation.names, evaluation.predicted, strict=True))
    stand_in = evaluation.predicted.mean(0)
    rows: list[tuple[object, ...]] = [CSV_HEADER]
    rows += [(name, *(f"{value:.6f}" for value in scores.get(name, stand_in))) for name in evaluation.rows]
    write_text(path, _csv(rows))
    missing = [name for name in evaluation.rows if name not in scores]
    if not missing:
        return ""
    named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"{path}: {len(missing)} clips that could not be scored have the others' mean scores ({named})"


def _csv(rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _model(item: Evaluation) -> dict[str, Any]:
    return {
        "model": item.model,
        "engine": item.engine,
        "trained": item.trained,
        "faces": item.faces,
        "max_fps": item.max_fps,
        "mean_rho": _finite(item.mean_rho),
        "mean_rho_interval": _ends(item.whole.mean_interval),
        "rho": {name: _by_emotion(map(_finite, rho)) for name, rho in item.rho.items()},
        "rho_intervals": {
            name: _by_emotion(map(_ends, found.intervals)) for name, found in item.figures.items()
        },
        "mean": {name: _finite(found.mean) for name, found in item.figures.items()},
        "mean_intervals": {name: _ends(found.mean_interval) for name, found in item.figures.items()},
        "curves": {
            curve.kind.name: [{"level": point.level, **_point(point.figures)} for point in curve.points]
            for curve in item.curves
        },
        "notes": item.notes,
    }


def _point(figures: Figures) -> dict[str, Any]:
    return {
        "mean": _finite(figures.mean),
        "mean_interval": _ends(figures.mean_interval),
        "rho": _by_emotion(map(_finite, figures.rho)),
        "rho_intervals": _by_emotion(map(_ends, figures.intervals)),
    }


def _by_emotion(values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(EMOTIONS, values, strict=False))


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _finite(value: float) -> float | None:
    # JSON has no NaN, which stands for what cannot be said of clips without labels.
    return value if math.isfinite(value) else None
