"""What long work says of itself where nobody watches."""

from __future__ import annotations

import re
import time

import pytest

from taemi_runtime import console


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.1)
    with console.progress() as tick:
        for done in range(1, 41):
            tick("extract", done, 400)
            time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    # 40 clips in 0.4 s or more, and a line each 0.1 s at the most.
    assert 1 <= len(lines) <= 10
    for line in lines:
        found = re.fullmatch(r"extract: (\d+) of 400, (\d+\.\d)/s, about (\d+) s left", line)
        assert found, line
        done, speed = int(found[1]), float(found[2])
        assert 0 < speed <= 100
        # Both are rounded.
        assert int(found[3]) == pytest.approx((400 - done) / speed, abs=1)


def test_short_work_and_quiet_work_say_nothing(monkeypatch, capsys):
    with console.progress() as tick:
        tick("extract", 1, 2)
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    with console.progress(quiet=True) as tick:
        tick("extract", 1, 2)
    assert capsys.readouterr().err == ""


def test_durations_have_two_units():
    assert [console.format_duration(seconds) for seconds in (0.4, 59.6, 3599, 12_000)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "3 h 20 min",
    ]
