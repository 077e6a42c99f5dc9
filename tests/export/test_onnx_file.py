from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from taemi_export.onnx_file import read_onnx, tensor_sha256
from taemi_runtime.errors import BundleError


def write(path: Path, *tensors: onnx.TensorProto, nodes: list[onnx.NodeProto] | None = None) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], list(tensors))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("other", 3)], producer_name="p"
    )
    helper.set_model_props(model, {"key": "välue"})
    path.write_bytes(model.SerializeToString())
    return path


def test_reader_agrees_with_the_onnx_package(exported: Path) -> None:
    for path in exported.glob("*.onnx"):
        model, file = onnx.load(path), read_onnx(path)
        assert file.ir_version == model.ir_version
        assert file.opsets == {entry.domain: entry.version for entry in model.opset_import}
        assert file.metadata == {entry.key: entry.value for entry in model.metadata_props}
        assert [value.name for value in file.inputs] == [value.name for value in model.graph.input]
        assert sum(file.operators.values()) == len(model.graph.node)
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            assert file.tensors[tensor.name].dims == array.shape
            assert file.tensors[tensor.name].sha256 == tensor_sha256(
                str(array.dtype), array.shape, array.tobytes()
            )


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int64", "int32", "uint8", "int8", "bool", "float16", "uint64"]
)
def test_digest_does_not_depend_on_how_numbers_are_spelt(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]] if dtype == "bool" else [[0, 1, 2], [3, 4, 100]]).astype(dtype)
    if dtype in ("float32", "int64", "int32", "int8", "float64", "float16"):
        array = -array
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    spelt = helper.make_tensor("w", kind, array.shape, array.flatten().tolist())
    raw = onnx.numpy_helper.from_array(array, "w")
    assert not spelt.raw_data
    a = read_onnx(write(tmp_path / "a.onnx", spelt)).tensors["w"]
    b = read_onnx(write(tmp_path / "b.onnx", raw)).tensors["w"]
    assert (a.sha256, a.dtype, a.dims) == (b.sha256, dtype, (2, 3))


def test_facts_of_a_hand_made_file(tmp_path: Path) -> None:
    constant = helper.make_node(
        "Constant", [], ["c"], value=helper.make_tensor("", TensorProto.FLOAT, [], [2.5])
    )
    path = write(tmp_path / "m.onnx", nodes=[constant, helper.make_node("Mul", ["x", "c"], ["y"])])
    file = read_onnx(path)
    assert file.inputs[0].shape == ("batch", 3)
    assert file.inputs[0].dtype == "float32"
    assert file.operators == {"Constant": 1, "Mul": 1}
    assert file.opsets == {"": 20, "other": 3}
    assert file.metadata == {"key": "välue"}
    assert file.tensors["c"].sha256 == tensor_sha256("float32", (), np.float32(2.5).tobytes())
    assert not file.external


def test_external_data_is_noticed(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    assert read_onnx(write(tmp_path / "m.onnx", tensor)).external


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"not a graph", b"\xff" * 40, b"\x08\x0a"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"x\.onnx"):
        read_onnx(tmp_path / "x.onnx")


def test_truncated_files_are_refused_or_read_never_crash(tmp_path: Path, exported: Path) -> None:
    content = (exported / "front.onnx").read_bytes()
    refused = 0
    for length in range(1, len(content), 97):
        (tmp_path / "x.onnx").write_bytes(content[:length])
        try:
            read_onnx(tmp_path / "x.onnx")
        except BundleError:
            refused += 1
    assert refused > 10


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        read_onnx(tmp_path / "absent.onnx")


def test_reader_needs_no_onnx_package(exported: Path, python_env: dict[str, str]) -> None:
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['google'] = None\n"
        "from pathlib import Path; from taemi_export.onnx_file import read_onnx\n"
        f"print(len(read_onnx(Path({str(exported / 'front.onnx')!r})).tensors))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_env, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 5
