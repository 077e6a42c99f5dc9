"""Two reports side by side; figures are made up unless a test times something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from taemi_bench.change import compare_medians
from taemi_bench.compare import compare_reports, parse_threshold
from taemi_bench.compare_tables import notes
from taemi_bench.measured import measure_rows
from taemi_bench.report import write_report
from taemi_bench.row_report import Memory
from taemi_bench.rows import Row
from taemi_bench.schedule import Schedule
from taemi_runtime.errors import UsageError
from tests.benchmarks.made_reports import (
    ENGINE,
    SMALL,
    TORCH,
    batches,
    full_report,
    latency,
    report,
    row,
    scope,
)


def two_rows(engine_ms=10.0, torch_ms=20.0, seed=1, **changes):
    engine = row("a", ENGINE, engine_ms, seed=seed, error=1e-4, base_ms=torch_ms)
    return report([row("a", TORCH, torch_ms, seed=seed + 50), replace(engine, **changes)])


def verdict(before, after, **options):
    found = compare_reports(before, after, **options)
    return {item.name: item for item in found.rows}[ENGINE]


def test_two_runs_of_the_same_differ_by_less_than_their_interval():
    for seed in range(20):
        found = verdict(two_rows(seed=2), two_rows(seed=seed + 100))
        assert found.verdict == "within noise"
        assert found.against_baseline.low < 1 < found.against_baseline.high


def test_a_slower_row_is_flagged_with_its_interval():
    found = verdict(two_rows(), two_rows(12.0, seed=7))
    assert found.verdict == "slower"
    assert found.regressed
    assert found.milliseconds.ratio == pytest.approx(1.2, abs=0.03)
    assert 1.05 < found.milliseconds.low < 1.2 < found.milliseconds.high < 1.4
    assert verdict(two_rows(12.0), two_rows(seed=7)).verdict == "faster"


def test_a_machine_that_is_slower_as_a_whole_is_no_regression_and_is_said():
    found = compare_reports(two_rows(), two_rows(13.0, 26.0, seed=7))
    assert [item.verdict for item in found.rows] == ["yardstick", "within noise"]
    assert found.rows[1].milliseconds.low > 1.05
    assert not found.regressions
    assert any("itself took 1.3" in warning for warning in found.warnings)


def test_milliseconds_are_judged_when_asked_or_without_a_common_yardstick():
    before, after = two_rows(), two_rows(13.0, 26.0, seed=7)
    asked = compare_reports(before, after, absolute=True)
    assert [item.verdict for item in asked.rows] == ["slower", "slower"]
    newer = replace(after.rows[0], versions={"torch": "0.1"})
    other = compare_reports(before, replace(after, rows=(newer, after.rows[1])))
    assert other.rows[1].against_baseline is None
    assert other.rows[1].verdict == "slower"
    assert any("judged by milliseconds" in warning for warning in other.warnings)


def test_the_threshold_is_the_least_effect_that_is_flagged():
    before, after = two_rows(), two_rows(12.0, seed=7)
    assert verdict(before, after, threshold=0.5).verdict == "perhaps slower"
    assert verdict(before, two_rows(10.1, seed=1), threshold=0).verdict == "within noise"
    assert parse_threshold("5%") == 0.05
    for wrong in ("5", "-1%", "x%", "%", "nan%", ""):
        with pytest.raises(UsageError, match="--threshold 5%"):
            parse_threshold(wrong)


def test_a_slow_phase_in_one_run_widens_the_interval():
    calm = latency(10.0, seed=1).values
    disturbed = [*latency(10.0, seed=2, count=40).values, *latency(14.0, seed=3, count=20).values]
    found = compare_medians(calm, disturbed)
    assert found.low < 1 < found.high
    assert found.high > 1.3
    assert compare_medians(calm, latency(10.0, seed=2).values).high < 1.1


def test_a_drift_that_hits_both_cancels_against_the_baseline():
    drift = np.linspace(1.0, 2.0, 48)
    base, engine, slower = ((factor * drift).tolist() for factor in (20, 10, 11))
    found = compare_medians(engine, slower, base, base)
    assert (found.low, found.ratio, found.high) == pytest.approx((1.1, 1.1, 1.1), abs=0.02)
    assert compare_medians(engine, slower).low < 1


def test_too_few_samples_are_no_verdict():
    short = replace(two_rows().rows[1], latency_ms=latency(10.0, count=5))
    found = compare_reports(report([short]), report([short]))
    assert found.rows[0].verdict == "too few samples"
    assert found.rows[0].milliseconds.low is None
    assert not found.regressions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean_abs": 1e-3}, "mean difference 2.5e-05, now 1.0e-03"),
        ({"rho": 0.98}, "rho 0.9999, now 0.9800"),
        ({"state": "failed", "why": "beyond its gate"}, "failed now: beyond its gate"),
        ({"memory": Memory(host_bytes=300_000_000)}, "host memory 150.0 MB, now 300.0 MB"),
        ({"memory": Memory(device_bytes=1)}, ""),
        ({"mean_abs": 4e-5}, ""),
        ({"memory": Memory(host_bytes=160_000_000)}, ""),
    ],
)
def test_numbers_and_memory_that_became_worse_are_regressions(changes, said):
    found = verdict(two_rows(), two_rows(**changes))
    assert found.worse == ((said,) if said else ())
    assert found.regressed == bool(said)


def test_differences_on_other_inputs_are_not_compared():
    after = two_rows(mean_abs=1.0)
    after = replace(after, scopes=(replace(after.scopes[0], inputs_sha256="1" * 64),))
    found = compare_reports(two_rows(), after)
    assert not found.regressions
    assert any("inputs differ" in warning for warning in found.warnings)


def test_rows_in_one_file_alone_are_listed_with_the_reason():
    before = report([row("a", TORCH, 20.0), row("a", ENGINE, 10.0), row("a", SMALL, 5.0)])
    gone = replace(before.rows[1], state="not run", latency_ms=None, why="not installed")
    found = compare_reports(before, replace(before, rows=(before.rows[0], gone)))
    assert found.only_before == (f"a, {ENGINE} (batch=1): not installed", f"a, {SMALL} (batch=1)")
    assert found.only_after == ()


def test_other_sizes_are_never_compared():
    before = report([row("a", ENGINE, 10.0), row("b", ENGINE, 10.0)])
    after = replace(before, scopes=(scope("a", batch=8), before.scopes[1]))
    found = compare_reports(before, after)
    assert [item.scope for item in found.rows] == ["b"]
    assert "a: sizes differ: batch=1, now batch=8" in found.warnings
    with pytest.raises(UsageError, match="no row ran in both"):
        compare_reports(report([row("a", ENGINE, 1.0)]), report([row("c", ENGINE, 1.0)]))


def test_another_machine_is_warned_of():
    before = two_rows()
    machine = replace(before.machine, cpu="Another CPU", packages={"torch": "0.1", "onnxruntime": "0.0"})
    found = compare_reports(before, replace(before, threads=8, machine=machine))
    assert "processor differs: Made-up CPU, now Another CPU" in found.warnings
    assert "threads differs: 2, now 8" in found.warnings
    assert "torch differs: 0.0, now 0.1" in found.warnings


def test_points_of_a_sweep_are_compared_too():
    before = full_report()
    slow = [
        replace(
            point,
            rows=tuple(
                replace(item, latency_ms=latency(2 * item.latency_ms.typical, seed=9))
                if item.name == SMALL and point.label == "4"
                else item
                for item in point.rows
            ),
        )
        for point in batches().points
    ]
    found = compare_reports(before, replace(before, sweeps=(replace(batches(), points=tuple(slow)),)))
    assert [(item.scope, item.name) for item in found.regressions] == [("frames, batch 4", SMALL)]
    assert found.regressions[0].against_baseline is not None
    assert any(line.startswith("REGRESSION: frames, batch 4") for line in notes(found))


def work():
    values = np.ones((64, 64), dtype=np.float32)
    values @ values


def slowed():
    work()
    time.sleep(0.002)


@pytest.fixture(scope="module")
def timed():
    """Four rows timed in turns: PyTorch's place, one engine twice, and the same one slowed by 2 ms."""
    calls = {TORCH: work, "first": work, "again": work, "slowed": slowed}
    rows = [
        Row(name, "pytorch" if name == TORCH else "toy", "fp32", "a", "cpu", run=call)
        for name, call in calls.items()
    ]
    schedule = Schedule(rounds=40, seconds=0, warmup_seconds=0.01, settle_seconds=0.001)
    measured = measure_rows(rows, schedule, judge=None)
    return {item.name: item for item in measured.rows}


