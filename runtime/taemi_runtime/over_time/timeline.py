"""A picture of scores over time: one row for each score, and which modalities they rest on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.atomic import write_bytes
from taemi_runtime.over_time.canvas import Canvas, canvas_for
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.rows import clock_time

MODALITIES = ("audio", "vision", "text")
# Points that a picture keeps; neighbours are joined in pairs beyond them, so that memory stays flat.
MOST_POINTS = 4096

_WIDTH, _LEFT, _RIGHT, _TOP = 1000, 128, 24, 56
_ROW, _GAP, _STRIP = 84, 14, 12
# Distinguishable with the usual colour-vision deficiencies (Okabe and Ito's palette, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_GRID, _SHADE, _THERE, _PARTLY, _PALE = "#dddddd", "#ededed", "#7a8fa6", "#bcc7d3", "#666666"
_LONGEST_NAME = 100
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


Across = Callable[[float], float]


@dataclass(frozen=True)
class _Mark:
    """One window, or several joined.

    Args:
        start_s: The beginning of the first.
        end_s: The end of the last.
        centre_s: The mean of their middles.
        scores: Their mean scores.
        present: The share of them that each modality was present in.
        windows: How many.
        begins: Whether a stretch begins, or windows were skipped before: no line leads here.
    """

    start_s: float
    end_s: float
    centre_s: float
    scores: tuple[float, ...]
    present: tuple[float, ...]
    windows: int
    begins: bool


class Timeline:
    """Collects results and draws them.

    Args:
        path: The picture, ``.svg`` or ``.png``.
        labels: Names of the scores in order.

    Raises:
        UsageError: The suffix is another one.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._kind = canvas_for(path)
        self._path = path
        self._labels = tuple(labels)
        self._marks: list[_Mark] = []
        self._pair: list[_Mark] = []
        self._join = 1
        self._name = ""
        self._untrained = False

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, result: WindowResult) -> None:
        """Take a window's result."""
        self._name = result.clip
        self._untrained = result.scores.untrained
        uses = (result.audio, result.vision, result.text)
        self._pair.append(
            _Mark(
                result.start_s,
                result.end_s,
                (result.start_s + result.end_s) / 2,
                tuple(result.intensities[label] for label in self._labels),
                tuple(float(use.present) for use in uses),
                1,
                begins=result.gap_s is not None or result.skipped > 0,
            )
        )
        if len(self._pair) == self._join:
            self._marks.append(_joined(self._pair))
            self._pair = []
        if len(self._marks) > MOST_POINTS:
            self._marks = [_joined(self._marks[at : at + 2]) for at in range(0, len(self._marks), 2)]
            self._join *= 2

    def save(self) -> None:
        """Write the picture.

        Raises:
            WriteError: The file cannot be written.
        """
        marks = self._marks + ([_joined(self._pair)] if self._pair else [])
        rows = len(self._labels)
        strips_at = _TOP + rows * (_ROW + _GAP)
        height = strips_at + len(MODALITIES) * (_STRIP + 4) + 44
        canvas = self._kind(_WIDTH, height)
        self._draw(canvas, marks, strips_at)
        write_bytes(self._path, canvas.content())

    def _draw(self, canvas: Canvas, marks: list[_Mark], strips_at: float) -> None:
        canvas.write((_LEFT, 24), _shortened(self._name), size=15, colour="#111111")
        if not marks:
            canvas.write((_LEFT, 42), "no window was scored", colour=_PALE)
            return
        start_s, end_s = min(mark.start_s for mark in marks), max(mark.end_s for mark in marks)
        span_s = max(end_s - start_s, 1e-3)
        lasts_s = max((mark.end_s - mark.start_s for mark in marks if mark.windows == 1), default=0.0)
        windows = sum(mark.windows for mark in marks)
        joined = f", each dot the mean of {self._join} of them" if self._join > 1 else ""
        note = (
            f"{windows} windows of {lasts_s:g} s (the bar), drawn at their middles{joined}" if lasts_s else ""
        )
        if self._untrained:
            note += " - untrained weights: the scores mean nothing"
        canvas.write((_LEFT, 42), note or f"{windows} windows{joined}", colour=_PALE)

        def across(time_s: float) -> float:
            return _LEFT + (time_s - start_s) / span_s * (_WIDTH - _LEFT - _RIGHT)

        if lasts_s:
            left, right, y = across(start_s), across(start_s + lasts_s), _TOP - 6
            canvas.line([(left, y), (right, y)], _PALE, 1.5)
            for x in (left, right):
                canvas.line([(x, y - 3), (x, y + 3)], _PALE, 1.0)
        low, high = _range(marks)
        bottom = strips_at - _GAP
        cells = _cells(marks)
        for row, label in enumerate(self._labels):
            self._draw_row(canvas, marks, row, label, (low, high), across)
        for strip, name in enumerate(MODALITIES):
            top = strips_at + strip * (_STRIP + 4)
            canvas.write((_LEFT - 10, top + _STRIP - 2), name, anchor="r")
            canvas.box(_LEFT, top, _WIDTH - _RIGHT, top + _STRIP, _SHADE)
            shades = [_shade(mark.present[strip]) for mark in marks]
            for left_s, right_s, shade in _runs(cells, shades):
                canvas.box(across(left_s), top, across(right_s), top + _STRIP, shade)
        for left_s, right_s in _holes(marks):
            canvas.line([(across(left_s), _TOP), (across(left_s), bottom)], _PALE, 0.5)
            canvas.line([(across(right_s), _TOP), (across(right_s), bottom)], _PALE, 0.5)
            middle = (across(left_s) + across(right_s)) / 2
            canvas.write((middle, _TOP - 3), "gap", size=10, colour=_PALE, anchor="m")
        self._draw_times(canvas, start_s, end_s, strips_at, across)

    def _draw_row(
        self,
        canvas: Canvas,
        marks: list[_Mark],
        row: int,
        label: str,
        scale: tuple[float, float],
        across: Across,
    ) -> None:
        low, high = scale
        top = _TOP + row * (_ROW + _GAP)

        def down(score: float) -> float:
            return top + _ROW - (score - low) / (high - low) * _ROW

        # What is missing everywhere would shade everything.
        used = [any(column) for column in zip(*(mark.present for mark in marks), strict=True)]
        shades = [
            _SHADE
            if any(there and share < 1 for there, share in zip(used, mark.present, strict=True))
            else ""
            for mark in marks
        ]
        for left_s, right_s, shade in _runs(_cells(marks), shades):
            canvas.box(across(left_s), top, across(right_s), top + _ROW, shade)
        for value in (low, (low + high) / 2, high):
            canvas.line([(_LEFT, down(value)), (_WIDTH - _RIGHT, down(value))], _GRID, 0.75)
            canvas.write((_LEFT - 6, down(value) + 4), f"{value:.2g}", size=10, colour=_PALE, anchor="r")
        canvas.write((_LEFT - 36, top + _ROW / 2 + 4), label, size=12, colour="#111111", anchor="r")
        colour = _COLOURS[row % len(_COLOURS)]
        points = [(across(mark.centre_s), down(mark.scores[row])) for mark in marks]
        run: list[tuple[float, float]] = []
        for mark, point in zip(marks, points, strict=True):
            if mark.begins and len(run) > 1:
                canvas.line(run, colour, 1.75)
            run = [point] if mark.begins else [*run, point]
        if len(run) > 1:
            canvas.line(run, colour, 1.75)
        if len(points) <= 120:
            for point in points:
                canvas.dot(point, 2.2, colour)

    def _draw_times(
        self, canvas: Canvas, start_s: float, end_s: float, strips_at: float, across: Across
    ) -> None:
        bottom = strips_at + len(MODALITIES) * (_STRIP + 4)
        step_s = next((step for step in _STEPS_S if (end_s - start_s) / step <= 12), _STEPS_S[-1])
        for at in range(math.ceil(start_s / step_s - 1e-6), math.floor(end_s / step_s + 1e-6) + 1):
            x = across(at * step_s)
            canvas.line([(x, bottom), (x, bottom + 4)], _PALE)
            canvas.write((x, bottom + 17), clock_time(at * step_s), size=11, colour=_PALE, anchor="m")
        text = "time in the source; grey behind the lines: a modality is missing that is there elsewhere"
        canvas.write(((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 34), text, size=11, colour=_PALE, anchor="m")


def _joined(marks: list[_Mark]) -> _Mark:
    """Return one mark for several in a row."""
    if len(marks) == 1:
        return marks[0]
    windows = sum(mark.windows for mark in marks)

    def mean(values: Iterable[float]) -> float:
        return sum(value * mark.windows for value, mark in zip(values, marks, strict=True)) / windows

    return _Mark(
        marks[0].start_s,
        marks[-1].end_s,
        mean(mark.centre_s for mark in marks),
        tuple(map(mean, zip(*(mark.scores for mark in marks), strict=True))),
        tuple(map(mean, zip(*(mark.present for mark in marks), strict=True))),
        windows,
        any(mark.begins for mark in marks),
    )


def _range(marks: list[_Mark]) -> tuple[float, float]:
    """Return the one scale of all rows, so that their heights compare: from 0 to a round number."""
    scores = [score for mark in marks for score in mark.scores]
    high = math.ceil(max(*scores, 0.1) * 10 - 1e-9) / 10
    low = math.floor(min(*scores, 0.0) * 10 + 1e-9) / 10
    return low, high


def _holes(marks: list[_Mark]) -> list[tuple[float, float]]:
    """Return where the source gave nothing."""
    return [
        (before.end_s, after.start_s)
        for before, after in itertools.pairwise(marks)
        if after.begins and after.start_s > before.end_s
    ]


def _cells(marks: list[_Mark]) -> list[tuple[float, float]]:
    """Return the stretch of the axis that each mark stands for: half the way to its neighbours."""
    lefts = [marks[0].start_s]
    rights = []
    for before, after in itertools.pairwise(marks):
        if after.start_s >= before.end_s:
            rights.append(before.end_s)
            lefts.append(after.start_s)
        else:
            middle_s = (before.centre_s + after.centre_s) / 2
            rights.append(middle_s)
            lefts.append(middle_s)
    return list(zip(lefts, [*rights, marks[-1].end_s], strict=True))


def _shade(share: float) -> str:
    """Return the colour of a strip by the share of windows that have the modality; empty for none."""
    return "" if share == 0 else _THERE if share == 1 else _PARTLY


def _runs(cells: list[tuple[float, float]], shades: list[str]) -> list[tuple[float, float, str]]:
    """Join neighbouring cells of one colour, which would show seams; leave out those without."""
    found: list[tuple[float, float, str]] = []
    for (left_s, right_s), shade in zip(cells, shades, strict=True):
        if found and found[-1][2] == shade and found[-1][1] == left_s:
            found[-1] = (found[-1][0], right_s, shade)
        else:
            found.append((left_s, right_s, shade))
    return [run for run in found if run[2]]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
