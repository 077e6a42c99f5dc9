"""Calls whose inputs and outputs stay on the device, where no GPU is needed: simulated, or the CPU as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from taemi_bench.device_scope import device_scope
from taemi_bench.resident_call import resident_call
from taemi_bench.rows import Row
from taemi_bench.schedule import Schedule
from taemi_bench.scopes import measure_scope
from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import EngineError
from taemi_runtime.spec import Symbol
from tests.benchmarks.toys import FRAMES, SQUARES, frames_onnx, squares_onnx, weight
from tests.runtime.engine_places import installed, place_params

QUICK = Schedule(rounds=3, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=2)
GRAPHS = {
    "frames": (FRAMES, frames_onnx(weight())),
    "squares": (replace(SQUARES, symbols=(Symbol("batch"),)), squares_onnx()),
}


@pytest.fixture(params=place_params(without={"onnxruntime-cpu"}))
def place(request):
    with installed(request.param) as made:
        yield made


@pytest.fixture
def open_here(place, tmp_path):
    def open_it(name):
        spec, content = GRAPHS[name]
        path = place.write(tmp_path, name, onnx.load_from_string(content), spec)
        return open_engine(path, spec, place.opened_with(), backend=place.backend, precision="fp32")

    return open_it


@pytest.mark.parametrize(("name", "sizes"), [("frames", {"steps": 7}), ("squares", {"batch": 1})])
def test_outputs_are_those_of_the_call_from_the_host(open_here, name, sizes):
    with open_here(name) as engine:
        inputs = draw_inputs(engine.spec, sizes, ragged=False, poison=False)
        expected = engine.run(inputs)
        call = resident_call(engine, engine.pool, inputs)
        for _ in range(3):
            found = call().numpy()
        assert found.keys() == expected.keys()
        for key, values in found.items():
            np.testing.assert_array_equal(values, expected[key])
            assert values.dtype == expected[key].dtype


def test_nothing_but_masks_is_copied(open_here, place):
    if place.gpu is None:
        pytest.skip("only a simulated GPU counts")
    with open_here("frames") as engine:
        inputs = draw_inputs(FRAMES, {"steps": 7}, ragged=False, poison=False)
        call = resident_call(engine, engine.pool, inputs)
        call()
        place.gpu.copied = dict.fromkeys(place.gpu.copied, 0)
        held = place.gpu.allocations
        call()
        assert place.gpu.copied["down"] == 0
        assert place.gpu.copied["up"] < 8 * 7 * 4
        assert place.gpu.allocations == held


def test_what_goes_up_comes_down_as_it_was(open_here):
    with open_here("frames") as engine:
        for array in (np.arange(35, dtype=np.float32).reshape(5, 7), np.ones((2, 3, 4), np.float16)):
            with engine.pool.put(array) as there:
                np.testing.assert_array_equal(there.numpy(), array)
                assert (there.shape, there.dtype) == (array.shape, array.dtype)
            # Its memory is lent again, to a shorter array too.
            with engine.pool.put(array) as again:
                np.testing.assert_array_equal(again.numpy(), array)


def test_rows_are_timed_and_judged_and_those_that_keep_nothing_say_so(open_here):
    engine = open_here("frames")
    inputs = draw_inputs(FRAMES, {"steps": 7}, ragged=False, poison=False)
    expected = engine.run(inputs)["y"]
    judged = []

    def judge(got, precision):
        judged.append(got["y"])
        return

    def bind(given):
        return resident_call(engine, engine.pool, given)

    def refuse(given):
        raise EngineError("cannot keep it", "two clips have one each")

    rows = [
        Row("keeps", "toy", "fp32", "frames", "cuda:0", run=int, close=engine.close, bind_resident=bind),
        Row("by the host", "toy", "fp32", "frames", "cuda:0", run=int),
        Row("refuses", "toy", "fp32", "frames", "cuda:0", run=int, bind_resident=refuse),
        Row("absent", "toy", "fp32", "frames", "cuda:0", why="there is no GPU"),
    ]
    scope = device_scope(FRAMES, {"batch": 1, "steps": 7}, inputs, rows, judge)
    report, found = measure_scope(scope, QUICK)
    assert (report.kind, report.rounds) == ("graph on the device", 3)
    assert [(row.scope, row.state) for row in found] == [
        ("frames on the device", state) for state in ("ran", "not run", "not run", "not run")
    ]
    assert [row.why.split(":")[0] for row in found[1:]] == [
        "it takes no inputs from the GPU and keeps no outputs there",
        "cannot keep it",
        "there is no GPU",
    ]
    np.testing.assert_array_equal(judged[0], expected)
