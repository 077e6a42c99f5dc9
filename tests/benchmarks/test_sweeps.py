from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from taemi_bench import sweep as sweeps
from taemi_bench.callers import Callers, callers_sweep
from taemi_bench.further import Further, check_further
from taemi_bench.graph_sweeps import axis_values, condition_name, conditions, length_sweep, without
from taemi_bench.report import read_report, write_report
from taemi_bench.rows import Row, RowChoice
from taemi_bench.run import run_bundle
from taemi_bench.schedule import Schedule
from taemi_bench.sweep import Pace, PlannedPoint, Sweep, measure_sweep
from taemi_bench.timer import Samples
from taemi_runtime.errors import UsageError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol
from tests.benchmarks.toys import FRAMES, SQUARES, make_bundle, toy_source

QUICK = Schedule(rounds=3, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=2)
PLAIN = RowChoice(rows=("eager fp32", "ONNX Runtime"))
PAIR = GraphSpec(
    name="pair",
    symbols=(Symbol("batch"), Symbol("a_len", typical=6, maximum=9), Symbol("b_len", minimum=2, typical=4)),
    inputs=(
        InputSpec("a", "float32", ("batch", "a_len", 3)),
        InputSpec("a_mask", "bool", ("batch", "a_len"), role="mask", masks="a"),
        InputSpec("b", "float32", ("batch", "b_len", 2)),
        InputSpec("there", "bool", ("batch", 2), role="presence", governs=(("a",), ("b",))),
    ),
    outputs=(OutputSpec("y", "float32", ("batch", 2), labels=("one", "two")),),
    gates={},
)


@pytest.fixture(autouse=True)
def _quick_points(monkeypatch):
    """Points of a toy need no settling, and a few calls will do."""
    quick = replace(sweeps.POINT, settle_seconds=0.001, warmup_seconds=0, block_seconds=0.002)
    monkeypatch.setattr(sweeps, "POINT", quick)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy.taemi")


def measure(bundle, further, progress=None):
    return run_bundle(
        bundle,
        toy_source(),
        schedule=QUICK,
        threads=1,
        device="cpu",
        choice=PLAIN,
        further=further,
        progress=progress,
    )


def row_of(call, name="row", **more):
    return Row(name, "toy", "fp32", "toy", "cpu", run=call, **more)


def points_of(calls, **more):
    """Points 1, 2, ... each of which makes one of the calls."""
    return [
        PlannedPoint(
            str(place), float(place), {}, lambda call=call: [row_of(call)], work=float(place), **more
        )
        for place, call in enumerate(calls, 1)
    ]


def test_lengths_go_up_to_the_graphs_limit_and_no_further():
    assert axis_values(FRAMES, FRAMES.symbol("batch")) == [1, 2, 4, 8, 16]
    assert axis_values(FRAMES, FRAMES.symbol("steps")) == [2, 5, 10, 20, 40]
    only = replace(SQUARES, symbols=(Symbol("batch", typical=8, maximum=20),))
    assert axis_values(only, only.symbol("batch")) == [1, 4, 8, 16, 20]
    assert axis_values(PAIR, PAIR.symbol("b_len")) == [2, 4, 8, 16]


def test_what_is_missing_is_as_short_as_it_may_be_and_nothing_else_is():
    names = {condition_name(PAIR, flags): without(PAIR, {"b_len": 7}, flags) for flags in conditions(PAIR)}
    assert names == {
        "a+b": {"b_len": 7},
        "a": {"b_len": 2},
        "b": {"b_len": 7, "a_len": 1},
        "nothing": {"b_len": 2, "a_len": 1},
    }


