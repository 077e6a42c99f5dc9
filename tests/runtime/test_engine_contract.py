"""One contract for every backend that runs ONNX graphs and can be used here."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from taemi_runtime.backends import backend, open_engine, registered
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import DeviceError, EngineError, InputError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol
from tests.runtime.tiny_bundle import BIAS, MISSING, WEIGHTS, fusion_model, fusion_spec, model, vision_spec

BACKENDS = [name for name in registered() if ".onnx" in backend(name).suffixes]
USABLE = [name for name in BACKENDS if backend(name).probe().usable]
# TF32 is off, so that one bound holds everywhere: sums of some ten products of numbers near one.
TOLERANCE = 2e-6
SPEC = fusion_spec()
SIZES = {"batch": 3, "audio_len": 7, "vision_len": 5}


@pytest.fixture(
    scope="class",
    params=[pytest.param(name, marks=[pytest.mark.gpu] if "cuda" in name else []) for name in USABLE],
)
def name(request):
    return request.param


@pytest.mark.parametrize("name", BACKENDS)
def test_is_run_below(name):
    """Prints once which backends the contract was not tried on, and why."""
    probe = backend(name).probe()
    if not probe.usable:
        pytest.skip(f"{name}: {probe.detail}")
    assert name in USABLE


@pytest.fixture(scope="class")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "fusion.onnx"
    onnx.save(fusion_model(), path)
    return path


@pytest.fixture(scope="class")
def engine(name, path):
    with open_engine(path, SPEC, backend=name, precision="fp32") as engine:
        yield engine


def by_hand(arrays):
    def mean(name):
        mask = arrays[f"{name}_mask"]
        with np.errstate(invalid="ignore"):
            clean = np.where(mask[:, :, None], arrays[name], 0).astype(np.float64)
            total = clean.sum(1)
        return total / np.maximum(mask.sum(1, keepdims=True), 1)

    parts = [mean("audio"), mean("vision"), arrays["text"]]
    present = arrays["present"]
    joint = [np.where(present[:, [index]], part, MISSING) for index, part in enumerate(parts)]
    return np.concatenate(joint, 1) @ WEIGHTS + BIAS


class TestEngineContract:
    @pytest.mark.parametrize(
        "sizes",
        [
            {"batch": 1, "audio_len": 1, "vision_len": 1},
            {"batch": 1, "audio_len": 599, "vision_len": 400},
            {"batch": 5, "audio_len": 2, "vision_len": 33},
            SIZES,
        ],
        ids=str,
    )
    def test_numbers_are_right_at_any_batch_and_length(self, engine, sizes):
        arrays = draw_inputs(SPEC, sizes, seed=sizes["audio_len"])
        np.testing.assert_allclose(engine.run(arrays)["intensities"], by_hand(arrays), atol=TOLERANCE)

    def test_all_presence_combinations(self, engine):
        present = list(itertools.product([True, False], repeat=3))
        arrays = draw_inputs(SPEC, {**SIZES, "batch": 8}, present=present)
        np.testing.assert_allclose(engine.run(arrays)["intensities"], by_hand(arrays), atol=TOLERANCE)

    def test_outputs_are_named_typed_and_shaped_as_the_spec_says(self, engine):
        outputs = engine.run(draw_inputs(SPEC, SIZES))
        assert list(outputs) == ["intensities"]
        assert outputs["intensities"].dtype == np.float32
        assert outputs["intensities"].shape == (3, 6)

    def test_a_run_repeats_to_the_last_bit(self, engine):
        arrays = draw_inputs(SPEC, SIZES)
        first, second = engine.run(arrays), engine.run(arrays)
        np.testing.assert_array_equal(first["intensities"], second["intensities"])

    def test_inputs_are_left_alone_and_may_be_read_only(self, engine):
        arrays = draw_inputs(SPEC, SIZES)
        copies = {key: array.copy() for key, array in arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False
        engine.run(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, copies[key])

    def test_outputs_belong_to_the_caller(self, engine):
        arrays = draw_inputs(SPEC, SIZES, poison=False)
        first = engine.run(arrays)["intensities"]
        kept = first.copy()
        other = {**arrays, "text": arrays["text"] + 1}
        engine.run(other)
        np.testing.assert_array_equal(first, kept)
        assert not any(np.shares_memory(first, array) for array in arrays.values())
        first[:] = 0
        np.testing.assert_array_equal(engine.run(arrays)["intensities"], kept)

    def test_strided_inputs_are_read_right(self, engine):
        arrays = draw_inputs(SPEC, SIZES, poison=False)
        strided = {**arrays, "audio": np.repeat(arrays["audio"], 2, axis=1)[:, ::2]}
        assert not strided["audio"].flags.c_contiguous
        np.testing.assert_array_equal(engine.run(strided)["intensities"], engine.run(arrays)["intensities"])

    def test_wrong_inputs_are_refused_before_anything_runs(self, engine):
        arrays = draw_inputs(SPEC, SIZES, poison=False)
        before = engine.last_run_ms
        with pytest.raises(InputError, match=r"missing \['text'\]"):
            engine.run({key: array for key, array in arrays.items() if key != "text"})
        with pytest.raises(InputError, match=r"got float64 \[3, 2\], expected float32 \[batch, 2\]"):
            engine.run({**arrays, "text": arrays["text"].astype(np.float64)})
        with pytest.raises(InputError, match="cannot take audio_len = 600: expected 1 to 599"):
            engine.run(draw_wrong_length())
        assert engine.last_run_ms == before

    def test_nan_is_refused_by_name_where_it_is_read_and_ignored_where_not(self, engine):
        arrays = draw_inputs(SPEC, SIZES, poison=False, ragged=False)
        arrays["vision"][1, 2, 0] = np.nan
        with pytest.raises(
            InputError, match=r"fusion.vision is not finite where it is valid: nan at \(1, 2, 0\)"
        ):
            engine.run(arrays)
        masked = {**arrays, "vision_mask": arrays["vision_mask"].copy()}
        masked["vision_mask"][1, 2:] = False
        np.testing.assert_allclose(engine.run(masked)["intensities"], by_hand(masked), atol=TOLERANCE)

    def test_time_is_measured(self, engine):
        engine.run(draw_inputs(SPEC, SIZES))
        assert engine.last_run_ms > 0

    def test_info_says_what_was_loaded(self, engine, name, path):
        info = engine.info
        assert (info.path, info.backend, info.precision) == (str(path), name, "fp32")
        assert info.device == ("cuda:0" if "cuda" in name else "cpu")
        assert info.versions
        assert info.limits == {"audio_len": 599, "vision_len": 400}
        assert info.threads >= 1

    def test_threads_are_those_that_were_asked_for(self, name, path):
        with open_engine(path, SPEC, EngineOptions(threads=1), backend=name) as engine:
            assert engine.info.threads == 1

    def test_a_closed_engine_says_so(self, name, path):
        engine = open_engine(path, SPEC, backend=name)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match=f"cannot run {path}: the engine is closed. Open it again"):
            engine.run(draw_inputs(SPEC, SIZES))

    def test_two_engines_of_one_file_do_not_disturb_each_other(self, name, path, engine):
        arrays = draw_inputs(SPEC, SIZES)
        with open_engine(path, SPEC, backend=name) as other:
            there = other.run(arrays)["intensities"]
        np.testing.assert_array_equal(engine.run(arrays)["intensities"], there)

    @pytest.mark.parametrize("content", [b"", b"no graph at all" * 20])
    def test_files_that_are_no_graph_are_refused_with_the_reason(self, name, tmp_path, content):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(EngineError, match=f"cannot (load|use) {path}"):
            open_engine(path, SPEC, backend=name)

    def test_a_cut_graph_is_refused(self, name, path, tmp_path):
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(EngineError, match="refused it"):
            open_engine(cut, SPEC, backend=name)

    def test_a_file_that_is_not_there_is_refused(self, name, tmp_path):
        with pytest.raises(EngineError, match=r"none\.onnx"):
            open_engine(tmp_path / "none.onnx", SPEC, backend=name)

    def test_another_graph_is_refused_with_both_sides(self, name, path):
        with pytest.raises(EngineError) as caught:
            open_engine(path, vision_spec(), backend=name)
        message = str(caught.value)
        assert "there is no input pixels" in message
        assert "input audio is unknown" in message
        assert "there is no output vision" in message

    def test_an_axis_that_became_fixed_is_refused(self, name, tmp_path):
        fixed = tmp_path / "fixed.onnx"
        onnx.save(fusion_model(fixed=True), fixed)
        with pytest.raises(
            EngineError, match=r"input audio is float32 \['batch', 599, 3\], expected float32"
        ):
            open_engine(fixed, SPEC, backend=name)

    def test_half_precision_inputs_are_converted(self, name, tmp_path):
        spec = GraphSpec(
            "g",
            (Symbol("batch"),),
            (InputSpec("x", "float32", ("batch", 2), half=True),),
            (OutputSpec("y", "float32", ("batch", 2)),),
            {},
        )
        made = model(spec, [helper.make_node("Add", ["x", "x"], ["y"])], [])
        for value in (*made.graph.input, *made.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        path = tmp_path / "g.fp16.onnx"
        onnx.save(made, path)
        x = np.array([[0.1, 1000.0]], dtype=np.float32)
        with open_engine(path, spec, backend=name, precision="fp16") as engine:
            y = engine.run({"x": x})["y"]
            assert engine.info.precision == "fp16"
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, (x.astype(np.float16) * 2).astype(np.float32))

    def test_half_precision_inputs_may_come_as_they_are_and_must_fit(self, name, tmp_path):
        spec = GraphSpec(
            "g",
            (Symbol("batch"), Symbol("steps", typical=2, maximum=9)),
            (
                InputSpec("x", "float32", ("batch", "steps", 1), half=True),
                InputSpec("x_mask", "bool", ("batch", "steps"), role="mask", masks="x"),
            ),
            (OutputSpec("y", "float32", ("batch", "steps", 1)),),
            {},
        )
        weights = [
            numpy_helper.from_array(np.float16(0), "zero"),
            numpy_helper.from_array(np.array([2]), "column"),
        ]
        nodes = [
            helper.make_node("Unsqueeze", ["x_mask", "column"], ["valid"]),
            helper.make_node("Where", ["valid", "x", "zero"], ["y"]),
        ]
        shape = ["batch", "steps", 1]
        x_info, y_info = (
            helper.make_tensor_value_info(label, TensorProto.FLOAT16, shape) for label in ("x", "y")
        )
        mask_info = helper.make_tensor_value_info("x_mask", TensorProto.BOOL, shape[:2])
        graph = helper.make_graph(nodes, "g", [x_info, mask_info], [y_info], weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        path = tmp_path / "g.fp16.onnx"
        onnx.save(made, path)
        x = np.array([[[0.1], [3e38]]], dtype=np.float32)
        mask = np.array([[True, False]])
        with open_engine(path, spec, backend=name, precision="fp16") as engine, warnings.catch_warnings():
            warnings.simplefilter("error")
            assert engine.info.inputs == {"x": "float16"}
            wide = engine.run({"x": x, "x_mask": mask})["y"]
            narrow = np.array([[[0.1], [np.inf]]], dtype=np.float16)
            np.testing.assert_array_equal(engine.run({"x": narrow, "x_mask": mask})["y"], wide)
            assert wide.dtype == np.float32
            engine.run({"x": np.full((1, 2, 1), 65504, np.float32), "x_mask": ~mask | mask})
            with pytest.raises(
                InputError,
                match=r"g\.x does not fit into half precision.*65536\.0 at \(0, 1, 0\), .*ends at 65504",
            ):
                engine.run({"x": np.array([[[1], [65536]]], np.float32), "x_mask": ~mask | mask})
            with pytest.raises(InputError, match=r"got float64.*expected float32 or float16"):
                engine.run({"x": x.astype(np.float64), "x_mask": mask})

    def test_the_other_device_is_refused(self, name, path):
        device = "cpu" if "cuda" in name else "cuda"
        with pytest.raises(DeviceError, match=f"cannot run {path} on {device}"):
            open_engine(path, SPEC, EngineOptions(device=device), backend=name)

    def test_probe_and_registration(self, name):
        kind = backend(name)
        assert kind.name == name
        assert kind.probe().detail
        assert kind.extra in ("cpu", "gpu")


def draw_wrong_length():
    arrays = draw_inputs(SPEC, {**SIZES, "audio_len": 599}, poison=False)
    arrays["audio"] = np.pad(arrays["audio"], ((0, 0), (0, 1), (0, 0)))
    arrays["audio_mask"] = np.pad(arrays["audio_mask"], ((0, 0), (0, 1)))
    return arrays
