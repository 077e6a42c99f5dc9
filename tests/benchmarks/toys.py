"""A toy model with an ONNX twin made by hand: what the benchmarks measure in these tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from taemi.exportable import ExportGraph, ExportSource
from taemi_runtime.bundle import Bundle
from taemi_runtime.manifest import (
    MANIFEST_NAME,
    Manifest,
    Source,
    describe_file,
    format_manifest,
)
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol

GATE = Gate(max_abs=1e-5, mean_abs=1e-6, min_cosine=0.9999)

FRAMES = GraphSpec(
    name="frames",
    symbols=(Symbol("batch"), Symbol("steps", typical=12, maximum=40)),
    inputs=(
        InputSpec("x", "float32", ("batch", "steps", 8), half=True),
        InputSpec("x_mask", "bool", ("batch", "steps"), role="mask", masks="x"),
    ),
    outputs=(OutputSpec("y", "float32", ("batch", "steps", 3), mask="x_mask"),),
    gates={"fp32": GATE},
)
SQUARES = GraphSpec(
    name="squares",
    symbols=(Symbol("batch", typical=4, maximum=16),),
    inputs=(InputSpec("v", "float32", ("batch", 5)),),
    outputs=(OutputSpec("w", "float32", ("batch", 5)),),
    gates={"fp32": GATE},
)


class Frames(nn.Module):
    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.copy()))

    def forward(self, x: torch.Tensor, x_mask: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight) * x_mask[:, :, None].to(x.dtype)


class Squares(nn.Module):
    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return v * v


def weight() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((8, 3)).astype(np.float32)


def toy_source(values: np.ndarray | None = None) -> ExportSource:
    return ExportSource(
        family="toy",
        graphs=(
            export_graph(FRAMES, Frames(weight() if values is None else values)),
            export_graph(SQUARES, Squares()),
        ),
        model={},
        preprocessing={},
        trained=False,
    )


def export_graph(spec: GraphSpec, module: nn.Module) -> ExportGraph:
    module.eval()

    def reference(inputs):
        with torch.inference_mode():
            return {spec.outputs[0].name: module(**inputs)}

    return ExportGraph(spec, module, reference, dict(module.state_dict()))


def frames_onnx(values: np.ndarray) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["scores"]),
        helper.make_node("Cast", ["x_mask"], ["valid"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["valid", "last"], ["column"]),
        helper.make_node("Mul", ["scores", "column"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(values, "weight"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
    ]
    return to_onnx(FRAMES, nodes, constants)


def squares_onnx() -> bytes:
    return to_onnx(SQUARES, [helper.make_node("Mul", ["v", "v"], ["w"])], [])


def to_onnx(spec: GraphSpec, nodes, constants) -> bytes:
    kinds = {"float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}
    inputs, outputs = (
        [helper.make_tensor_value_info(item.name, kinds[item.dtype], list(item.shape)) for item in items]
        for items in (spec.inputs, spec.outputs)
    )
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def make_bundle(
    folder: Path,
    *,
    values: np.ndarray | None = None,
    trained: bool = False,
    source: Source | None = None,
    graphs: tuple[str, ...] = ("frames", "squares"),
) -> Bundle:
    """Write a bundle whose ``frames`` graph holds ``values``."""
    folder.mkdir(parents=True)
    contents = {
        "frames": frames_onnx(weight() if values is None else values),
        "squares": squares_onnx(),
    }
    specs = {"frames": FRAMES, "squares": SQUARES}
    files = {}
    for name in graphs:
        path = folder / f"{name}.onnx"
        path.write_bytes(contents[name])
        files[path.name] = describe_file(path, graph=name, precision="fp32")
    manifest = Manifest(
        family="toy",
        graphs={name: specs[name] for name in graphs},
        files=files,
        model={},
        preprocessing={},
        trained=trained,
        source=source,
    )
    (folder / MANIFEST_NAME).write_text(format_manifest(manifest))
    return Bundle.open(folder)
