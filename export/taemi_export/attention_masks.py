"""Exact rewrites of exported attention: masks that hide nothing, and the guard against those that hide all.

PyTorch's exporter writes a masked softmax down as ``softmax(scores + where(mask, 0, -inf))`` and replaces the
NaN of a row without a valid key by zeros, weight by weight: [length, length] for each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from taemi_export.graph_edits import find_producers, find_readers, remove_unread, sort_nodes
from taemi_export.values import constant_arrays

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array


def drop_idle_masks(model: onnx.ModelProto) -> None:
    """Remove masks that are true everywhere, whatever the inputs, and the guards behind them, in place.

    The transformers library makes one for encoders that never pad, such as ViT: trace by trace it is a
    constant that is expanded. Zero is then added to every score, and no row can be without a valid key.
    (A guard without a mask would still turn what is not finite into zeros, which hides a defect that PyTorch
    shows.)
    """
    graph = model.graph
    arrays = constant_arrays(model)
    producers, readers = find_producers(graph), find_readers(graph)
    dropped = False
    for softmax in graph.node:
        if softmax.op_type != "Softmax":
            continue
        masked = producers.get(softmax.input[0])
        if masked is None or masked.op_type != "Add" or not _is_idle(masked.input[1], producers, arrays):
            continue
        softmax.input[0] = masked.input[0]
        for guard in readers.get(softmax.output[0], []):
            if _guards_softmax(guard, producers, arrays):
                for reader in readers.get(guard.output[0], []):
                    _reread(reader, guard.output[0], softmax.output[0])
        dropped = True
    if dropped:
        remove_unread(graph)


def guard_results(model: onnx.ModelProto) -> None:
    """Put the guard against wholly masked rows behind the product with the values, in place.

    A row without a valid key gives NaN alone, so that replacing it in the result, [length, width of a head],
    does the same as replacing it in the weights.
    """
    graph = model.graph
    arrays = constant_arrays(model)
    producers, readers = find_producers(graph), find_readers(graph)
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
        sort_nodes(graph)


def _is_idle(name: str, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]) -> bool:
    """Whether a value is ``where(mask, 0, anything)`` of a mask that is true everywhere."""
    choice = producers.get(name)
    if choice is None or choice.op_type != "Where":
        return False
    mask, zero = choice.input[0], arrays.get(choice.input[1])
    expanded = producers.get(mask)
    if expanded is not None and expanded.op_type == "Expand":
        mask = expanded.input[0]
    known = arrays.get(mask)
    return known is not None and bool(known.all()) and zero is not None and not np.any(zero)


def _guards_softmax(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], arrays: Mapping[str, Array]
) -> bool:
    """Whether a node is ``where(isnan(softmax), 0, softmax)``."""
    if node.op_type != "Where" or node.input[2] not in producers or node.input[0] not in producers:
        return False
    test, source, zero = producers[node.input[0]], producers[node.input[2]], arrays.get(node.input[1])
    tests = test.op_type == "IsNaN" and test.input[0] == node.input[2] and source.op_type == "Softmax"
    return tests and zero is not None and not np.any(zero)


def _reread(node: onnx.NodeProto, old: str, new: str) -> None:
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new
