"""What the products of a graph cost, and which of them together cost next to nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taemi_export.conversion import name_nodes
from taemi_export.rules import without_weights
from taemi_export.shapes import value_shapes
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("MatMul", "Gemm", "Conv")

Shape = tuple[int, ...]


def multiplications(operator: str, left: Shape, right: Shape, result: Shape) -> int:
    """Return how many multiplications, each with an addition, a product makes.

    Every element of the result is a sum of ``inner`` products: the factors' common length, or of a
    convolution the elements of one kernel, i.e. its window times the channels of a group.

    Args:
        operator: ``Conv``, ``Gemm`` or ``MatMul``, as ONNX defines them.
        left: Shape of the first factor, or of what is convolved.
        right: Shape of the second factor, or of the kernel [channels out, channels in a group, window...].
        result: Shape of the result.
    """
    if operator == "Conv":
        inner = math.prod(right[1:])
    elif operator == "Gemm":
        inner = math.prod(left) // result[0] if result[0] else 0  # whichever way the factor lies
    else:
        inner = left[-1]
    return math.prod(result) * inner


def product_costs(model: onnx.ModelProto, spec: GraphSpec) -> dict[str, int]:
    """Return how many multiplications each product makes in one call of typical lengths.

    Args:
        model: The graph.
        spec: Its description.

    Returns:
        By the name that ``name_nodes`` gives; products of unknown shape are left out.
    """
    light = without_weights(name_nodes(model))
    shapes = value_shapes(light, spec.sizes({symbol.name: symbol.typical for symbol in spec.free_symbols}))
    costs = {}
    for node in light.graph.node:
        values = [shapes.get(name) for name in (*node.input[:2], node.output[0])]
        if node.op_type in _PRODUCTS and None not in values:
            left, right, result = (value.shape for value in values if value is not None)
            if cost := multiplications(node.op_type, left, right, result):
                costs[node.name] = cost
    return costs


def cheapest(model: onnx.ModelProto, spec: GraphSpec, share: float) -> tuple[str, ...]:
    """Return the products with weights that together make at most a share of all multiplications.

    The cheapest first, so that they are as many as possible.

    Args:
        model: The graph.
        spec: Its description.
        share: Between 0 and 1.
    """
    costs = product_costs(model, spec)
    budget = share * sum(costs.values())
    weights = {tensor.name for tensor in model.graph.initializer}
    weighted = {node.name for node in name_nodes(model).graph.node if set(node.input[1:2]) & weights}
    found = []
    for name, cost in sorted(costs.items(), key=lambda item: item[1]):
        if name not in weighted:
            continue
        if cost > budget:
            break
        budget -= cost
        found.append(name)
    return tuple(found)
