"""An evaluation as pictures: correlations per condition, and along curves, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taemi.charts import COLOURS
from taemi.evaluate.cases import RATE
from taemi.evaluate.results import Curve, Evaluation, Figures
from taemi.pictures import GREY, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_conditions(evaluations: Sequence[Evaluation]) -> bytes:
    """Draw the mean correlation of every condition with its interval.

    Args:
        evaluations: The models, at least one, on clips that have labels.

    Returns:
        A PNG.
    """
    names = list(evaluations[0].figures)
    figure = new_figure(8.0, 0.9 + 0.42 * len(names) + 0.2 * len(evaluations))
    axes = figure.subplots()
    for place, item in enumerate(evaluations):
        shift = (place - (len(evaluations) - 1) / 2) * 0.2
        across = [row + shift for row in range(len(names))]
        means, below, above = _ends(list(item.figures.values()))
        axes.errorbar(
            means,
            across,
            xerr=(below, above),
            fmt="o",
            capsize=3,
            color=COLOURS[place % len(COLOURS)],
            label=_model_name(item, evaluations),
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(_rho_label(evaluations[0]))
    axes.set_title(_title(evaluations), loc="left", fontsize=11)
    _legend(figure, evaluations)
    return png(figure)


def draw_curves(evaluations: Sequence[Evaluation]) -> bytes:
    """Draw the mean correlation along every curve, the clips as they are as a line across.

    Args:
        evaluations: The models, at least one, with the same curves, on clips that have labels.

    Returns:
        A PNG with a panel a curve.
    """
    first = evaluations[0]
    columns = min(2, len(first.curves))
    rows = math.ceil(len(first.curves) / columns)
    figure = new_figure(5.2 * columns, 3.5 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(panels.flat):
        if place >= len(first.curves):
            axes.set_visible(False)
            continue
        for number, item in enumerate(evaluations):
            _draw_curve(
                axes, item.curves[place], COLOURS[number % len(COLOURS)], _model_name(item, evaluations)
            )
        axes.set_title(first.curves[place].kind.title, fontsize=10)
        if place % columns == 0:
            axes.set_ylabel(_rho_label(first))
    figure.suptitle(_title(evaluations), x=0.01, ha="left", fontsize=11)
    _legend(figure, evaluations)
    return png(figure)


def _draw_curve(axes: Axes, curve: Curve, colour: str, name: str) -> None:
    # The clips as they are first, as they are the mildest level; of frame rates they are the most frames.
    clean, *points = curve.points
    ordered = [*points, clean] if curve.kind is RATE else [clean, *points]
    # Evenly apart, whatever the levels: they are chosen as steps, and rates double.
    places = range(len(ordered))
    means, below, above = _ends([point.figures for point in ordered])
    axes.fill_between(
        places,
        [mean - gap for mean, gap in zip(means, below, strict=True)],
        [mean + gap for mean, gap in zip(means, above, strict=True)],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(places, means, "o-", color=colour, label=name)
    axes.axhline(clean.figures.mean, color=colour, linestyle="--", linewidth=1)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_xticks(places, [curve.kind.label(point.level) for point in ordered])
    axes.set_xlabel(curve.kind.axis)
    axes.grid(alpha=0.3)


def _ends(found: Sequence[Figures]) -> tuple[list[float], list[float], list[float]]:
    """Return means, and how far their intervals reach below and above; BCa ends may both lie on one side."""
    means = [figures.mean for figures in found]
    known = [figures.mean_interval for figures in found]
    below = [max(0.0, mean - ends.low) if ends else 0.0 for mean, ends in zip(means, known, strict=True)]
    above = [max(0.0, ends.high - mean) if ends else 0.0 for mean, ends in zip(means, known, strict=True)]
    return means, below, above


def _rho_label(item: Evaluation) -> str:
    return f"mean rho, {100 * item.sampling.confidence:g} % interval"


def _title(evaluations: Sequence[Evaluation]) -> str:
    first = evaluations[0]
    models = f"{len(evaluations)} models" if len(evaluations) > 1 else Path(first.model).name
    synthetic = "synthetic, " if first.synthetic else ""
    return f"{models} on {first.split} ({synthetic}{len(first.names)} clips)"


def _model_name(item: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    path = Path(item.model)
    same = sum(Path(other.model).name == path.name for other in evaluations) > 1
    return f"{path.parent.name}/{path.name}" if same else path.name


def _legend(figure: Figure, evaluations: Sequence[Evaluation]) -> None:
    if len(evaluations) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
