"""An ablation's picture: our means with their spread, and the paper's figures as marks of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taemi.ablation.figures import Report, RowFigures
from taemi.ablation.table import corpus_mark, format_estimate
from taemi.charts import COLOURS
from taemi.pictures import GREY, new_figure, png
from taemi.recipe import MODALITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = COLOURS[0]
_PAPER_MARK: dict[str, Any] = {
    "marker": "D",
    "linestyle": "",
    "color": COLOURS[1],
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
    "markersize": 5.5,
}
_BASELINE_MARK: dict[str, Any] = {**_PAPER_MARK, "marker": "s", "color": COLOURS[2]}
# Ours stands above the line of its row and the paper's below it, so that equal figures hide no mark.
_ABOVE, _BELOW = -0.17, 0.19


def draw(report: Report) -> bytes:
    """Draw one line for each row of the paper's tables.

    Returns:
        A PNG.
    """
    figure = new_figure(8.5, 1.7 + 0.4 * len(report.rows))
    axes = figure.subplots()
    for place, row in enumerate(report.rows):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(report.rows)), [row.row for row in report.rows])
    axes.set_ylim(len(report.rows) - 0.4, -0.6)
    axes.set_xlabel("mean Pearson correlation over the outputs, validation split")
    # Room for the figures beside the rightmost marks.
    axes.margins(x=0.09)
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _legend(figure)
    title = f"Ablation on {corpus_mark(report)}; the paper's figures: Hume-Vidmimic2"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return png(figure)


def _draw_row(axes: Axes, place: int, row: RowFigures) -> None:
    if place % 2 == 0:
        axes.axhspan(place - 0.5, place + 0.5, color="#f5f7f9", zorder=0)
    said = row.state
    if row.rho is not None:
        said = f"{format_estimate(row.rho)}  (n {row.rho.n})"
        ours = [run.rho for run in row.runs]
        axes.plot(ours, [place + _ABOVE] * len(ours), "|", color=_OURS, markersize=9, alpha=0.55)
        axes.errorbar(
            row.rho.mean, place + _ABOVE, xerr=row.rho.spread, fmt="o", color=_OURS, capsize=3, markersize=6
        )
    for item in row.printed:
        mark = _BASELINE_MARK if row.modalities != MODALITIES else _PAPER_MARK
        axes.plot(item.rho, place + _BELOW, **mark)
        axes.annotate(
            f"{item.rho:.2f}",
            (item.rho, place + _BELOW),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY,
        )
    axes.annotate(
        said,
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        color=_OURS if row.rho else GREY,
    )


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=_OURS, marker="o", label="here: mean ± standard deviation over seeds"),
        Line2D([], [], color=_OURS, marker="|", linestyle="", markersize=9, alpha=0.55, label="each seed"),
        Line2D([], [], **_PAPER_MARK, label="the paper"),
        Line2D([], [], **_BASELINE_MARK, label="challenge baselines"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)
