"""Half precision evaluated on a CPU: with real rounding, and with every half value as an output."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from taemi_export.keep_list import KeepList
from taemi_export.overflow import find_overflow
from taemi_export.precision import convert_to_half
from taemi_export.rounding import RoundedGraph
from taemi_runtime.draw import draw_inputs


def products() -> onnx.ModelProto:
    """2 x * 300 * 300 * 1e-3: 180 x in float32, infinite in half precision."""
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["a"], "first"),
        helper.make_node("Mul", ["a", "big"], ["b"], "second"),
        helper.make_node("Mul", ["b", "small"], ["c"], "third"),
        helper.make_node("Cast", ["c"], ["y"], "out", to=TensorProto.FLOAT),
    ]
    weights = [
        numpy_helper.from_array(np.array(value, np.float16), name)
        for name, value in (("big", 300.0), ("small", 1e-3))
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_overflow_that_onnxruntime_hides_shows_in_the_rounded_graph() -> None:
    model, x = products(), np.array([2.0], np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    hidden = session.run(None, {"x": x.astype(np.float16)})[0]
    assert np.isfinite(hidden).all()  # the reason why this module is tested at all
    got = RoundedGraph(model, ["a", "b"]).run({"x": x})
    assert np.isposinf(got["y"]).all()
    assert got["a"].dtype == np.float16
    assert got["a"] == 600
    assert np.isposinf(got["b"]).all()
    assert RoundedGraph(model).run({"x": x / 8})["y"] == pytest.approx(22.5, rel=2e-3)


def test_every_half_value_is_searched_and_the_first_is_named() -> None:
    model, x = products(), np.array([2.0, 0.1], np.float32)
    found = find_overflow(model, None, [{"x": x}])
    assert (found[0].node, found[0].value, found[0].elements) == ("second", "b", 1)
    assert find_overflow(model, None, [{"x": x / 8}]) == ()


@pytest.mark.parametrize("defect", ["", "overflow", "variance"])
def test_rounding_agrees_with_the_reference_implementation_of_onnx(graphs: ModuleType, defect: str) -> None:
    model = graphs.network(defect)
    half = convert_to_half(model, graphs.SPEC).model
    inputs = draw_inputs(graphs.SPEC, {"batch": 2, "steps": 5}, seed=3, poison=False)
    watch = [name for node in half.graph.node for name in node.output if name != "scores"]
    rounded = RoundedGraph(half, watch)
    got = rounded.run(inputs)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fed = {**inputs, "frames": inputs["frames"].astype(np.float16)}
        names = [*watch, "scores"]
        expected = dict(zip(names, ReferenceEvaluator(half).run(names, fed), strict=True))
    halves = 0
    for name in names:
        assert got[name].dtype == expected[name].dtype, name
        if got[name].dtype != np.float16 or not np.isfinite(expected[name]).all():
            continue
        halves += 1
        a, b = got[name].astype(np.float64), expected[name].astype(np.float64)
        # Products are summed in another order and in another width: a few units in the last place.
        np.testing.assert_allclose(a, b, atol=8e-3 * max(1e-3, np.abs(b).max()), err_msg=name)
    assert halves >= 12
    np.testing.assert_array_equal(np.isfinite(got["scores"]), np.isfinite(expected["scores"]))


def test_single_operators_round_to_the_last_bit(graphs: ModuleType) -> None:
    """Elementwise, the rounded graph is numpy's float16 exactly: both compute wider and round once."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("Add", ["square", "x"], ["sum"], "sum"),
        helper.make_node("Sqrt", ["square"], ["root"], "root"),
        helper.make_node("Div", ["sum", "root"], ["ratio"], "ratio"),
        helper.make_node("Cast", ["ratio"], ["y"], "out", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "ops",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.random.default_rng(0).normal(size=4000).astype(np.float16) * np.float16(40)
    square = x * x
    total, root = square + x, np.sqrt(square)
    got = RoundedGraph(model, ["square", "sum", "root"]).run({"x": x})
    for name, wanted in (("square", square), ("sum", total), ("root", root)):
        np.testing.assert_array_equal(got[name], wanted, err_msg=name)
    np.testing.assert_array_equal(got["y"], (total / root).astype(np.float32))


def test_infinities_of_masks_and_padding_are_no_overflow(graphs: ModuleType) -> None:
    model = graphs.network()
    half = convert_to_half(model, graphs.SPEC).model
    poisoned = draw_inputs(graphs.SPEC, {"batch": 3, "steps": 9}, seed=1)
    assert not np.isfinite(poisoned["frames"]).all()
    assert find_overflow(half, model, [poisoned]) == ()


def test_a_silent_variance_is_found_in_the_graph_itself(graphs: ModuleType) -> None:
    model = graphs.network("variance")
    half = convert_to_half(model, graphs.SPEC).model
    inputs = draw_inputs(graphs.SPEC, {"batch": 2, "steps": 7}, seed=1)
    assert np.isfinite(RoundedGraph(half).run(inputs)["scores"]).all()
    found = find_overflow(half, model, [inputs])
    assert found[0].node == "node_square"
    assert found[0].got == np.inf
    assert 65504 < found[0].expected < 1e8
    assert "Mul (node node_square) gives inf in half precision where float32 gives" in str(found[0])


def test_float32_graphs_pass_through_unchanged(graphs: ModuleType) -> None:
    model = graphs.network()
    inputs = draw_inputs(graphs.SPEC, {"batch": 2, "steps": 4}, seed=2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, inputs)
    np.testing.assert_array_equal(RoundedGraph(model).run(inputs)["scores"], wanted)
    everything = convert_to_half(model, graphs.SPEC, keep=KeepList(last_layer=False)).model
    assert np.abs(RoundedGraph(everything).run(inputs)["scores"] - wanted).max() < 2e-2
