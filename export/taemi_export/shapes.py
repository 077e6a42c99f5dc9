"""Element type and shape of every value of a graph at given lengths, without running it.

ONNX's own inference stops at the first length that is computed by an operator whose values it does not
follow (Range, Gather of a shape, Max of two lengths): behind it every length is unknown. Here the nodes are
visited in order, and whatever is computed from shapes alone, small integers all of it, is computed for
real, by ONNX's reference evaluator. The lengths are those that a call has, without a weight being read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_export.onnx_file import DTYPES

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array

_MOST_ELEMENTS = 64
"""Larger values are followed by their shape only: no shape is computed from them."""


@dataclass(frozen=True)
class Value:
    """What a tensor is.

    Args:
        dtype: Element type as GraphSpec names it, e.g. ``float32``.
        shape: Length of every axis.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


def value_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, Value]:
    """Return what every tensor of a graph is in a call of given lengths.

    Args:
        model: The graph; its subgraphs, which exported graphs have none of, are not looked into.
        sizes: Length of every symbolic axis of its inputs.

    Returns:
        By name: inputs, initialisers and what nodes compute. What follows from an operator that is not of
        the standard, or from the content of an input, is left out.
    """
    return _Walk(model, sizes).found()


class _Walk:
    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
        import onnx
        import onnx.reference

        self._onnx = onnx
        self._nodes = model.graph.node
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._imports = list(model.opset_import)
        self._ir_version = model.ir_version
        self._types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, Array] = {}
        for value in model.graph.input:
            kind = onnx.TypeProto()
            kind.CopyFrom(value.type)
            for dim in kind.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
            self._types[value.name] = kind
        for tensor in model.graph.initializer:
            self._types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if math.prod(tensor.dims) <= _MOST_ELEMENTS:
                self._values[tensor.name] = onnx.numpy_helper.to_array(tensor)

    def found(self) -> dict[str, Value]:
        for node in self._nodes:
            kinds = self._infer(node)
            for name, kind in kinds.items():
                self._types[name] = kind
            if all(self._small(name) for name in node.output if name):
                self._compute(node)
        return {name: value for name, kind in self._types.items() if (value := _read(kind)) is not None}

    def _infer(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return the types of a node's outputs, as far as ONNX's inference knows them."""
        inputs = {name: self._types[name] for name in node.input if name and name in self._types}
        if len(inputs) < len({name for name in node.input if name}):
            return {}
        known = {
            name: self._onnx.numpy_helper.from_array(self._values[name], name)
            for name in inputs
            if name in self._values
        }
        try:
            schema = self._onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
            return dict(
                self._onnx.shape_inference.infer_node_outputs(
                    schema, node, inputs, known, None, self._imports, self._ir_version
                )
            )
        except (self._onnx.defs.SchemaError, self._onnx.shape_inference.InferenceError):
            return {}

    def _small(self, name: str) -> bool:
        value = _read(self._types[name]) if name in self._types else None
        return value is not None and value.elements <= _MOST_ELEMENTS

    def _compute(self, node: onnx.NodeProto) -> None:
        """Compute a node of which everything is known."""
        if node.op_type in ("Shape", "Size"):
            value = _read(self._types[node.input[0]])
            if value is not None:
                self._values[node.output[0]] = _lengths(node, value)
            return
        names = [name for name in node.input if name]
        if any(name not in self._values for name in names):
            return
        model = self._onnx.helper.make_model(
            self._onnx.helper.make_graph(
                [node],
                "node",
                [
                    self._onnx.ValueInfoProto(name=name, type=self._types[name])
                    for name in dict.fromkeys(names)
                ],
                [
                    self._onnx.ValueInfoProto(name=name, type=self._types[name])
                    for name in node.output
                    if name
                ],
            ),
            opset_imports=self._imports,
            ir_version=self._ir_version,
        )
        evaluator = self._onnx.reference.ReferenceEvaluator(model)
        results = evaluator.run(None, {name: self._values[name] for name in names})
        outputs = [name for name in node.output if name]
        self._values.update((name, np.asarray(result)) for name, result in zip(outputs, results, strict=True))


def _lengths(node: onnx.NodeProto, value: Value) -> Array:
    """Compute Shape, with the range of axes that it may be asked for, or Size."""
    if node.op_type == "Size":
        return np.array(value.elements, dtype=np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(value.shape[slice(bounds.get("start", 0), bounds.get("end"))], dtype=np.int64)


def _read(kind: onnx.TypeProto) -> Value | None:
    """Return a tensor's type where all its axes are known."""
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return Value(
        DTYPES.get(tensor.elem_type, str(tensor.elem_type)), tuple(d.dim_value for d in tensor.shape.dim)
    )
