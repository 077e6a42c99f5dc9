"""The conversion to half precision: what stays, what changes, and that the result is strongly typed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from taemi_export.keep_list import DEFAULT_KEEP, KeepList
from taemi_export.precision import HalfGraph, convert_to_half
from taemi_export.rounding import RoundedGraph
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol

HERE = Path(__file__).parent


def spec_of(inputs: dict[str, str], width: int = 8, *, half: bool = True) -> GraphSpec:
    return GraphSpec(
        "g",
        (Symbol("batch", typical=3),),
        tuple(
            InputSpec(name, dtype, ("batch", width), half=half and dtype == "float32")
            for name, dtype in inputs.items()
        ),
        (OutputSpec("y", "float32", ("batch", width)),),
        {},
    )


def build(spec: GraphSpec, lines: list[tuple], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Make a graph of (operator, inputs, output, attributes)."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    values = [
        [helper.make_tensor_value_info(item.name, kinds[item.dtype], item.shape) for item in items]
        for items in (spec.inputs, spec.outputs)
    ]
    nodes = [
        helper.make_node(operator, list(inputs), [out], f"n_{out}", **(attributes[0] if attributes else {}))
        for operator, inputs, out, *attributes in lines
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", *values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def matrix(width: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(width, width)).astype(np.float32) / 3


def loads_everywhere(half: HalfGraph) -> onnxruntime.InferenceSession:
    """A valid graph: for onnx's strict checker, and for ONNX Runtime at its full optimisation level."""
    onnx.checker.check_model(half.model, full_check=True)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    content = half.model.SerializeToString()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    values |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {name: TensorProto.DataType.Name(kind).lower() for name, kind in values.items()}


def test_layers_are_half_and_the_keep_list_is_not(graphs: ModuleType) -> None:
    half = convert_to_half(graphs.network(), graphs.SPEC)
    loads_everywhere(half)
    types = types_of(half.model)
    for node in half.model.graph.node:
        kinds = {types[name] for name in node.input if name in types} & {"float", "float16"}
        if node.op_type in ("LayerNormalization", "ReduceSum"):
            assert kinds == {"float"}, node.name
        elif node.op_type in ("MatMul", "Gelu") and node.name not in half.kept["last layer"]:
            assert "float16" in kinds or node.op_type == "Gelu", node.name
    assert half.inputs == {"frames": "float16"}
    assert half.model.graph.input[1].type.tensor_type.elem_type == TensorProto.BOOL
    assert half.model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {"normalisation", "reduction", "last layer"} <= set(half.kept)
    kept = [name for names in half.kept.values() for name in names]
    assert len(kept) == len(set(kept))
    casts = sum(node.op_type == "Cast" for node in half.model.graph.node)
    before = sum(node.op_type == "Cast" for node in graphs.network().graph.node)
    assert half.counts["cast"] == casts - before
    assert sum(half.counts.values()) == len(half.model.graph.node)


def test_what_stays_is_data(graphs: ModuleType) -> None:
    bare = KeepList(last_layer=False, first_convolution=False, positions=False, integers=False)
    half = convert_to_half(graphs.network(), graphs.SPEC, keep=bare)
    loads_everywhere(half)
    assert set(half.kept) <= {"constant lost in half precision", "fed by float32 alone"}
    more = replace(DEFAULT_KEEP, operators={**DEFAULT_KEEP.operators, "by hand": ("Gelu",)})
    assert len(convert_to_half(graphs.network(), graphs.SPEC, keep=more).kept["by hand"]) == 3


def test_no_conversion_is_made_twice_or_undone(graphs: ModuleType) -> None:
    model = convert_to_half(graphs.network(), graphs.SPEC).model
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    sources = Counter((node.input[0], node.attribute[0].i) for node in casts)
    assert max(sources.values()) == 1
    made = {node.output[0] for node in casts}
    assert not [node.name for node in casts if node.input[0] in made]


def test_the_same_graph_gives_the_same_bytes_in_any_process(graphs: ModuleType, python_env) -> None:
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(HERE)!r})\n"
        "import half_graphs\n"
        "from taemi_export.precision import convert_to_half\n"
        "model = convert_to_half(half_graphs.network('overflow'), half_graphs.SPEC).model\n"
        "print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**python_env, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "77")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64
    model = graphs.network("overflow")
    content = model.SerializeToString()
    first, second = (convert_to_half(model, graphs.SPEC).model.SerializeToString() for _ in range(2))
    assert first == second
    assert model.SerializeToString() == content


