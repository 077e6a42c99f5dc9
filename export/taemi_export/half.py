"""Rewrite a float32 graph in mixed precision: one Cast wherever two precisions meet, and no other.

The result is strongly typed: every value has one element type, every operator gets what its schema asks
for, and nothing is left to a flag of the engine that runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from taemi_export.assignment import Assignment
from taemi_export.names import Names
from taemi_export.values import constant_arrays, value_types

if TYPE_CHECKING:
    import onnx

_HALF, _SINGLE = "half", "fp32"


def rewrite(
    model: onnx.ModelProto,
    assignment: Assignment,
    half_inputs: frozenset[str],
    half_outputs: frozenset[str] = frozenset(),
) -> onnx.ModelProto:
    """Return a graph that computes in the precisions that were assigned.

    Names of nodes, inputs, outputs and inner values stay; a value that is needed in both precisions gets
    a twin called NAME.half or NAME.fp32. Outputs stay float32, unless they are named.

    Args:
        model: The float32 graph; it is left alone.
        assignment: The precision of every node.
        half_inputs: The graph inputs that come in half precision.
        half_outputs: The graph outputs that are given in half precision.
    """
    return _Rewriter(model, assignment, half_inputs, half_outputs).result()


class _Rewriter:
    def __init__(
        self,
        model: onnx.ModelProto,
        assignment: Assignment,
        half_inputs: frozenset[str],
        half_outputs: frozenset[str],
    ) -> None:
        import onnx

        self.onnx = onnx
        self.model = model
        self.half = assignment.half
        self.half_inputs = half_inputs
        self.outputs = {value.name: value.name in half_outputs for value in model.graph.output}
        types = value_types(model)
        self.floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        self.arrays = {name: array for name, array in constant_arrays(model).items() if name in self.floats}
        self.names = Names([*types, *(node.name for node in model.graph.node)])
        self.is_half: dict[str, bool] = {}
        self.twins: dict[tuple[str, bool], str] = {}
        self.origins = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Cast" and node.input[0] not in self.floats
        }
        self.nodes: list[onnx.NodeProto] = []

    def result(self) -> onnx.ModelProto:
        onnx = self.onnx
        graph = onnx.GraphProto(name=self.model.graph.name)
        graph.input.extend(self.model.graph.input)
        for value in graph.input:
            self.is_half[value.name] = value.name in self.half_inputs
            if self.is_half[value.name]:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        wanted = self._constant_uses()
        graph.initializer.extend(self._constants(wanted))
        for at, node in enumerate(self.model.graph.node):
            if node.op_type == "Constant" and node.output[0] in self.arrays:
                continue  # now an initialiser
            self._convert(at, node)
        graph.node.extend(self.nodes)
        graph.output.extend(self.model.graph.output)
        for value in graph.output:
            if self.outputs[value.name]:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        made = onnx.ModelProto(ir_version=self.model.ir_version)
        made.opset_import.extend(self.model.opset_import)
        made.metadata_props.extend(self.model.metadata_props)
        for name in ("producer_name", "producer_version"):
            setattr(made, name, getattr(self.model, name))
        made.graph.CopyFrom(graph)
        return made  # type: ignore[no-any-return]

    def _constant_uses(self) -> dict[str, set[bool]]:
        """Return in which precisions each float constant is read."""
        uses: dict[str, set[bool]] = {name: set() for name in self.arrays}
        for at, node in enumerate(self.model.graph.node):
            for name in node.input:
                if name in uses:
                    uses[name].add(self.half[at])
        return uses

    def _constants(self, uses: dict[str, set[bool]]) -> Iterator[onnx.TensorProto]:
        numpy_helper = self.onnx.numpy_helper
        known = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for name, tensor in known.items():
            if name not in self.floats:
                yield tensor
        for name, array in self.arrays.items():
            used = uses[name]
            # A weight that is read in one precision alone keeps its name in it.
            if True in used:
                label = name if len(used) == 1 else self.names.new(f"{name}.{_HALF}")
                self.twins[name, True] = label
                with np.errstate(over="ignore"):
                    yield numpy_helper.from_array(array.astype(np.float16), label)
            if False in used:
                self.twins[name, False] = name
                yield known[name] if name in known else numpy_helper.from_array(array, name)

    def _convert(self, at: int, node: onnx.NodeProto) -> None:
        onnx = self.onnx
        if at not in self.half:
            self.nodes.append(node)
            return
        half = self.half[at]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self.floats and node.op_type not in ("Shape", "Size"):
                made.input[place] = self._in_precision(name, half)
        if half:
            _retype(made)
        late = []
        for place, name in enumerate(node.output):
            if name not in self.floats:
                continue
            self.is_half[name] = half
            if self.outputs.get(name, half) != half:
                # An output has the type that was promised, whatever computed it.
                made.output[place] = self.names.new(f"{name}.{_HALF if half else _SINGLE}")
                self.twins[name, half] = made.output[place]
                self.twins[name, not half] = name
                late.append(self._cast(made.output[place], name, half=not half))
        self.nodes += [made, *late]

    def _in_precision(self, name: str, half: bool) -> str:
        """Return the name of a value in a precision, converted where it is needed for the first time."""
        if (name, half) in self.twins:
            return self.twins[name, half]
        if name in self.arrays or self.is_half[name] == half:
            return name
        twin = self.names.new(f"{name}.{_HALF if half else _SINGLE}")
        self.twins[name, half] = twin
        # What was no float is converted from the start, not from its other float.
        self.nodes.append(self._cast(self.origins.get(name, name), twin, half=half))
        return twin

    def _cast(self, source: str, target: str, *, half: bool) -> onnx.NodeProto:
        kind = self.onnx.TensorProto.FLOAT16 if half else self.onnx.TensorProto.FLOAT
        return self.onnx.helper.make_node(
            "Cast", [source], [target], self.names.new(f"cast.{target}"), to=kind
        )


def _retype(node: onnx.NodeProto) -> None:
    """Let a node that names its element type itself name half precision."""
    import onnx

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        elif node.op_type == "ConstantOfShape" and attribute.name == "value":
            array = onnx.numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), attribute.t.name))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = onnx.numpy_helper.from_array(np.zeros(1, np.float16), "value")
        node.attribute.append(onnx.helper.make_attribute("value", zero))
