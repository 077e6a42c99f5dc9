"""An exact rewrite of exported attention: keys are transposed once.

PyTorch's exporter brings keys [batch, heads, length, width] into [batch, heads, width, length] by way of
three dimensions: Reshape, Transpose, Reshape, with shapes that are computed in every call. One Transpose of
the four does that, and where another one made the four (heads before the length), it does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from taemi_export.graph_edits import find_producers, ints_of, remove_unread
from taemi_export.values import constant_arrays

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array

_RANK = 4


def transpose_keys_once(model: onnx.ModelProto) -> None:
    """Rewrite a freshly traced graph in place; what has another form stays as it is."""
    import onnx

    graph = model.graph
    arrays = constant_arrays(model)
    producers = find_producers(graph)
    found = False
    for last in graph.node:
        keys = _swapped(last, producers, arrays)
        if keys is None:
            continue
        order, source = [0, 1, 3, 2], producers.get(keys)
        if source is not None and source.op_type == "Transpose":
            before = ints_of(source, "perm") or [3, 2, 1, 0]
            keys, order = source.input[0], [before[place] for place in order]
        swap = onnx.helper.make_node("Transpose", [keys], list(last.output), name=last.name, perm=order)
        last.CopyFrom(swap)
        found = True
    if found:
        remove_unread(graph)


def _swapped(
    last: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]
) -> str | None:
    """Return the value whose last two of four dimensions three nodes swap; ``None`` where they do not."""
    if last.op_type != "Reshape":
        return None
    middle = producers.get(last.input[0])
    if middle is None or middle.op_type != "Transpose" or ints_of(middle, "perm") != [0, 2, 1]:
        return None
    first = producers.get(middle.input[0])
    if first is None or first.op_type != "Reshape":
        return None
    keys = first.input[0]
    joined = _dimensions(first.input[1], keys, producers, arrays)
    parted = _dimensions(last.input[1], keys, producers, arrays)
    return keys if joined == ["rest", 2, 3] and parted == [0, 1, 3, 2] else None


def _dimensions(
    name: str, of: str, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]
) -> list[int | str]:
    """Return which dimensions of a value a shape consists of, ``rest`` for -1; empty for any other shape."""
    joined = producers.get(name)
    if joined is None or joined.op_type != "Concat":
        return []
    found: list[int | str] = []
    for part in joined.input:
        constant, node = arrays.get(part), producers.get(part)
        if constant is not None:
            if constant.tolist() != [-1]:
                return []
            found.append("rest")
            continue
        if node is None or node.op_type != "Slice" or len(node.input) != 3:
            return []  # axes and steps make another form
        shape = producers.get(node.input[0])
        start, end = arrays.get(node.input[1]), arrays.get(node.input[2])
        if shape is None or not _is_whole_shape(shape, of) or start is None or end is None:
            return []
        found += range(_RANK)[int(start.item()) : int(end.item())]
    return found


def _is_whole_shape(node: onnx.NodeProto, of: str) -> bool:
    """Whether a node is the shape of a value, all dimensions of it."""
    partly = any(item.name == "end" or item.i != 0 for item in node.attribute)
    return node.op_type == "Shape" and node.input[0] == of and not partly