def test_features_stay_float32_when_asked(graphs: ModuleType) -> None:
    half = convert_to_half(graphs.network(), graphs.SPEC, half_inputs=False)
    loads_everywhere(half)
    assert half.inputs == {}
    assert half.model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_weight_that_both_precisions_read_is_there_in_both() -> None:
    spec = spec_of({"x": "float32"})
    lines = [
        ("MatMul", ("x", "shared"), "a"),
        ("Tanh", ("a",), "b"),
        ("MatMul", ("b", "shared"), "y"),
    ]
    half = convert_to_half(build(spec, lines, {"shared": matrix()}), spec)
    loads_everywhere(half)
    kinds = {tensor.name: tensor.data_type for tensor in half.model.graph.initializer}
    assert kinds == {"shared.half": TensorProto.FLOAT16, "shared": TensorProto.FLOAT}
    # Read in half precision alone, a weight keeps its name.
    free = convert_to_half(
        build(spec, lines, {"shared": matrix()}), spec, keep=replace(DEFAULT_KEEP, last_layer=False)
    )
    assert [(item.name, item.data_type) for item in free.model.graph.initializer] == [
        ("shared", TensorProto.FLOAT16)
    ]


def test_numbers_beyond_half_precision_are_never_clipped() -> None:
    spec = spec_of({"x": "float32", "mask": "bool"})
    weights = {"w": matrix(), "fill": np.float32(-3e38), "zero": np.float32(0), "v": matrix()}
    lines = [
        ("MatMul", ("x", "w"), "scores"),
        ("Where", ("mask", "zero", "fill"), "bias"),
        ("Add", ("scores", "bias"), "masked"),
        ("Softmax", ("masked",), "weights"),
        ("MatMul", ("weights", "v"), "mixed"),
        ("MatMul", ("mixed", "w"), "y"),
    ]
    model = build(spec, lines, weights)
    half = convert_to_half(model, spec)
    loads_everywhere(half)
    assert half.kept["constant beyond half precision's range"] == ("n_bias", "n_masked")
    inputs = draw_inputs(spec, {"batch": 3})
    # One row may see nothing at all: with the fill made infinite it would be NaN.
    inputs["mask"] = np.array([[True] * 8, [False] * 8, [True, False] * 4])
    got, expected = RoundedGraph(half.model).run(inputs)["y"], RoundedGraph(model).run(inputs)["y"]
    np.testing.assert_allclose(got, expected, atol=3e-3)


def test_minus_infinity_stays_half_and_guards_against_zero_do_not() -> None:
    spec = spec_of({"x": "float32", "mask": "bool"})
    weights = {
        "w": matrix(),
        "fill": np.float32(-np.inf),
        "eps": np.float32(1e-12),
        "axis": np.array([1], np.int64),
    }
    lines = [
        ("MatMul", ("x", "w"), "a"),
        ("Where", ("mask", "a", "fill"), "b"),
        ("Relu", ("b",), "c"),
        ("ReduceL2", ("c", "axis"), "norm"),
        ("Max", ("norm", "eps"), "safe"),
        ("Div", ("c", "safe"), "d"),
        ("MatMul", ("d", "w"), "y"),
    ]
    model = build(spec, lines, weights)
    half = convert_to_half(model, spec)
    loads_everywhere(half)
    assert half.kept["constant lost in half precision"] == ("n_safe", "n_d")
    assert types_of(half.model)["b"] == "float16"
    inputs = draw_inputs(spec, {"batch": 3})
    inputs["mask"][0] = False  # a row of zeros: its norm is the guard
    got, expected = RoundedGraph(half.model).run(inputs)["y"], RoundedGraph(model).run(inputs)["y"]
    np.testing.assert_allclose(got, expected, atol=3e-3)


def test_angles_and_shapes_are_left_in_float32() -> None:
    spec = GraphSpec(
        "g",
        (Symbol("batch", typical=2), Symbol("steps", typical=900)),
        (InputSpec("x", "float32", ("batch", "steps", 8), half=True),),
        (OutputSpec("y", "float32", ("batch", "steps", 8)),),
        {},
    )
    weights = {
        "one": np.array(1, np.int64),
        "nought": np.array(0, np.int64),
        "column": np.array([1], np.int64),
        "frequencies": np.geomspace(1, 0.01, 8, dtype=np.float32)[None],
        "w": matrix(),
    }
    lines = [
        ("Shape", ("x",), "shape"),
        ("Gather", ("shape", "one"), "steps"),
        ("Range", ("nought", "steps", "one"), "places"),
        ("Cast", ("places",), "numbers", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ("numbers", "column"), "upright"),
        ("MatMul", ("upright", "frequencies"), "angles"),
        ("Cos", ("angles",), "cosine"),
        ("MatMul", ("x", "w"), "keys"),
        ("Mul", ("keys", "cosine"), "turned"),
        ("MatMul", ("turned", "w"), "y"),
    ]
    model = build(spec, lines, weights)
    half = convert_to_half(model, spec)
    loads_everywhere(half)
    types = types_of(half.model)
    assert {types[name] for name in ("numbers", "upright", "angles", "cosine")} == {"float"}
    assert types["turned"] == "float16"
    assert {types[name] for name in ("shape", "steps", "places")} == {"int64"}
    assert half.kept["angle"] == ("n_cosine",)
    assert half.kept["positions"] == ("n_angles",)
    inputs = draw_inputs(spec, {"batch": 1, "steps": 900})
    got, expected = RoundedGraph(half.model).run(inputs)["y"], RoundedGraph(model).run(inputs)["y"]
    # In half precision an angle of 900 is off by a quarter of a radian.
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_constant_nodes_and_filled_shapes_change_type_too() -> None:
    spec = spec_of({"x": "float32"})
    two = numpy_helper.from_array(np.float32(2), "two")
    ones = numpy_helper.from_array(np.ones(1, np.float32), "ones")
    lines = [
        ("MatMul", ("x", "w"), "a"),
        ("Constant", (), "factor", {"value": two}),
        ("Mul", ("a", "factor"), "b"),
        ("Shape", ("b",), "shape"),
        ("ConstantOfShape", ("shape",), "filled", {"value": ones}),
        ("ConstantOfShape", ("shape",), "empty"),
        ("Add", ("b", "filled"), "c"),
        ("Add", ("c", "empty"), "d"),
        ("MatMul", ("d", "w"), "y"),
    ]
    model = build(spec, lines, {"w": matrix()})
    half = convert_to_half(model, spec)
    loads_everywhere(half)
    types = types_of(half.model)
    assert {types[name] for name in ("factor", "b", "filled", "empty", "d")} == {"float16"}
    inputs = draw_inputs(spec, {"batch": 3})
    got, expected = RoundedGraph(half.model).run(inputs)["y"], RoundedGraph(model).run(inputs)["y"]
    np.testing.assert_allclose(got, expected, atol=2e-2)


