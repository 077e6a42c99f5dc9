"""Exact rewrites of a traced graph: less work for the same numbers.

PyTorch's exporter writes down what the module did. A mask that lets everything through is then computed and
added in every layer, which shows in the graph whatever the architecture. ``first_row`` has the other
rewrite. Whether one is right is not taken on trust: the graph is compared with the reference like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from taemi_export.first_row import narrow_to_first_row
from taemi_export.values import constant_arrays

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array

# What passes the truth of a whole tensor on.
_PASSES = frozenset(("Expand", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Transpose", "Slice", "Cast"))


def rewrite_exactly(model: onnx.ModelProto) -> None:
    """Apply every exact rewrite to a freshly traced graph, in place; its ``value_info`` must be there."""
    drop_idle_masks(model)
    narrow_to_first_row(model)  # before shapes that are on record change
    guard_results(model)


def drop_idle_masks(model: onnx.ModelProto) -> None:
    """Remove the addition of attention masks that are true everywhere, in place.

    Scaled dot-product attention adds ``where(mask, 0, -inf)`` to the scores, and replaces the NaN that a
    wholly masked row would give. With a constant mask that is true everywhere, neither does anything.
    """
    graph = model.graph
    arrays = constant_arrays(model)
    producers = {name: node for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    unmasked: set[str] = set()
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
        if node.op_type == "Add":
            left, right = node.input
            for scores, bias in ((left, right), (right, left)):
                if _adds_nothing(bias, producers, arrays):
                    renamed[node.output[0]] = scores
                    unmasked.add(scores)
        elif node.op_type == "Softmax" and node.input[0] in unmasked:
            unmasked.add(node.output[0])
        elif node.op_type == "Where" and node.input[2] in unmasked:
            guard = producers.get(node.input[0])
            if guard is not None and guard.op_type == "IsNaN" and guard.input[0] == node.input[2]:
                renamed[node.output[0]] = node.input[2]
    if renamed:
        _drop_unused(graph)


def guard_results(model: onnx.ModelProto) -> None:
    """Put the guard against wholly masked rows behind the product with the values, in place.

    Softmax makes NaN of a row without a valid key, and exported attention replaces it by zeros, weight by
    weight: [length, length] for each head. Such a row gives NaN alone, so that replacing it in the result,
    [length, width of a head], does the same.
    """
    graph = model.graph
    arrays = constant_arrays(model)
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    moved = False
    for guard in graph.node:
        if not _guards_softmax(guard, producers, arrays):
            continue
        test, weights, guarded = producers[guard.input[0]], guard.input[2], guard.output[0]
        product = readers.get(guarded, [])
        once = len(product) == 1 and len(readers[test.output[0]]) == 1 and len(readers[weights]) == 2
        if not once or product[0].op_type != "MatMul" or product[0].input[0] != guarded:
            continue
        # The three nodes swap places: product of the bare weights, test of it, replacement in it.
        bare, result = f"{guarded}.bare", product[0].output[0]
        product[0].input[0] = weights
        product[0].output[0] = bare
        test.input[0] = guard.input[2] = bare
        guard.output[0] = result
        moved = True
    if moved:
        _sort(graph)


def _guards_softmax(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]
) -> bool:
    """Whether a node is ``where(isnan(softmax), 0, softmax)``."""
    if node.op_type != "Where" or node.input[2] not in producers or node.input[0] not in producers:
        return False
    test, source, zero = producers[node.input[0]], producers[node.input[2]], arrays.get(node.input[1])
    tests = test.op_type == "IsNaN" and test.input[0] == node.input[2] and source.op_type == "Softmax"
    return tests and zero is not None and not np.any(zero)


def _sort(graph: onnx.GraphProto) -> None:
    """Put nodes into an order in which every value is there before it is read; stable."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        late = []
        for node in waiting:
            if all(name in made for name in node.input):
                ordered.append(node)
                made.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = late
    ordered = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(ordered)


def _adds_nothing(name: str, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]) -> bool:
    """Whether a value is ``where(true everywhere, 0, ...)``."""
    node = producers.get(name)
    if node is None or node.op_type != "Where":
        return False
    zero = arrays.get(node.input[1])
    return zero is not None and not np.any(zero) and _all_true(node.input[0], producers, arrays)


def _all_true(name: str, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]) -> bool:
    node = producers.get(name)
    while name not in arrays and node is not None and node.op_type in _PASSES:
        name = node.input[0]
        node = producers.get(name)
    return name in arrays and arrays[name].dtype == np.bool_ and bool(arrays[name].all())


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers that nothing reads any more."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    if len(weights) < len(graph.initializer):
        keep = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
        del graph.initializer[:]
        graph.initializer.extend(keep)
