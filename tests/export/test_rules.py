from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import Tensor, nn

from taemi_export.facts import GraphFacts, finish_model, read_facts
from taemi_export.onnx_file import read_onnx
from taemi_export.onnx_graph import trace_graph
from taemi_export.rules import check_file, check_model
from taemi_runtime.errors import BundleError, ExportError
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol

SPEC = GraphSpec(
    "g",
    (Symbol("batch"), Symbol("steps")),
    (InputSpec("x", "float32", ("batch", "steps")), InputSpec("m", "bool", ("batch", "steps"))),
    (OutputSpec("y", "float32", ("batch", "steps")),),
    {"fp32": Gate(1e-4, 1e-5)},
)


def model_of(
    *nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, opset: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "steps"]),
            helper.make_tensor_value_info("m", TensorProto.BOOL, ["batch", "steps"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "steps"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=f"n_{outputs.split(maxsplit=1)[0]}", **attributes
    )


GOOD = node("Relu", "x", "y")
BIG = np.ones((64, 64), np.float32)


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(ExportError) as caught:
        check_model(model, SPEC)
    return str(caught.value)


def test_plain_graph_passes() -> None:
    check_model(model_of(GOOD), SPEC)


@pytest.mark.parametrize("kind", ["NonZero", "Unique", "Compress", "RandomNormalLike", "Loop"])
def test_forbidden_operator_is_named_with_its_node(kind: str) -> None:
    message = refusal(model_of(node(kind, "x", "z"), GOOD))
    assert f"operator {kind} (node n_z) is forbidden" in message


def test_if_is_forbidden_and_so_is_anything_else_with_a_subgraph() -> None:
    body = helper.make_graph([], "b", [], [])
    assert "operator If" in refusal(model_of(node("If", "m", "z", then_branch=body, else_branch=body), GOOD))
    assert "SequenceMap" in refusal(model_of(node("SequenceMap", "x", "z", body=body), GOOD))


def test_shape_from_values_is_refused_and_shape_from_shapes_is_not() -> None:
    weights = {"zero": np.array(0), "one": np.array(1)}
    from_values = [
        node("Cast", "x", "i", to=7),
        node("ReduceMax", "i", "n", keepdims=0),
        node("Range", "zero n one", "r"),
    ]
    message = refusal(model_of(*from_values, GOOD, weights=weights))
    assert "operator Range (node n_r) takes a shape from values: n" in message
    from_shapes = [
        node("Shape", "x", "s", start=1, end=2),
        node("Squeeze", "s", "n"),
        node("Range", "zero n one", "r"),
    ]
    check_model(model_of(*from_shapes, GOOD, weights=weights), SPEC)


def test_scatter_to_computed_places_is_refused_and_to_constant_places_is_not() -> None:
    scatter = node("ScatterND", "x places values", "z")
    constants = {"places": np.array([[0]]), "values": np.ones((1, 3), np.float32)}
    check_model(model_of(scatter, GOOD, weights=constants), SPEC)
    computed = node("Cast", "x", "places", to=7)
    message = refusal(model_of(computed, scatter, GOOD, weights={"values": constants["values"]}))
    assert "ScatterND" in message
    assert "use where instead" in message


def test_where_on_booleans_is_refused_and_on_numbers_is_not() -> None:
    weights = {"yes": np.array(True), "zero": np.array(0, np.float32)}
    check_model(model_of(node("Where", "m x zero", "y"), weights=weights), SPEC)
    assert "selects booleans" in refusal(model_of(node("Where", "m m yes", "z"), GOOD, weights=weights))


def test_arithmetic_on_weights_is_refused_and_a_transposed_weight_is_not() -> None:
    check_model(model_of(node("Transpose", "w", "t"), GOOD, weights={"w": BIG}), SPEC)
    assert "reduces weights at run time" in refusal(
        model_of(node("ReduceL2", "w", "t"), GOOD, weights={"w": BIG})
    )
    scaled = [node("Transpose", "w", "t"), node("Mul", "t w", "z")]
    assert "operator Mul (node n_z) computes with weights" in refusal(
        model_of(*scaled, GOOD, weights={"w": BIG})
    )


def test_weight_norm_left_in_a_module_is_refused(toy: ModuleType) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 64, 5, padding=2))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.transpose(1, 2)).transpose(1, 2)

    spec = GraphSpec(
        "g",
        (Symbol("batch"), Symbol("steps", typical=9)),
        (InputSpec("x", "float32", ("batch", "steps", 64)),),
        (OutputSpec("y", "float32", ("batch", "steps", 64)),),
        {"fp32": Gate(1e-4, 1e-5)},
    )
    model = trace_graph(toy.graph_of(spec, Normed())).model
    finish_model(model, GraphFacts("toy", spec, "fp32", False))
    with pytest.raises(ExportError, match="reduces weights at run time"):
        check_model(model, spec)


def test_opset_domain_and_external_data_are_checked() -> None:
    assert "opsets" in refusal(model_of(GOOD, opset=21))
    assert "domain 'com.mine'" in refusal(model_of(node("Relu", "x", "y", domain="com.mine")))
    model = model_of(GOOD, weights={"w": BIG})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert "initialiser w lies in another file" in refusal(model)


def test_interface_must_be_the_specs() -> None:
    model = model_of(GOOD)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    assert "its outputs are" in refusal(model)
    model = model_of(GOOD)
    model.graph.input[0].name = "q"
    assert "its inputs are" in refusal(model)


def test_all_broken_rules_are_told_at_once() -> None:
    message = refusal(
        model_of(node("NonZero", "x", "z"), node("ReduceL2", "w", "t"), GOOD, weights={"w": BIG})
    )
    assert "breaks 2 rules" in message
    assert "NonZero" in message
    assert "ReduceL2" in message


def test_finishing_strips_notes_and_keeps_the_facts(tmp_path: Path) -> None:
    model = model_of(GOOD, weights={"w": BIG})
    model.doc_string = "/home/somebody"
    model.graph.node[0].doc_string = "/home/somebody"
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.stack_trace", "/home/somebody/secret.py"
    model.graph.initializer[0].doc_string = "/home/somebody"
    assert "notes of the machine" in refusal(model)
    facts = GraphFacts("toy", SPEC, "fp32", True)
    finish_model(model, facts)
    check_model(model, SPEC)
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    assert b"somebody" not in path.read_bytes()
    assert read_facts(read_onnx(path), "g") == facts


def test_file_without_facts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(model_of(GOOD).SerializeToString())
    with pytest.raises(BundleError, match="no key 'taemi'"):
        read_facts(read_onnx(path), "g")


def test_onnx_checker_has_a_say(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    check_model(model_of(GOOD), SPEC)
    path.write_bytes(model_of(node("Relu", "nothing", "y")).SerializeToString())
    with pytest.raises(ExportError, match=r"onnx\.checker"):
        check_file(path, SPEC)
