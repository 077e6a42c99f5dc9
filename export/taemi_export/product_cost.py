"""What the products of a graph cost, and which of them together cost next to nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taemi_export.conversion import name_nodes
from taemi_export.rules import without_weights
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("MatMul", "Gemm", "Conv")


def product_costs(model: onnx.ModelProto, spec: GraphSpec) -> dict[str, int]:
    """Return how many multiplications each product makes in one call of typical lengths.

    Args:
        model: The graph.
        spec: Its description.

    Returns:
        By the name that ``name_nodes`` gives; products of unknown shape are left out.
    """
    import onnx

    light = without_weights(name_nodes(model))
    sizes = spec.sizes({symbol.name: symbol.typical for symbol in spec.free_symbols})
    for value in (*light.graph.input, *light.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    costs = {}
    for node in inferred.node:
        if node.op_type not in _PRODUCTS:
            continue
        weight, result = shapes.get(node.input[1], []), shapes.get(node.output[0], [])
        inner = math.prod(weight[1:]) if node.op_type == "Conv" else shapes.get(node.input[0], [0])[-1]
        if result and (cost := math.prod(result) * inner):
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
