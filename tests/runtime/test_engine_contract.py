"""One contract for every way to run a graph: each backend that works here, plans on a simulated GPU."""

from __future__ import annotations

import itertools
import resource
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from taemi_runtime.backends import backend, open_engine, registered
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import DeviceError, EngineError, InputError, TaemiError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol
from tests.runtime.engine_places import installed, place_params, places
from tests.runtime.tiny_bundle import BIAS, MISSING, WEIGHTS, fusion_model, fusion_spec, model, vision_spec

BACKENDS = [name for name in registered() if {".onnx", ".plan"} & set(backend(name).suffixes)]
# TF32 is off, so that one bound holds everywhere: sums of some ten products of numbers near one.
TOLERANCE = 2e-6
SPEC = fusion_spec()
SIZES = {"batch": 3, "audio_len": 7, "vision_len": 5}


@pytest.fixture(scope="class", params=place_params())
def place(request):
    with installed(request.param) as made:
        yield made


@pytest.mark.parametrize("name", BACKENDS)
def test_is_run_below(name):
    """Prints once which backends the contract was not tried on, and why."""
    probe = backend(name).probe()
    if not probe.usable:
        pytest.skip(f"{name}: {probe.detail}")
    assert name in [place.name for place in places()]


@pytest.fixture(scope="class")
def path(place, tmp_path_factory):
    return place.write(tmp_path_factory.mktemp("graphs"), "fusion", fusion_model(), SPEC)


@pytest.fixture(scope="class")
def open_here(place):
    def open_it(path, spec=SPEC, **options):
        return open_engine(path, spec, place.opened_with(**options), backend=place.backend, precision="fp32")

    return open_it


@pytest.fixture(scope="class")
def engine(path, open_here):
    with open_here(path) as engine:
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

    def test_info_says_what_was_loaded(self, engine, place, path):
        info = engine.info
        assert (info.path, info.backend, info.precision) == (str(path), place.backend, "fp32")
        assert info.device == place.device
        assert info.versions
        assert info.limits.items() >= {"audio_len": 599, "vision_len": 400}.items()
        assert (info.threads >= 1) == (place.suffix == ".onnx")

    def test_threads_are_those_that_were_asked_for(self, place, path, open_here):
        with open_here(path, threads=1) as engine:
            assert engine.info.threads == (1 if place.suffix == ".onnx" else 0)

    def test_a_closed_engine_says_so(self, path, open_here):
        engine = open_here(path)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match=f"cannot run {path}: the engine is closed. Open it again"):
            engine.run(draw_inputs(SPEC, SIZES))

    def test_two_engines_of_one_file_do_not_disturb_each_other(self, path, engine, open_here):
        arrays = draw_inputs(SPEC, SIZES)
        with open_here(path) as other:
            there = other.run(arrays)["intensities"]
        np.testing.assert_array_equal(engine.run(arrays)["intensities"], there)

    @pytest.mark.parametrize("content", [b"", b"no graph at all" * 20])
    def test_files_that_are_no_graph_are_refused_with_the_reason(self, place, tmp_path, content, open_here):
        path = place.write_bytes(tmp_path, "bad", content, SPEC)
        with pytest.raises(EngineError, match=f"cannot (load|use) {path}"):
            open_here(path)

    def test_a_cut_graph_is_refused(self, path, tmp_path, open_here):
        cut = tmp_path / path.name
        cut.write_bytes(path.read_bytes()[:-40])
        if (sidecar := path.with_name(f"{path.name}.json")).exists():
            (tmp_path / sidecar.name).write_bytes(sidecar.read_bytes())
        with pytest.raises(TaemiError, match=r"refused it|its SHA-256 is"):
            open_here(cut)

    def test_a_file_that_is_not_there_is_refused(self, place, tmp_path, open_here):
        with pytest.raises(TaemiError, match=rf"none\{place.suffix}"):
            open_here(tmp_path / f"none{place.suffix}")

    def test_another_graph_is_refused_with_both_sides(self, path, open_here):
        with pytest.raises(EngineError) as caught:
            open_here(path, vision_spec())
        message = str(caught.value)
        assert "there is no input pixels" in message
        assert "input audio is unknown" in message
        assert "there is no output vision" in message

    def test_an_axis_that_became_fixed_is_refused(self, place, tmp_path, open_here):
        fixed = place.write(tmp_path, "fixed", fusion_model(fixed=True), SPEC)
        with pytest.raises(
            EngineError, match=r"input audio is float32 \[('batch'|-1), 599, 3\], expected float32"
        ):
            open_here(fixed)

    def test_half_precision_inputs_are_converted(self, place, tmp_path):
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
        path = place.write(tmp_path, "g.fp16", made, spec)
        x = np.array([[0.1, 1000.0]], dtype=np.float32)
        with open_engine(path, spec, place.opened_with(), backend=place.backend, precision="fp16") as engine:
            y = engine.run({"x": x})["y"]
            assert engine.info.precision == "fp16"
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, (x.astype(np.float16) * 2).astype(np.float32))

    def test_half_precision_inputs_may_come_as_they_are_and_must_fit(self, place, tmp_path):
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
        path = place.write(tmp_path, "g.fp16", made, spec)
        x = np.array([[[0.1], [3e38]]], dtype=np.float32)
        mask = np.array([[True, False]])
        options = place.opened_with()
        with open_engine(path, spec, options, backend=place.backend, precision="fp16") as engine:
            assert engine.info.inputs == {"x": "float16"}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
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

    def test_the_other_device_is_refused(self, place, path, open_here):
        device = "cuda" if place.device == "cpu" else "cpu"
        with pytest.raises(DeviceError, match=f"cannot run {path} on {device}"):
            open_here(path, device=device)

    def test_eight_threads_get_what_one_gets_and_nothing_grows(self, engine, place):
        calls = [draw_inputs(SPEC, SIZES | {"batch": 1 + seed % 3}, seed=seed) for seed in range(8)]
        alone = [engine.run(arrays)["intensities"] for arrays in calls]
        wrong = run_threads(engine, calls, alone, rounds=10)
        held = resident_bytes()
        wrong += run_threads(engine, calls, alone, rounds=20)
        assert not wrong
        assert resident_bytes() - held < 8 << 20
        if place.gpu is not None:
            # Four lanes of seven tensors and scratch memory, whatever the number of threads.
            assert len(place.gpu.memory) <= 4 * 8

    def test_probe_and_registration(self, place):
        kind = backend(place.backend)
        assert kind.name == place.backend
        assert kind.probe().detail
        assert kind.extra in ("cpu", "gpu", "tensorrt")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run_threads(engine, calls, expected, rounds):
    """Run every call in a thread of its own, all at once; return what went wrong."""
    wrong = []
    together = threading.Barrier(len(calls))

    def work(arrays, right):
        together.wait()
        try:
            for _ in range(rounds):
                np.testing.assert_array_equal(engine.run(arrays)["intensities"], right)
        except (AssertionError, TaemiError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(calls, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def draw_wrong_length():
    arrays = draw_inputs(SPEC, {**SIZES, "audio_len": 599}, poison=False)
    arrays["audio"] = np.pad(arrays["audio"], ((0, 0), (0, 1), (0, 0)))
    arrays["audio_mask"] = np.pad(arrays["audio_mask"], ((0, 0), (0, 1)))
    return arrays
