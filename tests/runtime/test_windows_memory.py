"""An hour of stream leaves memory flat."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import taemi_runtime
from taemi_runtime.over_time.session import Session
from taemi_runtime.over_time.timeline import MOST_POINTS
from tests.runtime import lossless
from tests.runtime.lossless import RATE_HZ
from tests.runtime.made_clips import SAME_CODE
from tests.runtime.stepped import Synthetic


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_an_hour_of_a_source_keeps_no_more_than_its_first_minutes(bundle):
    with taemi_runtime.load(bundle.folder, device="cpu", asr="none") as scorer:
        scorer.prepare()
        session = Session(scorer, Synthetic(3600.0), 6.0)
        most_samples = most_frames = 0
        grown = []
        for result in session:
            samples, frames = session.windows.kept
            most_samples, most_frames = max(most_samples, samples), max(most_frames, frames)
            if result.index in (50, 598):
                gc.collect()
                grown.append(resident_mb())
    assert result.index == 598
    # What a window needs, and what came while it was scored.
    assert most_samples <= (12 + 6 + 30 + 1) * RATE_HZ
    assert most_frames <= (12 + 6) * 10 + 128 + 16
    print(f"resident memory after 5 min and 1 h: {grown[0]:.0f} MB and {grown[1]:.0f} MB")
    assert grown[1] - grown[0] < 10


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_files_length(bundle, tmp_path):
    peaks = []
    for minutes in (2, 60):
        second = lossless.sound(1.0)
        path = tmp_path / f"{minutes}.mkv"
        lossless.write(path, np.tile(second, minutes * 60), lossless.pictures(minutes * 60.0, fps=2), fps=2)
        code = (
            "import re, taemi_runtime\n"
            f"with taemi_runtime.load({str(bundle.folder)!r}, device='cpu', asr='none') as scorer:\n"
            f"    for _ in scorer.predict_windows({str(path)!r}, hop=10.0): pass\n"
            "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) / 1024)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=SAME_CODE,
            check=True,
            timeout=600,
        )
        peaks.append(float(done.stdout))
    print(f"peak memory for 2 min and 1 h: {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
    assert peaks[1] - peaks[0] < 25


def test_a_picture_of_a_day_keeps_a_bounded_number_of_points(bundle, clips, tmp_path):
    from dataclasses import replace

    from taemi_runtime.over_time.timeline import Timeline

    with taemi_runtime.load(bundle.folder, device="cpu", asr="none") as scorer:
        (result,) = scorer.predict_windows(clips.both)
        timeline = Timeline(tmp_path / "day.svg", scorer.labels)
        for index in range(43_200):
            timeline.add(replace(result, start_s=index * 2.0, end_s=index * 2.0 + 12))
            assert len(timeline) <= MOST_POINTS
        timeline.save()
    drawn = (tmp_path / "day.svg").read_text()
    assert "43200 windows" in drawn
    assert "each dot the mean of 16 of them" in drawn
    assert (tmp_path / "day.svg").stat().st_size < 2_000_000
