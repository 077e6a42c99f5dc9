"""Exact rewrites of a traced graph: less work for the same numbers, whatever the architecture.

Each is here because it was measured to save 5 % or more of a graph (docs/exact-rewrites.md, which also says
what was left out). Whether it is right is not taken on trust: the graph is compared with the reference.
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


def rewrite_exactly(model: onnx.ModelProto) -> None:
    """Apply every exact rewrite to a freshly traced graph, in place; its ``value_info`` must be there."""
    narrow_to_first_row(model)  # before shapes that are on record change
    guard_results(model)


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
