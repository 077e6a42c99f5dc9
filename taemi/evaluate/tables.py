"""An evaluation as tables: for a terminal and in Markdown, the same figures in both."""

from __future__ import annotations

import math
from collections.abc import Sequence

from taemi.evaluate.resampling import Interval
from taemi.evaluate.results import Curve, Difference, Evaluation, Figures
from taemi.sheets import Sheet, format_sheets
from taemi_runtime.emotions import EMOTIONS


def sheets(evaluations: Sequence[Evaluation], differences: Sequence[Difference] = ()) -> list[Sheet]:
    """Return every table of an evaluation.

    Args:
        evaluations: The models; the first one is shown in full.
        differences: How each differs from the first, where there are several.
    """
    first = evaluations[0]
    found = [_emotions(first), _conditions(first)]
    if len(evaluations) > 1:
        found.append(_models(evaluations, differences))
    for item in evaluations:
        found += [_curve(item, curve, named=len(evaluations) > 1) for curve in item.curves]
    return found


def format_table(evaluation: Evaluation) -> str:
    """Format a model's tables for a terminal."""
    return format_sheets(sheets([evaluation]))


def _emotions(item: Evaluation) -> Sheet:
    marks = [
        *(["synthetic clips"] if item.synthetic else []),
        *([] if item.trained else ["untrained"]),
    ]
    title = f"Pearson's rho on {item.split}, {len(item.names)} clips"
    rows = zip(
        (*EMOTIONS, "mean"),
        (*item.whole.rho, item.whole.mean),
        (*(item.whole.intervals or (None,) * len(EMOTIONS)), item.whole.mean_interval),
        strict=True,
    )
    sampling = item.sampling
    notes = [
        f"{100 * sampling.confidence:g} % intervals: {sampling.method}, {sampling.resamples:,} resamples, "
        f"seed {sampling.seed}"
    ]
    if item.failures:
        notes.append(f"{len(item.failures)} of {len(item.rows)} clips could not be scored and are left out")
    return Sheet(
        f"{title} ({', '.join(marks)})" if marks else title,
        ("emotion", "rho", "interval"),
        tuple((name, _number(value), _interval(ends)) for name, value, ends in rows),
        tuple(notes),
    )


def _conditions(item: Evaluation) -> Sheet:
    rows = ((name, str(item.clips[name]), *_cells(figures)) for name, figures in item.figures.items())
    return Sheet(
        "By what is looked at; of the rest the model is told that it is missing",
        ("modalities used", "clips with all", "mean", "interval", *EMOTIONS),
        tuple(rows),
        item.notes,
    )


def _models(evaluations: Sequence[Evaluation], differences: Sequence[Difference]) -> Sheet:
    rows = []
    for place, (item, gap) in enumerate(zip(evaluations, differences, strict=True)):
        figures = (_number(item.mean_rho), _interval(item.whole.mean_interval))
        against = (
            (_signed(gap.mean), _interval(gap.interval, ".2g"), f"{gap.max_abs:.1e}")
            if place
            else ("", "", "")
        )
        rows.append((item.model, item.engine, *figures, *(against if place else ("",) * 3)))
    return Sheet(
        "Models on the same clips",
        ("model", "engine", "mean rho", "interval", "difference", "its interval", "largest score difference"),
        tuple(rows),
        ("Differences are to the first model; their intervals rest on the same resamples of the clips",),
    )


def _curve(item: Evaluation, curve: Curve, *, named: bool) -> Sheet:
    kind = curve.kind
    rows = ((kind.label(point.level), *_cells(point.figures)) for point in curve.points)
    title = f"{kind.title[0].upper()}{kind.title[1:]}"
    return Sheet(
        f"{title}: {item.model}" if named else title,
        (kind.axis, "mean", "interval", *EMOTIONS),
        tuple(rows),
    )


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        _number(figures.mean),
        _interval(figures.mean_interval),
        *map(_number, figures.rho),
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _signed(value: float) -> str:
    return f"{value:+.2g}" if math.isfinite(value) else "-"


def _interval(ends: Interval | None, form: str = ".3f") -> str:
    return "-" if ends is None else f"[{ends.low:{form}}, {ends.high:{form}}]"
