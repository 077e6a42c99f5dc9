"""The timer against time itself: what it says is what passes."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from taemi_bench.measured import measure_rows
from taemi_bench.rows import Row
from taemi_bench.run import run_bundle
from taemi_bench.schedule import Schedule
from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from tests.benchmarks.toys import SQUARES, make_bundle, toy_source

SHORT = Schedule(rounds=40, seconds=0, warmup_calls=3, warmup_seconds=0, settle_seconds=0.002, block_calls=3)


def work():
    values = np.arange(20_000, dtype=np.float32)
    return float((values * values).sum())


def slowed():
    time.sleep(0.002)
    return work()


def row(name, call):
    return Row(name, "toy", "fp32", "squares", "cpu", run=call)


def test_a_sleep_of_two_milliseconds_is_measured_as_two_milliseconds():
    fast, slow = measure_rows([row("as it is", work), row("slowed", slowed)], SHORT, judge=None).rows
    # A sleep never ends early, and wakes late on a busy machine.
    apart = slow.latency_ms.p50 - fast.latency_ms.p50
    assert 1.9 <= apart <= 4, (fast.latency_ms.p50, slow.latency_ms.p50)


def test_two_rows_of_the_same_are_told_to_be_the_same():
    one, other = measure_rows([row("one", slowed), row("other", slowed)], SHORT, judge=None).rows
    assert one.latency_ms.p50 == pytest.approx(other.latency_ms.p50, rel=0.15)


@pytest.mark.slow
def test_a_row_takes_what_a_plain_loop_says(tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    sizes = {"batch": 16}
    found = run_bundle(bundle, toy_source(), graphs=["squares"], sizes=sizes, threads=1, device="cpu")
    engine_row = next(row for row in found.rows if row.backend == "onnxruntime-cpu")
    inputs = draw_inputs(SQUARES, sizes, seed=20, ragged=False, poison=False)
    with open_engine(
        bundle.folder / "squares.onnx", SQUARES, EngineOptions(device="cpu", threads=1)
    ) as engine:
        taken = []
        for _ in range(4000):
            start = time.perf_counter()
            engine.run(inputs, check_values=False)
            taken.append((time.perf_counter() - start) * 1e3)
    assert engine_row.latency_ms.p50 == pytest.approx(statistics.median(taken[1000:]), rel=0.1)
