"""An exact rewrite: where only the first row of a sequence is read, only that row is computed.

A network that is read at its first position needs, of its last layer, the keys and values of every position,
but the query, the output projection and the feed-forward part of the first one alone. From each place where
index 0 is taken the graph is followed backwards, for as long as every reader of a value needs its first row
only; there the row is taken, and what comes after it works on one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_export.graph_edits import ints_of
from taemi_export.values import constant_arrays

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array

Shape = tuple[int | str, ...]

_ELEMENTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Not", "Equal", "Greater", "Less"),
        *("GreaterOrEqual", "LessOrEqual", "Cast", "Neg", "Abs", "Sqrt", "Exp", "Erf", "Tanh", "Sigmoid"),
        *("Relu", "Gelu", "Identity", "IsNaN", "Reciprocal"),
    )
)
_NORMALISING = frozenset(("LayerNormalization", "RMSNormalization", "Softmax"))
# Narrowing pays where a product of matrices gets smaller.
_WORTH = frozenset(("MatMul", "Gemm"))
_MIN_RANK = 3


@dataclass
class _Narrowed:
    """How a node computes the first row of its output along an axis.

    Args:
        requests: For each input the axis along which its first row is enough, ``None`` where all is needed.
        shape: For Reshape: the shape that it makes.
    """

    requests: list[int | None]
    shape: list[int] | None = None


@dataclass
class _Readers:
    """Who reads a value: nodes with the place of the input, by the axis whose first row is enough."""

    all: bool = False
    first: dict[int, list[tuple[onnx.NodeProto, int]]] = field(default_factory=dict)


def narrow_to_first_row(model: onnx.ModelProto) -> None:
    """Rewrite a freshly traced graph in place; it stays as it is where nothing is gained.

    Args:
        model: The graph, with the shapes of its inner values in ``value_info``.
    """
    import onnx

    graph = onnx.GraphProto()
    graph.node.extend(model.graph.node)
    found = _Pass(model, list(graph.node)).run()
    if found is None:
        return
    nodes, constants = found
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()
    )
    # The shapes that were recorded are no longer true.
    del model.graph.value_info[:]


class _Pass:
    def __init__(self, model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
        import onnx

        self.make_node = onnx.helper.make_node
        self.nodes = nodes
        self.arrays = constant_arrays(model)
        self.shapes = _value_shapes(model, self.arrays)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, _Readers] = {}
        self.constants: dict[str, list[int]] = {}
        self.result: list[onnx.NodeProto] = []

    def run(self) -> tuple[list[onnx.NodeProto], dict[str, list[int]]] | None:
        """Return the new nodes and constants; ``None`` when no product gets smaller."""
        worth = False
        for node in reversed(self.nodes):
            narrowed = self._narrow(node)
            if narrowed is None:
                for name in node.output:
                    self._take(name)
                requests: list[int | None] = [None] * len(node.input)
                if (axis := self._first_read(node)) is not None:
                    requests[0] = axis
            else:
                requests = narrowed.requests
                worth |= node.op_type in _WORTH
                if narrowed.shape is not None:
                    node.input[1] = self._constant(f"{node.output[0]}.shape", narrowed.shape)
                    del node.attribute[:]  # allowzero: here a zero means that a length stays
            self._request(node, requests)
            self.result.append(node)
        for name in self.inputs:
            self._take(name)
        return (self.result[::-1], self.constants) if worth else None

    def _narrow(self, node: onnx.NodeProto) -> _Narrowed | None:
        """Return how a node can do with the first row, if all its readers can."""
        readers = [self.readers[name] for name in node.output if name in self.readers]
        axes = {axis for reader in readers for axis in reader.first}
        if len(axes) != 1 or any(reader.all for reader in readers) or self.outputs & set(node.output):
            return None
        rule = _rule(node.op_type)
        return None if rule is None else rule(node, axes.pop(), self.shapes, self.arrays)

    def _request(self, node: onnx.NodeProto, requests: Sequence[int | None]) -> None:
        for at, (name, axis) in enumerate(zip(node.input, requests, strict=True)):
            if not name or name in self.arrays:
                continue
            readers = self.readers.setdefault(name, _Readers())
            if axis is None or self.shapes[name][axis] == 1:
                readers.all = True
            else:
                readers.first.setdefault(axis, []).append((node, at))

    def _take(self, name: str) -> None:
        """Take the first row of a value that is there as a whole, for those who read no more of it."""
        for axis, places in self.readers.get(name, _Readers()).first.items():
            if all(self._first_read(node) is not None for node, _ in places):
                continue  # they take it themselves
            row = f"{name}.first.{axis}"
            begin, end = self._constant("first_row.begin", [0]), self._constant("first_row.end", [1])
            along = self._constant(f"first_row.axis.{axis}", [axis])
            self.result.append(self.make_node("Slice", [name, begin, end, along], [row], row))
            for node, at in places:
                node.input[at] = row

    def _first_read(self, node: onnx.NodeProto) -> int | None:
        """Return the axis along which a node takes index 0 of its first input and nothing else."""
        shape = self.shapes.get(node.input[0]) if node.input else None
        if shape is None or len(shape) < _MIN_RANK or node.input[0] in self.arrays:
            return None
        values = [self.arrays.get(name) for name in node.input[1:]]
        if node.op_type == "Gather" and values[0] is not None and not np.any(values[0]):
            return _attribute(node, "axis", 0) % len(shape) if values[0].size == 1 else None
        if (
            node.op_type == "Slice"
            and len(values) >= 3
            and all(v is not None and v.size == 1 for v in values)
        ):
            start, end, axis = (int(value.reshape(-1)[0]) for value in values[:3] if value is not None)
            return axis % len(shape) if (start, end) == (0, 1) else None
        return None

    def _constant(self, name: str, values: list[int]) -> str:
        self.constants[name] = values
        return name


_Rule = Callable[["onnx.NodeProto", int, Mapping[str, Shape], Mapping[str, "Array"]], _Narrowed | None]


def _rule(op_type: str) -> _Rule | None:
    if op_type in _ELEMENTWISE:
        return _elementwise
    if op_type in _NORMALISING:
        return _normalising
    return _RULES.get(op_type)


def _elementwise(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    rank = len(shapes[node.output[0]])
    requests: list[int | None] = []
    for name in node.input:
        shape = shapes.get(name)
        if shape is None:
            return None
        own = axis - (rank - len(shape))
        broadcast = own < 0 or shape[own] == 1
        if name in arrays and not broadcast:
            return None
        requests.append(None if broadcast else own)
    return _Narrowed(requests)


def _normalising(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    del arrays
    over = _attribute(node, "axis", -1) % len(shapes[node.output[0]])
    apart = axis != over if node.op_type == "Softmax" else axis < over
    return _Narrowed([axis, *[None] * (len(node.input) - 1)]) if apart else None


def _matmul(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    left = len(shapes[node.input[0]])
    rows = axis == len(shapes[node.output[0]]) - 2 and left >= 2 and len(shapes[node.input[1]]) >= 2
    return _Narrowed([left - 2, None]) if rows and node.input[0] not in arrays else None


def _transpose(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    del arrays
    rank = len(shapes[node.output[0]])
    order = ints_of(node, "perm")
    return _Narrowed([(order or list(range(rank))[::-1])[axis]])


def _reshape(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    """Axes up to the narrowed one stay as they are; what follows it is split or joined."""
    del arrays
    before, after = shapes[node.input[0]], shapes[node.output[0]]
    tail = [length for length in after[axis + 1 :] if isinstance(length, int)]
    same = before[: axis + 1] == after[: axis + 1] and len(tail) == len(after) - axis - 1
    return None if not same else _Narrowed([axis, None], [*[0] * axis, 1, *tail])


def _along_others(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    """Concat and Split along another axis."""
    rank = len(shapes[node.output[0]])
    if axis == _attribute(node, "axis", 0) % rank:
        return None
    if node.op_type == "Concat":
        return None if any(name in arrays for name in node.input) else _Narrowed([axis] * len(node.input))
    return _Narrowed([axis, *[None] * (len(node.input) - 1)])


def _slice(
    node: onnx.NodeProto, axis: int, shapes: Mapping[str, Shape], arrays: Mapping[str, Array]
) -> _Narrowed | None:
    along = arrays.get(node.input[3]) if len(node.input) > 3 else None
    rank = len(shapes[node.output[0]])
    if along is None or axis in {int(value) % rank for value in along.reshape(-1)}:
        return None
    return _Narrowed([axis, *[None] * (len(node.input) - 1)])


_RULES: dict[str, _Rule] = {
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Concat": _along_others,
    "Split": _along_others,
    "Slice": _slice,
}


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _value_shapes(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> dict[str, Shape]:
    """Return the shapes of the values that have one on record."""
    shapes: dict[str, Shape] = {name: array.shape for name, array in arrays.items()}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        kind: Any = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                # An axis without a name is like no other.
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{at}"
                for at, dim in enumerate(kind.shape.dim)
            )
    return shapes
