"""Charts: what is drawn follows the numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from taemi.charts import Series, _ticks, bar_chart, line_chart


def test_lines_rise_where_values_rise_and_keep_their_order():
    svg = line_chart(
        [Series("a", [0, 1, 2], [0.0, 0.5, 1.0]), Series("b", [0, 1, 2], [1, 1, 1])],
        x_label="epoch",
        y_label="rho <mean>",
    )
    ET.fromstring(svg)
    first, second = re.findall(r'points="([^"]+)"', svg)
    places = [tuple(map(float, point.split(","))) for point in first.split()]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[0][1] > places[1][1] > places[2][1]
    assert len({point.split(",")[1] for point in second.split()}) == 1
    assert places[2][1] == float(second.split()[2].split(",")[1])
    assert "rho &lt;mean&gt;" in svg


def test_a_single_point_and_a_constant_line_are_drawn():
    ET.fromstring(line_chart([Series("a", [1], [0.3])], x_label="x", y_label="y", from_zero=False))
    ET.fromstring(line_chart([Series("a", [1, 2], [0, 0])], x_label="x", y_label="y"))


def test_bars_are_as_long_as_their_values_and_none_below_zero():
    svg = bar_chart([("one", 1.0, "1"), ("half", 0.5, "0.5"), ("minus", -2.0, "-2")])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    assert widths[2] == 0
    ET.fromstring(svg)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.6), (0, 2417), (1e-5, 3e-5), (1, 8.28)])
def test_ticks_are_round_and_inside(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 6
    assert low <= ticks[0]
    assert ticks[-1] <= high
    assert all(len(f"{tick:g}") <= 7 for tick in ticks)
