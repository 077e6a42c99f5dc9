"""Small float32 graphs in the shape of a network, with a defect in half precision planted where asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from taemi_export.mending import Call
from taemi_export.rounding import RoundedGraph
from taemi_export.sizes import plan_cases
from taemi_runtime.draw import draw_inputs
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol

WIDTH = 32
SPEC = GraphSpec(
    name="net",
    symbols=(Symbol("batch", typical=2, maximum=8), Symbol("steps", typical=7, maximum=20)),
    inputs=(
        InputSpec("frames", "float32", ("batch", "steps", WIDTH), half=True),
        InputSpec("frames_mask", "bool", ("batch", "steps"), role="mask", masks="frames"),
    ),
    outputs=(OutputSpec("scores", "float32", ("batch", 4)),),
    gates={"fp16": Gate(max_abs=2e-2, mean_abs=2e-3, min_cosine=0.9995, relative=True)},
)


class Builder:
    """Write a graph line by line."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], f"node_{out}", **attributes))
        return out

    def weight(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        if name not in {tensor.name for tensor in self.weights}:
            self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def linear(self, name: str, x: str, width: int = WIDTH, scale: float = 1.0) -> str:
        matrix = self.rng.normal(size=(WIDTH, width)) * scale / np.sqrt(WIDTH)
        product = self.add("MatMul", x, self.weight(f"{name}.weight", matrix))
        return self.add("Add", product, self.weight(f"{name}.bias", self.rng.normal(size=width) * 0.1))

    def model(self, spec: GraphSpec = SPEC) -> onnx.ModelProto:
        kinds = {"float32": TensorProto.FLOAT, "bool": TensorProto.BOOL, "int64": TensorProto.INT64}
        inputs, outputs = (
            [helper.make_tensor_value_info(item.name, kinds[item.dtype], item.shape) for item in items]
            for items in (spec.inputs, spec.outputs)
        )
        graph = helper.make_graph(self.nodes, spec.name, inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def network(defect: str = "") -> onnx.ModelProto:
    """Frames are cleaned, go through three blocks, and are averaged over the valid ones into four scores.

    Args:
        defect: ``overflow``: in block 1 a value reaches 1e5, and the block's output is of order 1.
            ``variance``: block 1 normalises by hand, of values whose squares do not fit into half
            precision; its output stays finite. Empty: none.
    """
    b = Builder()
    zero, axis = b.weight("zero", 0.0), b.weight("axis", [1], np.int64)
    column = b.add("Unsqueeze", "frames_mask", b.weight("two", [2], np.int64))
    hidden = b.linear("project", b.add("Where", column, "frames", zero))
    for index in range(3):
        name = f"blocks.{index}"
        normal = b.add(
            "LayerNormalization",
            hidden,
            b.weight(f"{name}.norm.weight", np.ones(WIDTH)),
            b.weight(f"{name}.norm.bias", np.zeros(WIDTH)),
        )
        inner = b.linear(f"{name}.wide", normal)
        if index == 1 and defect == "overflow":
            large = b.add("Mul", inner, b.weight(f"{name}.gain", np.full(WIDTH, 4e4)), out="large")
            large = b.linear(f"{name}.large", large, scale=1.0)
            inner = b.add("Mul", large, b.weight(f"{name}.loss", np.full(WIDTH, 1 / 4e4)))
        elif index == 1 and defect == "variance":
            inner = _normalise_by_hand(b, b.linear(f"{name}.loud", inner, scale=600.0))
        else:
            inner = b.add("Gelu", inner)
        hidden = b.add("Add", hidden, b.linear(f"{name}.narrow", inner))
    weight = b.add("Cast", column, to=TensorProto.FLOAT)
    total = b.add("ReduceSum", b.add("Mul", hidden, weight), axis, keepdims=0)
    count = b.add("Clip", b.add("ReduceSum", weight, axis, keepdims=0), b.weight("least", 1e-9))
    b.linear("head", b.add("Div", total, count), width=4)
    b.nodes[-1].output[0] = "scores"
    return b.model()


def _normalise_by_hand(b: Builder, x: str) -> str:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), the square as a product, which no operator gives away."""
    last = b.weight("last", [-1], np.int64)
    centred = b.add("Sub", x, b.add("ReduceMean", x, last))
    # A move to half precision and back, as a layer between them would cause.
    centred = b.add("MatMul", centred, b.weight("blocks.1.turn.weight", np.eye(WIDTH)), out="centred")
    square = b.add("Mul", centred, centred, out="square")
    variance = b.add("ReduceMean", square, last, out="variance")
    deviation = b.add("Sqrt", b.add("Add", variance, b.weight("blocks.1.eps", 1e-5)))
    return b.add("Div", centred, deviation)


@dataclass(frozen=True)
class Judged:
    """A graph with calls whose outputs are float32's."""

    model: onnx.ModelProto
    calls: list[Call]


def judged(model: onnx.ModelProto, spec: GraphSpec = SPEC) -> Judged:
    single = RoundedGraph(model)
    calls = []
    for case in plan_cases(spec, 10**6):
        inputs = draw_inputs(spec, case.sizes, seed=case.seed, ragged=case.ragged)
        calls.append(Call(case, inputs, single.run(inputs)))
    return Judged(model, calls)