def as_report(timed, name):
    return report([timed[TORCH], replace(timed[name], name=ENGINE)])


def test_a_backend_slowed_by_a_sleep_of_2_ms_is_2_ms_slower_and_flagged(timed):
    found = verdict(as_report(timed, "first"), as_report(timed, "slowed"))
    assert found.verdict == "slower"
    assert found.after_ms - found.before_ms > 1.9
    # The fastest calls, as a busy machine ends most sleeps late.
    assert timed["slowed"].latency_ms.min - timed["first"].latency_ms.min == pytest.approx(2.0, abs=0.5)
    assert any(
        "REGRESSION" in line
        for line in notes(compare_reports(as_report(timed, "first"), as_report(timed, "slowed")))
    )


def test_one_engine_timed_twice_in_turns_differs_by_less_than_the_interval(timed):
    found = verdict(as_report(timed, "first"), as_report(timed, "again"))
    assert found.verdict == "within noise"
    for change in (found.milliseconds, found.against_baseline):
        assert change.low <= 1 <= change.high


def compare(*arguments):
    command = [sys.executable, "-m", "taemi_bench.cli", "compare", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"}
    )


def test_the_command_exits_with_1_on_a_regression_0_without_and_2_on_what_is_no_report(tmp_path):
    write_report(tmp_path / "a.json", two_rows())
    write_report(tmp_path / "b.json", two_rows(12.0, seed=7))
    done = compare(tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json")
    assert done.returncode == 1, done.stderr
    assert "SLOWER" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 2 rows regressed"
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["rows"][1]["verdict"] == "slower"
    done = compare(tmp_path / "a.json", tmp_path / "b.json", "--threshold", "30%")
    assert done.returncode == 0
    (tmp_path / "b.json").write_text("{}")
    done = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