def test_a_bundle_is_swept_over_every_axis_and_the_report_comes_back(bundle, tmp_path):
    found = measure(bundle, Further(sweeps=("frames.steps", "squares.batch")))
    assert [(sweep.scope, sweep.axis) for sweep in found.sweeps] == [
        ("frames", "steps"),
        ("squares", "batch"),
    ]
    steps = found.sweeps[0]
    assert [point.value for point in steps.points] == [2, 5, 10, 20, 40]
    assert [point.sizes for point in steps.points] == [{"batch": 1, "steps": n} for n in (2, 5, 10, 20, 40)]
    for point in found.sweeps[1].points:
        assert [row.name for row in point.rows] == ["PyTorch eager fp32", "ONNX Runtime CPU fp32"]
        for row in point.rows:
            assert row.latency_ms.count >= 4
            median = sorted(row.latency_ms.values)[row.latency_ms.count // 2]
            assert row.items_per_second * median / 1e3 == pytest.approx(point.value, rel=0.2)
    # A family that scores no clips: both scopes of whole models say so, and nothing failed.
    whole = [row for row in found.rows if row.scope in ("features to scores", "file to scores")]
    assert {row.state for row in whole} == {"not run"}
    assert all("'toy'" in row.why for row in whole)
    assert not found.failures
    write_report(tmp_path / "report.json", found)
    assert read_report(tmp_path / "report.json") == found


def test_rows_of_a_point_run_on_its_sizes():
    seen = []

    def bind(inputs):
        return lambda: seen.append(inputs["v"].shape)

    rows = [row_of(lambda: None, bind=bind)]
    spec = replace(SQUARES, symbols=(Symbol("batch", typical=2, maximum=4),))
    measure_sweep(length_sweep(spec, {}, spec.symbol("batch"), rows))
    assert list(dict.fromkeys(seen)) == [(1, 5), (4, 5)]


def test_a_row_that_cannot_take_a_point_says_why_and_the_others_go_on():
    def bind(inputs):
        if len(inputs["v"]) > 1:
            raise UsageError("cannot take it", "4 rows", "Give one")
        return lambda: None

    rows = [row_of(lambda: None, "narrow", bind=bind), row_of(lambda: None, "wide", bind=lambda _: int)]
    spec = replace(SQUARES, symbols=(Symbol("batch", typical=2, maximum=4),))
    first, second = measure_sweep(length_sweep(spec, {}, spec.symbol("batch"), rows)).points
    assert [row.why for row in first.rows] == ["", ""]
    assert "4 rows" in second.rows[0].why
    assert second.rows[0].latency_ms is None
    assert second.rows[1].latency_ms is not None


def test_points_that_the_budget_does_not_hold_are_left_out_and_named():
    calls = [0] * 5

    def call(place):
        calls[place] += 1
        time.sleep(0.001)

    def sweep(seconds):
        made = points_of([lambda place=place: call(place) for place in range(5)])
        # Its calls take 1 s a unit of work, as far as is known before.
        return Sweep("toy", "axis", made, seconds, Pace(1.0, 1.0))

    found = measure_sweep(sweep(60.0))
    assert [point.label for point in found.points] == ["1", "2", "3", "4", "5"]
    calls[:] = [0] * 5
    slow = sweep(1.0)
    found = measure_sweep(replace(slow, pace=Pace(10.0, 1.0)))
    assert found.points == ()
    assert calls == [0] * 5
    assert "1 (some 20 s), 2 (some 40 s)" in found.notes["left out"]


def test_a_slow_point_is_measured_once():
    made = [0]

    def call():
        made[0] += 1
        time.sleep(0.03)

    sweep = Sweep("toy", "axis", points_of([call]), 100.0, Pace(4.0, 1.0))
    (point,) = measure_sweep(sweep).points
    assert made == [2]  # the cold call and the timed one
    assert point.rows[0].latency_ms.count == 1


@pytest.mark.parametrize("rounds", [0, 2])
def test_ctrl_c_keeps_the_points_that_are_finished(rounds):
    ticks = []

    def progress(name, done, expected):
        ticks.append(name)
        if name.endswith("2") and done > rounds:
            raise KeyboardInterrupt

    def stop():
        if len(ticks) and not rounds:
            raise KeyboardInterrupt

    found = measure_sweep(Sweep("toy", "axis", points_of([lambda: None, stop, stop]), 100.0), progress)
    assert [point.label for point in found.points] == (["1", "2"] if rounds else ["1"])
    assert found.points[0].stopped == "done"
    assert "interrupted" in found.notes


def test_ctrl_c_in_a_sweep_ends_the_run_with_everything_before(bundle):
    def stop(name, done, total):
        if name == "frames, steps 5":
            raise KeyboardInterrupt

    found = measure(bundle, Further(sweeps=("steps", "batch")), stop)
    assert found.interrupted
    assert [(sweep.axis, len(sweep.points)) for sweep in found.sweeps] == [("batch", 5), ("steps", 2)]
    assert [scope.stopped for scope in found.scopes] == ["done"] * 4


def test_callers_call_at_a_time_and_the_rate_counts_all_of_them():
    inside, most = [0], [0]
    lock = threading.Lock()

    def call():
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        with lock:
            inside[0] -= 1

    row = row_of(call, threads=1)
    sweep = callers_sweep("toy", {}, [row], items=3)
    sweep = replace(sweep, points=[point for point in sweep.points if point.label != "2"])
    one, four = measure_sweep(sweep).points
    assert most == [4]
    for point, callers in ((one, 1), (four, 4)):
        (found,) = point.rows
        # Sleeping callers do not get in each other's way: the rate grows with their number.
        assert 0.4 < found.items_per_second / (callers * 3 / 0.010) < 1.01
        assert found.latency_ms.min >= 10.0


def test_only_timed_windows_count():
    callers = Callers([lambda: time.sleep(0.001)] * 2)
    for _ in range(3):
        callers.run()
    found = callers.report(row_of(None), Samples("row", 1.0, 1, 1, (1.0,)), items=1)
    assert found.latency_ms.count == sum(len(spent) for _, _, spent in callers.windows[2])


def test_a_caller_that_fails_is_the_rows_reason():
    def broken():
        raise ValueError("no more")

    (point,) = measure_sweep(
        replace(sweep := callers_sweep("toy", {}, [row_of(broken)], 1), points=sweep.points[:1])
    ).points
    assert "no more" in point.rows[0].why
    assert point.rows[0].latency_ms is None


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"sweeps": ("depth",)}, "frames.steps"),
        ({"sweeps": ("squares.steps",)}, "frames.steps"),
        ({"clips": ("none.mp4",)}, "there is no such file"),
        ({"data": "none"}, "there is no such folder"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(bundle, tmp_path, further, said):
    paths = {
        "clips": tuple(tmp_path / name for name in further.get("clips", ())),
        "data": tmp_path / further["data"] if "data" in further else None,
    }
    asked = Further(sweeps=further.get("sweeps", ("none",)), **paths)
    with pytest.raises(UsageError, match=said):
        check_further(asked, bundle, ["frames", "squares"])
