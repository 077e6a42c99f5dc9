"""The pictures of a report's page: what is drawn follows the samples, and nothing is clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taemi.charts import COLOURS
from taemi.pictures import GREY, new_figure
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.scope_report import SweepPoint, SweepReport
from taemi_bench.stats import Latency
from taemi_bench.tables import row_name, typical_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_WIDTH = 9.6
_MARKERS = "osD^vPX"
_PERCENTILE_MARKS = {"p90": "|", "p95": "d", "p99": "s"}
# Beyond this ratio the small ones of a linear axis lie on top of each other.
_LOG_RATIO = 12
_MOST_DOTS = 2000


def draw_latency(rows: Sequence[RowReport]) -> Figure | None:
    """Draw one scope's rows: every sample, the percentiles that the samples carry, the mean."""
    timed = [(row, row.latency_ms) for row in rows if row.latency_ms is not None]
    if not timed:
        return None
    figure, axes = _lines([row_name(row) for row, _ in timed], "latency of one call, ms")
    for place, (row, latency) in enumerate(timed):
        colour = COLOURS[1] if row.backend == PYTORCH else COLOURS[0]
        # Every stride-th sample of a long run, and always its extremes: the line spans them all.
        shown = latency.values[:: max(1, len(latency.values) // _MOST_DOTS)]
        lanes = [place + 0.3 * ((index % 7) / 3 - 1) for index in range(len(shown))]
        faint = 0.6 if len(shown) < 100 else 0.25
        axes.plot(shown, lanes, ".", color=colour, alpha=faint, markersize=5, mew=0, rasterized=True)
        axes.plot([latency.min, latency.max], [place, place], color=colour, linewidth=1)
        for name, mark in _PERCENTILE_MARKS.items():
            if (value := getattr(latency, name)) is not None:
                axes.plot(value, place, mark, color="black", markersize=10 if mark == "|" else 5)
        if latency.p50 is not None:
            axes.plot(latency.p50, place, "o", color=colour, markeredgecolor="white", markersize=9)
        axes.plot(latency.mean, place, "x", color="black", markersize=7)
        _beside(axes, place, f"{typical_ms(latency)} ms")
    _scale(axes, "x")
    marks = [
        _mark("o", COLOURS[0], "p50"),
        *(_mark(mark, "black", p) for p, mark in _PERCENTILE_MARKS.items()),
    ]
    marks += [_mark("x", "black", "mean"), _mark(".", GREY, "each call")]
    marks += [_mark("s", COLOURS[1], "PyTorch"), _mark("s", COLOURS[0], "engines")]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    return figure


def draw_growth(sweep: SweepReport) -> Figure | None:
    """Draw how rows grow along an ordered axis: medians, up to the 90th percentile where there is one."""
    points = [point for point in sweep.points if point.value is not None]
    names = _names(points)
    if len(points) < 2 or not names:
        return None
    rates = any(item.items_per_second is not None for point in points for item in point.rows)
    figure = new_figure(_WIDTH, 4.2 + 0.17 * len(names) / 2)
    panels = figure.subplots(1, 1 + rates, squeeze=False)[0]
    for place, name in enumerate(names):
        style = _style(place)
        found = [
            (point.value, item)
            for point in points
            for item in point.rows
            if item.name == name and point.value is not None
        ]
        timed = [(value, item.latency_ms) for value, item in found if item.latency_ms is not None]
        # Too few calls for a median are a hollow mark at their mean.
        for kind, chosen in (("full", True), ("none", False)):
            at = [(x, item.typical) for x, item in timed if (item.p50 is not None) == chosen]
            panels[0].plot(*_columns(at), linestyle="", fillstyle=kind, markersize=6, **style)
        panels[0].plot(*_columns([(x, item.typical) for x, item in timed]), color=style["color"])
        high = [(x, item.p50, item.p90) for x, item in timed if item.p50 is not None and item.p90 is not None]
        if high:
            panels[0].fill_between(*_columns(high, 3), color=style["color"], alpha=0.15, linewidth=0)
        if rates:
            at = [(x, item.items_per_second) for x, item in found if item.items_per_second is not None]
            panels[1].plot(*_columns(at), markersize=6, **style)
    values = [point.value for point in points if point.value is not None]
    for axes, label in zip(panels, ("latency of one call, ms", "items a second"), strict=False):
        axes.set(xlabel=sweep.axis, ylabel=label)
        if min(values) > 0 and max(values) >= 8 * min(values):
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [point.label for point in points])
        axes.minorticks_off()
        _scale(axes, "y")
        _plain(axes)
    _row_legend(figure, names)
    return figure


def draw_conditions(sweep: SweepReport) -> Figure | None:
    """Draw rows at points without an order, such as which inputs are there: a line a point."""
    points = [point for point in sweep.points if point.value is None]
    names = _names(points)
    if not points or not names:
        return None
    figure, axes = _lines([point.label for point in points], "latency of one call, ms", extra=len(names) / 12)
    for line, point in enumerate(points):
        columns = {item.name: item.latency_ms for item in point.rows}
        for place, name in enumerate(names):
            latency = columns.get(name)
            if latency is not None:
                style = _style(place)
                fill = "none" if latency.p50 is None else "full"
                axes.plot(latency.typical, line, markersize=7, alpha=0.85, fillstyle=fill, **style)
    _scale(axes, "x")
    _row_legend(figure, names)
    return figure


def draw_error(rows: Sequence[RowReport]) -> Figure | None:
    """Draw one scope's speed against its error: low and left is better."""
    found = [
        (row, row.latency_ms, row.max_abs)
        for row in rows
        if row.latency_ms is not None and row.max_abs is not None
    ]
    above = [error for _, _, error in found if error > 0]
    if not above:
        return None
    figure = new_figure(_WIDTH, 3.6 + 0.17 * len(found) / 2)
    axes = figure.subplots()
    # No logarithm reaches zero: equal outputs stand on a line of their own, below the smallest difference.
    floor = min(above) / 10
    for place, (_, latency, error) in enumerate(found):
        style = _style(place)
        axes.plot(latency.typical, max(error, floor), linestyle="", markersize=9, **style)
    axes.set_yscale("log")
    axes.set_ylim(floor / 3, max(above) * 4)
    if any(error == 0 for _, _, error in found):
        axes.axhline(floor, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate("equal", (1.01, floor), xycoords=("axes fraction", "data"), va="center", color=GREY)
    axes.set(xlabel="latency of one call, ms", ylabel="largest difference to PyTorch fp32")
    _scale(axes, "x")
    _plain(axes)
    _row_legend(figure, [row_name(row) for row, _, _ in found])
    return figure


def draw_rho(sweep: SweepReport) -> Figure | None:
    """Draw correlation with labels against speed, a line a row, its points named."""
    names = [name for name in _names(sweep.points) if _rho_line(sweep.points, name)]
    if not names:
        return None
    figure = new_figure(_WIDTH, 3.6 + 0.17 * len(names) / 2)
    axes = figure.subplots()
    for place, name in enumerate(names):
        line = _rho_line(sweep.points, name)
        style = _style(place)
        axes.plot(*_columns([(x, y) for x, y, _ in line]), markersize=7, **style)
        for x, y, label in line:
            axes.annotate(label, (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.margins(y=0.2)
    axes.set(xlabel="latency of one call, ms", ylabel="Spearman's rho with labels")
    _plain(axes)
    _row_legend(figure, names)
    return figure


def draw_floor(rows: Sequence[RowReport]) -> Figure | None:
    """Draw how near every row of every scope is to the machine's floor."""
    found = [(row, row.floor) for row in rows if row.floor is not None]
    if not found:
        return None
    figure, axes = _lines([f"{row.scope}: {row.name}" for row, _ in found], "floor / median, %")
    for place, (row, floor) in enumerate(found):
        colour = COLOURS[1] if row.backend == PYTORCH else COLOURS[0]
        axes.barh(place, 100 * floor.share, height=0.62, color=colour)
        _beside(axes, place, f"{100 * floor.share:.0f} %")
    axes.axvline(100, color="black", linewidth=1)
    axes.set_xlim(0, max(105.0, *(105 * floor.share for _, floor in found)))
    marks = [_mark("s", COLOURS[1], "PyTorch"), _mark("s", COLOURS[0], "engines")]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def draw_stages(stages: Sequence[tuple[str, Mapping[str, float], Latency]]) -> Figure | None:
    """Draw the stages of rows end to end, and how long a whole call took.

    Stages that run beside one another add up to more than the call, and what no stage holds makes them less.

    Args:
        stages: A row's name, the median milliseconds of its stages, and its whole calls.
    """
    names = list(dict.fromkeys(stage for _, found, _ in stages for stage in found))
    if not names:
        return None
    from matplotlib.patches import Patch

    # More stages than colours: hatched from the seventh on.
    styles: dict[str, dict[str, Any]] = {
        name: {"facecolor": COLOURS[index % len(COLOURS)], "hatch": "///" if index >= len(COLOURS) else None}
        for index, name in enumerate(names)
    }
    figure, axes = _lines([name for name, _, _ in stages], "ms, medians", extra=len(names) / 12)
    for place, (_, found, call) in enumerate(stages):
        left = 0.0
        for name in names:
            if name in found:
                axes.barh(place, found[name], 0.55, left, edgecolor="white", **styles[name])
                left += found[name]
        axes.plot([call.typical] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2.5)
        _beside(axes, place, f"{typical_ms(call)} ms")
    axes.set_xlim(left=0)
    marks: list[Any] = [Patch(label=name, edgecolor="white", **styles[name]) for name in names]
    marks.append(_mark("|", "black", "the whole call"))
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _lines(labels: Sequence[str], x_label: str, *, extra: float = 0.0) -> tuple[Figure, Axes]:
    """Return a figure of one line a label, read from top to bottom."""
    figure = new_figure(_WIDTH, 1.3 + 0.36 * len(labels) + extra)
    axes = figure.subplots()
    for place in range(0, len(labels), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f5f7f9", zorder=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(x_label)
    _plain(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _beside(axes: Axes, place: int, said: str) -> None:
    where = ("axes fraction", "data")
    axes.annotate(said, (1.01, place), xycoords=where, va="center", fontsize=9, annotation_clip=False)


def _scale(axes: Axes, which: str) -> None:
    """Show an axis from zero on, or logarithmic where what is drawn differs by more than an order."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    limits = axes.dataLim
    low, high = (limits.x0, limits.x1) if which == "x" else (limits.y0, limits.y1)
    if low > 0 and high > _LOG_RATIO * low:
        axes.set(**{f"{which}scale": "log"})
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        axes.set(**{f"{which}lim": (0, high * 1.05)})


def _row_legend(figure: Figure, names: Sequence[str]) -> None:
    marks = [_mark(label=name, **_style(place)) for place, name in enumerate(names)]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _style(place: int) -> dict[str, Any]:
    """Return a colour and a mark, no two alike among the first 42 rows."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def _mark(marker: str, color: str, label: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, marker=marker, linestyle="", label=label)


def _names(points: Sequence[SweepPoint]) -> list[str]:
    return list(
        dict.fromkeys(item.name for point in points for item in point.rows if item.latency_ms is not None)
    )


def _rho_line(points: Sequence[SweepPoint], name: str) -> list[tuple[float, float, str]]:
    return [
        (item.latency_ms.typical, item.rho, point.label)
        for point in points
        for item in point.rows
        if item.name == name and item.rho is not None and item.latency_ms is not None
    ]


def _columns(points: Sequence[tuple[float, ...]], count: int = 2) -> tuple[tuple[float, ...], ...]:
    return tuple(zip(*points, strict=True)) if points else ((),) * count
