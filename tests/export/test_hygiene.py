"""What a file must not carry, and how large it may be, on real bytes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import TensorProto, helper

from taemi_export.onnx_file import read_onnx
from taemi_export.rules import check_file, check_model
from taemi_export.weights import check_weight
from taemi_runtime.errors import ExportError
from taemi_runtime.manifest import read_manifest


def test_a_file_is_as_large_as_its_weights(demo_bundle: Path, tmp_path: Path) -> None:
    # The fusion network has published size even with tiny encoders: nodes hardly count.
    path = demo_bundle / "fusion.onnx"
    weights = sum(4 * tensor.elements for tensor in read_onnx(path).tensors.values())
    assert abs(path.stat().st_size / weights - 1) < 0.05
    spec = read_manifest(demo_bundle).graphs["fusion"]
    check_weight(path, spec, weights)
    twice = tmp_path / "twice.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    copy = model.graph.initializer.add()
    copy.CopyFrom(largest)
    copy.name = "again"
    twice.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=rf"{twice.stat().st_size} bytes, its weights take {weights}: more"):
        check_weight(twice, spec, weights)
    model.graph.initializer.remove(copy)
    del model.graph.initializer[:]
    twice.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="more than 5 % off"):
        check_weight(twice, spec, weights)


def test_no_place_of_this_machine_is_in_the_bytes_of_a_real_bundle(demo_bundle: Path) -> None:
    for path in sorted(demo_bundle.iterdir()):
        content = path.read_bytes()
        for place in (Path.cwd(), sys.prefix, Path(onnx.__file__).parent, demo_bundle.parent, Path.home()):
            assert str(place).encode() not in content, (path.name, place)
        if path.suffix == ".onnx":
            assert not re.search(rb'site-packages|stack_trace|File "', content), path.name


@pytest.mark.parametrize(
    "note",
    ["/home/jo/model.py", "C:\\Users\\jo", 'File "model.py", line 3', "lib/site-packages/torch", "CWD"],
)
def test_a_path_or_a_trace_anywhere_in_a_graph_is_refused(toy: ModuleType, exported: Path, note: str) -> None:
    spec = toy.front_spec()
    model = onnx.load(exported / "front.onnx")
    check_model(model, spec)
    text = str(Path.cwd()) if note == "CWD" else note
    for place in ("node", "metadata", "producer"):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        if place == "node":
            changed.graph.node[0].name = text
        elif place == "metadata":
            entry = changed.metadata_props.add()
            entry.key, entry.value = "note", text
        else:
            changed.producer_version = text
        with pytest.raises(ExportError, match=r"place on this machine|a path or a stack trace"):
            check_model(changed, spec)


def test_a_graph_whose_shapes_contradict_each_other_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5, 4], [0.0] * 20)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    onnx.checker.check_model(str(path))  # without shape inference nothing is wrong with it
    with pytest.raises(ExportError, match=r"onnx\.checker refuses it"):
        check_file(path, toy.front_spec())


def test_every_dynamic_axis_of_a_real_bundle_has_its_name(demo_bundle: Path) -> None:
    for name, spec in read_manifest(demo_bundle).graphs.items():
        file = read_onnx(demo_bundle / f"{name}.onnx")
        for item, value in zip((*spec.inputs, *spec.outputs), (*file.inputs, *file.outputs), strict=True):
            assert value.shape == item.shape, (name, item.name)
