"""Small SVG charts for self-contained pages: no script, no font, no file beside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Distinguishable with the usual colour-vision deficiencies (Okabe and Ito's palette, 2008).
COLOURS: tuple[str, ...] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 22, 34


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: What the legend calls it.
        x: Places, in order.
        y: Values, one a place.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    width: int = 440,
    height: int = 220,
    from_zero: bool = True,
) -> str:
    """Draw lines over a common axis.

    Args:
        series: The lines; at least one with at least one point.
        x_label: What the horizontal axis shows, with its unit.
        y_label: What the vertical axis shows, with its unit.
        width: Width in pixels.
        height: Height in pixels.
        from_zero: Whether the vertical axis includes zero.

    Returns:
        An ``<svg>`` element.
    """
    xs = [value for line in series for value in line.x]
    ys = [value for line in series for value in line.y] + ([0.0] if from_zero else [])
    x_low, x_high = _span(xs)
    y_low, y_high = _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (width - _LEFT - _RIGHT)
        up = (y - y_low) / (y_high - y_low) * (height - _TOP - _BOTTOM)
        return _LEFT + across, height - _BOTTOM - up

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for value in _ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(x_low, x_high):
        x, _ = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for colour, line in zip(COLOURS, series, strict=False):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(line.x, line.y, strict=True))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        if len(line.x) <= 60:
            dots = (place(x, y) for x, y in zip(line.x, line.y, strict=True))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in dots]
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{_LEFT}" y="13">{escape(y_label)}</text>')
    parts += _legend([line.name for line in series], width)
    return "".join([*parts, "</svg>"])


def bar_chart(
    rows: Sequence[tuple[str, float, str]], *, top: float | None = None, width: int = 440, left: int = 120
) -> str:
    """Draw horizontal bars.

    Args:
        rows: Name, value and printed value of each bar; negative values have no bar.
        top: The value of a full bar; the largest of ``rows`` when ``None``.
        width: Width in pixels.
        left: Room for the names in pixels.

    Returns:
        An ``<svg>`` element.
    """
    full = top if top is not None else max((value for _, value, _ in rows), default=0.0)
    step = 22
    height = step * len(rows) + 6
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for index, (name, value, shown) in enumerate(rows):
        y = step * index + 4
        length = max(0.0, value) / full * (width - left - 70) if full > 0 else 0.0
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="16" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 13}">{escape(shown)}</text>')
    return "".join([*parts, "</svg>"])


def _legend(names: Sequence[str], width: int) -> list[str]:
    if len(names) < 2:
        return []
    parts = []
    x = float(width - _RIGHT)
    for colour, name in reversed(list(zip(COLOURS, names, strict=False))):
        x -= 7.0 * len(name)
        parts.append(f'<text x="{x:.0f}" y="13">{escape(name)}</text>')
        parts.append(f'<rect x="{x - 14:.0f}" y="4" width="10" height="10" fill="{colour}"/>')
        x -= 26
    return parts


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    return low, high + (high - low) * 0.04


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers between two values: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [round(number * step, 10) for number in numbers]
