"""The values of a graph: their element types, and the constants among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taemi_export.keep_list import HALF_SMALLEST_NORMAL
from taemi_export.rules import without_weights
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import Array

if TYPE_CHECKING:
    import onnx


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value of a graph, by ``TensorProto.DataType`` number.

    Raises:
        ExportError: A type cannot be inferred.
    """
    import onnx

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), strict_mode=True)
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise ExportError(
                    f"cannot convert graph {model.graph.name!r}",
                    f"the type of {name}, an output of node {node.name}, cannot be inferred",
                    "Export it again: taemi-export onnx CKPT --force",
                )
    return types


def constant_arrays(model: onnx.ModelProto) -> dict[str, Array]:
    """Return every constant of a graph by name: initialisers and Constant nodes."""
    import onnx

    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            tensor = isinstance(value, onnx.TensorProto)
            arrays[node.output[0]] = onnx.numpy_helper.to_array(value) if tensor else np.asarray(value)
    return arrays


def largest_finite(array: Array) -> float:
    """Return the largest finite magnitude: an infinity is an infinity in half precision, too."""
    with np.errstate(over="ignore"):
        if array.size == 0 or np.isfinite(array.astype(np.float16)).all():
            return 0.0
    finite = array[np.isfinite(array)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def is_lost(array: Array) -> bool:
    """Whether a single number, such as a guard against division by zero, would vanish or lose bits."""
    if array.size != 1:
        return False
    value = abs(float(array.reshape(-1)[0]))
    return 0 < value < HALF_SMALLEST_NORMAL
