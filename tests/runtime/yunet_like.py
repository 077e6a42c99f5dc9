"""An ONNX file with YuNet's inputs and outputs and nothing learned."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper


def yunet_like(path):
    """Write an ONNX file with YuNet's signature that takes bright cells of 32 pixels for faces."""
    nodes, outputs = [], []
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255])]
    nodes.append(helper.make_node("Mul", ["input", "scale"], ["scaled"]))
    shapes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    for kind, width in shapes.items():
        for stride in (8, 16, 32):
            name = f"{kind}_{stride}"
            window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
            gain = 1.0 if width == 1 and stride == 32 else 0.0
            weight = np.full((width, 3, stride, stride), gain / (3 * stride * stride), np.float32)
            constants.append(helper.make_tensor(f"w_{name}", TensorProto.FLOAT, weight.shape, weight.ravel()))
            constants.append(helper.make_tensor(f"s_{name}", TensorProto.INT64, [3], [1, -1, width]))
            nodes += [
                helper.make_node("Conv", ["scaled", f"w_{name}"], [f"c_{name}"], **window),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, width]))
    pixels = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "yunet", [pixels], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path