def test_integers_are_scaled_in_float32_and_tables_are_half() -> None:
    spec = replace(
        spec_of({}),
        inputs=(InputSpec("pixels", "int64", ("batch", 8)), InputSpec("ids", "int64", ("batch", 8))),
    )
    weights = {
        "scale": np.float32(1 / 255),
        "mean": np.full(8, 0.5, np.float32),
        "table": np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32),
        "w": matrix(),
        "last": np.array([-1], np.int64),
    }
    lines = [
        ("Cast", ("pixels",), "numbers", {"to": TensorProto.FLOAT}),
        ("Mul", ("numbers", "scale"), "unit"),
        ("Sub", ("unit", "mean"), "centred"),
        ("MatMul", ("centred", "w"), "a"),
        ("Gather", ("table", "ids"), "found"),
        ("Squeeze", ("found", "last"), "vectors"),
        ("Add", ("a", "vectors"), "b"),
        ("Gelu", ("b",), "c"),
        ("MatMul", ("c", "w"), "y"),
    ]
    half = convert_to_half(build(spec, lines, weights), spec)
    loads_everywhere(half)
    assert half.kept["integers"] == ("n_numbers", "n_unit", "n_centred")
    types = types_of(half.model)
    assert types["table"] == types["vectors"] == types["a"] == "float16"
    assert half.inputs == {}


def test_unknown_operators_stay_in_float32() -> None:
    spec = spec_of({"x": "float32"})
    lines = [
        ("MatMul", ("x", "w"), "a"),
        ("ThresholdedRelu", ("a",), "b"),
        ("MatMul", ("b", "w"), "c"),
        ("MatMul", ("c", "w"), "y"),
    ]
    half = convert_to_half(build(spec, lines, {"w": matrix()}), spec)
    loads_everywhere(half)
    assert half.kept["operator without a rule for half precision"] == ("n_b",)


def test_an_output_of_a_half_layer_is_float32() -> None:
    spec = spec_of({"x": "float32"})
    model = build(spec, [("MatMul", ("x", "w"), "a"), ("MatMul", ("a", "w"), "y")], {"w": matrix()})
    half = convert_to_half(model, spec, keep=KeepList())
    session = loads_everywhere(half)
    x = np.ones((2, 8), np.float16)
    assert session.run(["y"], {"x": x})[0].dtype == np.float32
    assert set(half.kept) == {"last layer"}
    free = convert_to_half(model, spec, keep=KeepList(last_layer=False))
    assert free.kept == {}
    assert loads_everywhere(free).run(["y"], {"x": x})[0].dtype == np.float32


def test_graphs_that_cannot_be_converted_are_refused(graphs: ModuleType) -> None:
    half = convert_to_half(graphs.network(), graphs.SPEC)
    with pytest.raises(ExportError, match=r"cannot convert graph 'net'.*float16, expected float32 alone"):
        convert_to_half(half.model, graphs.SPEC)
    with pytest.raises(ExportError, match=r"cannot keep node 'nowhere' in float32"):
        convert_to_half(graphs.network(), graphs.SPEC, extra_fp32={"test": ("nowhere",)})
    other = spec_of({"z": "float32"})
    with pytest.raises(ExportError, match=r"it has no input \['z'\]"):
        convert_to_half(graphs.network(), other)


def test_nodes_without_names_get_some() -> None:
    spec = spec_of({"x": "float32"})
    model = build(spec, [("MatMul", ("x", "w"), "a"), ("Softmax", ("a",), "y")], {"w": matrix()})
    for node in model.graph.node:
        node.name = ""
    half = convert_to_half(model, spec)
    assert half.kept["softmax"] == ("Softmax_001",)
    assert all(node.name for node in half.model.graph.node)
    assert not any(node.name for node in model.graph.node)
