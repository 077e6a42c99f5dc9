"""Outputs in half precision: what another graph takes so is given so, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from taemi_export import export_onnx
from taemi_export.keep_list import DEFAULT_KEEP
from taemi_export.mending import convert_and_mend
from taemi_export.overflow import find_overflow
from taemi_export.precision import add_half, convert_to_half
from taemi_export.rounding import RoundedGraph
from taemi_export.rules import check_model
from taemi_export.triton_engines import Serving, describe_engine
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import ExportError, ParityError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import read_manifest

WIDTH = 12


def output_type(model: onnx.ModelProto, place: int = 0) -> int:
    return model.graph.output[place].type.tensor_type.elem_type


@pytest.mark.parametrize("last_layer", [True, False], ids=["float32 layer", "half layer"])
def test_an_output_is_rounded_at_its_end_and_nowhere_else(graphs: ModuleType, last_layer: bool) -> None:
    keep = replace(DEFAULT_KEEP, last_layer=last_layer)
    plain = convert_to_half(graphs.network(), graphs.SPEC, keep=keep)
    half = convert_to_half(graphs.network(), graphs.SPEC, keep=keep, half_outputs={"scores"})
    assert (plain.outputs, half.outputs) == ({}, {"scores": "float16"})
    assert (output_type(plain.model), output_type(half.model)) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    onnx.checker.check_model(half.model, full_check=True)
    # One Cast at the end: that which made the output float32 goes, or one to half precision comes.
    assert half.counts["cast"] - plain.counts["cast"] == (1 if last_layer else -1)
    assert half.counts["float16"] == plain.counts["float16"]
    session = onnxruntime.InferenceSession(half.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].type == "tensor(float16)"
    for seed in range(3):
        inputs = draw_inputs(graphs.SPEC, {"batch": 3, "steps": 5}, seed=seed)
        wide = RoundedGraph(plain.model).run(inputs)["scores"]
        narrow = RoundedGraph(half.model).run(inputs)["scores"]
        assert narrow.dtype == np.float16
        np.testing.assert_array_equal(narrow, wide.astype(np.float16))


def test_an_output_that_only_moves_numbers_comes_out_too(graphs: ModuleType) -> None:
    model = graphs.network()
    model.graph.node[-1].output[0] = "row"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4]), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["row", "shape"], ["scores"], "n_scores"))
    half = convert_to_half(
        model, graphs.SPEC, keep=replace(DEFAULT_KEEP, last_layer=False), half_outputs={"scores"}
    )
    assert output_type(half.model) == TensorProto.FLOAT16
    assert half.model.graph.node[-1].op_type == "Reshape"
    inputs = draw_inputs(graphs.SPEC, {"batch": 2, "steps": 4})
    wanted = RoundedGraph(model).run(inputs)["scores"]
    np.testing.assert_allclose(RoundedGraph(half.model).run(inputs)["scores"], wanted, atol=2e-2)
    assert find_overflow(half.model, model, [inputs]) == ()


def test_an_output_that_others_read_keeps_both_precisions_apart(graphs: ModuleType) -> None:
    model = graphs.network()
    spec = replace(
        graphs.SPEC, outputs=(*graphs.SPEC.outputs, replace(graphs.SPEC.outputs[0], name="further"))
    )
    model.graph.node.append(helper.make_node("Tanh", ["scores"], ["further"], "n_further"))
    model.graph.output.append(helper.make_tensor_value_info("further", TensorProto.FLOAT, ("batch", 4)))
    half = convert_to_half(model, spec, half_outputs={"scores"})
    onnx.checker.check_model(half.model, full_check=True)
    assert [output_type(half.model, place) for place in (0, 1)] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    inputs = draw_inputs(spec, {"batch": 2, "steps": 4})
    got, wanted = RoundedGraph(half.model).run(inputs), RoundedGraph(model).run(inputs)
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, atol=2e-2)


def test_an_output_beyond_half_precision_is_found_at_its_cast(graphs: ModuleType) -> None:
    model = graphs.network()
    model.graph.node[-1].output[0] = "small"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2e5), "gain"))
    model.graph.node.append(helper.make_node("Mul", ["small", "gain"], ["scores"], "n_scores"))
    judged = graphs.judged(model)
    loose = replace(
        graphs.SPEC, gates={"fp16": replace(graphs.SPEC.gates["fp16"], max_abs=1e9, mean_abs=1e9)}
    )
    plain = convert_and_mend(model, loose, judged.calls)
    assert find_overflow(plain.graph.model, model, [call.inputs for call in judged.calls]) == ()
    half = convert_to_half(model, loose, half_outputs={"scores"})
    (found,) = find_overflow(half.model, model, [judged.calls[0].inputs])
    assert (found.value, found.operator) == ("scores", "Cast")
    assert np.isinf(found.got)
    assert abs(found.expected) > 65504
    with pytest.raises(ParityError, match=r"scores in case .*: max inf > 1e"):
        convert_and_mend(model, loose, judged.calls, half_outputs={"scores"})


@pytest.fixture(scope="module")
def linked(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose second graph gives what its first one takes."""
    source = toy.toy_source()
    front = toy.front_spec()
    front = replace(front, outputs=(replace(front.outputs[0], name="frames"),))
    graphs = (
        toy.graph_of(toy.tagger_spec(frame_dim=WIDTH), toy.Tagger(frame_dim=WIDTH)),
        toy.graph_of(front, toy.Front(width=WIDTH)),
    )
    folder = tmp_path_factory.mktemp("linked") / "linked.taemi"
    bundle = export_onnx(replace(source, graphs=graphs), folder)
    for graph in ("tagger", "front"):
        add_half(bundle, graph)
    return Path(bundle)


def test_a_bundle_gives_in_half_precision_what_its_first_graph_takes_so(linked: Path) -> None:
    manifest = read_manifest(linked)
    first, second = manifest.files["tagger.fp16.onnx"], manifest.files["front.fp16.onnx"]
    assert (first.inputs, first.outputs) == ({"frames": "float16"}, {})
    assert (second.inputs, second.outputs) == ({}, {"frames": "float16"})
    assert manifest.files["front.onnx"].outputs == {}
    assert manifest.parity["front.fp16.onnx"].passed
    assert manifest.conversions["front.fp16.onnx"].counts["cast"] > 0
    with open_model(linked / "front.fp16.onnx") as model:
        engine = model.engine("front")
        assert engine.info.outputs == {"frames": "float16"}
        found = engine.run(draw_inputs(engine.spec, {"batch": 2, "samples": 90}))["frames"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
    with pytest.raises(ExportError, match="its outputs are"):
        check_model(onnx.load(linked / "front.fp16.onnx"), manifest.graphs["front"])


def test_a_server_is_told_the_type_that_the_file_gives(linked: Path) -> None:
    bundle = Bundle.open(linked)
    spec = bundle.manifest.graphs["front"]
    served = describe_engine(bundle, spec, "toy", "front.fp16.onnx", Serving(device="cpu"))
    assert served.dtypes["frames"] == "float16"
    assert (
        describe_engine(bundle, spec, "toy", "front.onnx", Serving(device="cpu")).dtypes["frames"]
        == "float32"
    )
