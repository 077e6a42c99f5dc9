from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from taemi_export.onnx_file import read_onnx
from taemi_export.weights import WeightRecord, changed_tensors, match_weights
from taemi_runtime.errors import ExportError


def model_of(weights: dict[str, Tensor]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Sum", list(weights), ["y"])]
    tensors = [onnx.numpy_helper.from_array(array.numpy(), name) for name, array in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [], [value], tensors))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def names_of(model: onnx.ModelProto) -> list[str]:
    assert list(model.graph.node[0].input) == [tensor.name for tensor in model.graph.initializer]
    return [tensor.name for tensor in model.graph.initializer]


def test_weights_are_found_by_content_permuted_or_reshaped_and_get_their_names() -> None:
    plain, matrix, kernel, vector = drawn(5, 7), drawn(6, 4), drawn(2, 3, 5), drawn(1, 1, 9)
    weights = {"a.plain": plain, "b.matrix": matrix, "c.kernel": kernel, "d.vector": vector}
    model = model_of(
        {
            "a.plain": plain,
            "val_1": matrix.T.contiguous(),
            "val_2": kernel.permute(2, 0, 1).contiguous(),
            "val_3": vector.reshape(9),
        }
    )
    record = match_weights(model, weights, weights)
    assert (record.held, record.held_elements) == (4, 35 + 24 + 30 + 9)
    assert record.folded == record.absent == record.computed == ()
    assert names_of(model) == ["a.plain", "b.matrix.T", "c.kernel.T", "d.vector"]


def test_tied_weights_share_an_initialiser_and_are_both_held() -> None:
    tied = drawn(8, 8)
    model = model_of({"val_1": tied})
    record = match_weights(model, {"in": tied, "out": tied.clone()}, {"in": tied})
    assert record.held == 2
    assert names_of(model) == ["in"]


def test_folded_absent_and_computed_are_told_apart() -> None:
    folded, absent = drawn(40), drawn(41)
    model = model_of({"val_1": folded * 2, "small": torch.ones(3)})
    record = match_weights(model, {"folded": folded, "absent": absent}, {"other.name": folded})
    assert record == WeightRecord(0, 0, ("folded",), ("absent",), ("val_1",))


def test_an_initialiser_with_a_weights_name_and_other_numbers_is_refused() -> None:
    weight = drawn(4, 4)
    wrong = weight.clone()
    wrong[1, 2] = torch.nextafter(wrong[1, 2], torch.tensor(9.0))
    with pytest.raises(ExportError, match="initialiser w differs"):
        match_weights(model_of({"w": wrong}), {"w": weight}, {"w": weight})


def test_every_kind_of_change_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    weights = {"a": drawn(3), "b": drawn(4)}
    path.write_bytes(model_of(weights).SerializeToString())
    record = WeightRecord(2, 7).with_file(read_onnx(path))
    assert changed_tensors(record, read_onnx(path)) == []

    def changes(others: dict[str, Tensor]) -> list[str]:
        path.write_bytes(model_of(others).SerializeToString())
        return changed_tensors(record, read_onnx(path))

    assert "weight b has sha256" in changes({"a": weights["a"], "b": weights["b"] * 1.0000002})[0]
    assert changes({"a": weights["a"]}) == ["weight b is missing"]
    assert changes({**weights, "c": drawn(5)}) == ["weight c was not exported"]
    assert len(changes({"a": weights["a"].reshape(3, 1), "b": weights["b"].double()})) == 2


def test_bool_and_integer_buffers_count(tmp_path: Path) -> None:
    weights = {"flags": torch.tensor([True, False]), "ids": torch.arange(6), "x": drawn(3)}
    model = model_of(weights)
    assert match_weights(model, weights, weights).held == 3
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path).tensors["flags"].dtype == "bool"
    assert read_onnx(path).tensors["ids"].dims == (6,)
    assert np.dtype(read_onnx(path).tensors["ids"].dtype) == np.int64
