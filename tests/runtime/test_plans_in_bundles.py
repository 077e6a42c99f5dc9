"""``taemi-infer clip.mp4 --engine fp16.plan``: with a GPU, without one, and with the wrong one."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, DeviceError, EngineError
from taemi_runtime.host import cuda_driver
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import Parity, read_manifest
from taemi_runtime.pipeline import ClipScorer
from tests.runtime.plan_bundles import GRAPHS, add_plan, add_plans, plan_name
from tests.runtime.tiny_bundle import save_manifest

SAID = "I won the race today"
NO_GPU = pytest.mark.skipif(not cuda_driver().why, reason="this machine has a GPU")


@pytest.fixture
def planned(make_bundle):
    """A bundle with a plan of every graph."""
    return add_plans(make_bundle())


def scores(out):
    return list(json.loads(out)["intensities"].values())


def test_the_command_as_typed_scores_the_clip(infer, planned, clips, place, monkeypatch):
    monkeypatch.chdir(planned.folder)
    command = [clips.both, "--engine", "fp16.plan", "--transcript", SAID, "--format", "json", "--raw"]
    code, out, err = infer(*command)
    assert code == 0
    np.testing.assert_allclose(scores(out), planned.expected(clips.both, SAID), atol=1e-5)
    assert json.loads(out)["engine"] == {"path": "fp16.plan", "backend": "tensorrt", "precision": "fp16"}
    assert err == "engine: fp16.plan (tensorrt, fp16, cuda:0)\n"


@pytest.mark.parametrize("layer", ["cuda-python", "pycuda"])
def test_a_folder_runs_its_plans_and_every_graph_is_one(infer, planned, clips, place, layer, monkeypatch):
    opened = []
    monkeypatch.setattr(place.trt, "deserialise", _noting(opened, place.trt.deserialise))
    command = [clips.both, "--engine", planned.folder, "--transcript", SAID, "--format", "json", "--raw"]
    code, out, err = infer(*command, "--cuda-backend", layer)
    assert code == 0
    np.testing.assert_allclose(scores(out), planned.expected(clips.both, SAID), atol=1e-5)
    assert len(opened) == len(GRAPHS)
    assert f"engine: {planned.folder / 'fp16.plan'} (tensorrt, fp16, cuda:0)" in err


def _noting(opened, deserialise):
    def noting(plan, logger):
        opened.append(len(plan))
        return deserialise(plan, logger)

    return noting


@NO_GPU
def test_without_a_gpu_the_engine_that_runs_here_is_named(infer, planned, clips):
    path = planned.folder / "fp16.plan"
    code, out, err = infer(clips.both, "--engine", path)
    assert (code, out) == (1, "")
    assert err == (
        f"error: cannot run {path}: it is a plan of TensorRT 11.1.0.106 for compute capability 8.0 (built, "
        f"never executed), and {cuda_driver().why}. The same graph runs here with --engine "
        f"{planned.folder / 'fusion.onnx'}\n"
    )
    # What was named does run.
    assert infer(clips.both, "--engine", planned.folder / "fusion.onnx", "--quiet")[0] == 0


@NO_GPU
def test_an_explicit_device_is_told_how_to_leave_it(infer, planned, clips):
    path = planned.folder / "fp16.plan"
    code, _, err = infer(clips.both, "--engine", path, "--device", "cuda")
    assert code == 1
    way = f"The same graph runs here with --device cpu --engine {planned.folder / 'fusion.onnx'}"
    assert err.endswith(f"{cuda_driver().why}. {way}\n")
    code, _, err = infer(clips.both, "--engine", path, "--device", "cpu")
    assert code == 1
    assert err == (
        f"error: cannot run {path} on cpu: it is a plan of TensorRT 11.1.0.106 for compute capability 8.0 "
        "(built, never executed), and plans run on CUDA devices only. The same graph runs here with --engine "
        f"{planned.folder / 'fusion.onnx'}\n"
    )


@NO_GPU
def test_a_folder_with_plans_runs_its_graphs_on_a_cpu(infer, planned, clips):
    code, out, err = infer(
        clips.both, "--engine", planned.folder, "--format", "json", "--raw", "--asr", "none"
    )
    assert code == 0
    np.testing.assert_allclose(scores(out), planned.expected(clips.both), atol=1e-5)
    assert "fusion.onnx (onnxruntime-cpu, fp32, cpu" in err
    assert "fp16.plan" not in err


@NO_GPU
@pytest.mark.parametrize("name", ["fp16.plan", "fusion.engine", "x.trt"])
def test_a_plan_of_which_nothing_is_known_names_the_graph_that_runs(make_bundle, name):
    made = make_bundle()
    path = made.folder / name
    path.write_bytes(b"plan")
    with pytest.raises(DeviceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"cannot run {path}: it is a TensorRT plan, and {cuda_driver().why}. "
        f"The same graph runs here with --engine {made.folder / 'fusion.onnx'}"
    )


@NO_GPU
def test_a_plan_of_an_encoder_names_that_encoders_graph(planned):
    with pytest.raises(DeviceError, match=re.escape(str(planned.folder / "audio.onnx"))):
        open_model(planned.folder / "audio.fp16.plan")


def test_a_plan_elsewhere_needs_its_bundle_and_says_so(infer, planned, clips, tmp_path, place):
    path = tmp_path / "mine.plan"
    shutil.copy(planned.folder / "fp16.plan", path)
    code, out, err = infer(clips.both, "--engine", path)
    assert (code, out) == (1, "")
    assert err == (
        f"error: cannot run {path}: it stands in no bundle: there is no preprocessing and no other graph "
        "beside it. Name the bundle that it belongs to: --bundle NAME.taemi. Alone it takes feature files "
        "only\n"
    )
    command = [clips.both, "--engine", path, "--bundle", planned.folder, "--format", "json", "--raw"]
    code, out, err = infer(*command, "--asr", "none")
    assert code == 0
    np.testing.assert_allclose(scores(out), planned.expected(clips.both), atol=1e-5)
    assert err == f"engine: {path} (tensorrt, fp16, cuda:0)\n"


def test_a_plan_for_another_gpu_is_refused_and_the_one_that_fits_is_chosen(make_bundle, place):
    made = make_bundle()
    name = add_plan(made, "fusion", target=".sm90", compute_capability="9.0")
    with pytest.raises(EngineError) as caught:
        open_model(made.folder / name)
    assert str(caught.value) == (
        f"cannot run {made.folder / name}: it was built for compute capability 9.0, and this GPU has 8.0. "
        f"Build it on this machine: taemi-export tensorrt {made.folder} --precision fp16. "
        f"The same graph runs here with --engine {made.folder / 'fusion.onnx'}"
    )
    fitting = add_plan(made, "fusion", precision="fp32")
    with pytest.raises(EngineError, match=rf"runs here with --engine {made.folder / fitting}$"):
        open_model(made.folder / name)
    with open_model(made.folder) as model:
        assert model.engine("fusion").info.path == str(made.folder / fitting)


def test_half_precision_plans_come_first_and_those_beyond_their_gate_last(planned, place):
    add_plan(planned, "fusion", precision="fp32")
    with open_model(planned.folder) as model:
        assert model.engine("fusion").info.precision == "fp16"
    parity = Parity("intensities", 1.0, 0.5, 0.9, 8, "tensorrt", passed=False)
    save_manifest(planned.folder, parity={"fp16.plan": parity})
    with open_model(planned.folder) as model:
        assert model.engine("fusion").info.path.endswith("/fp32.plan")


def test_encoders_come_in_the_best_form_that_runs_here(make_bundle, clips, place):
    made = make_bundle()
    path = made.folder / add_plan(made, "fusion")
    add_plan(made, "audio")
    add_plan(made, "vision", compute_capability="9.0")
    with ClipScorer(open_model(path)) as scorer:
        found = scorer.predict(clips.both, SAID)
        forms = {graph: scorer.model.engine(graph).info.backend for graph in GRAPHS}
    np.testing.assert_allclose(
        list(found.intensities.values()), made.expected(clips.both, SAID).clip(0, 1), atol=1e-5
    )
    assert forms == {
        "fusion": "tensorrt",
        "audio": "tensorrt",
        "vision": "onnxruntime-cpu",
        "text": "onnxruntime-cpu",
    }


def test_a_plan_that_the_library_does_not_take_gives_way_with_a_warning(planned, place, caplog):
    place.trt.refuse = "capability"
    with caplog.at_level(logging.WARNING), open_model(planned.folder) as model:
        assert model.engine("fusion").info.backend == "onnxruntime-cpu"
    assert f"{planned.folder / 'fp16.plan'} gives way to fusion.onnx: cannot load" in caplog.text
    # Named by its own name, it does not.
    with open_model(planned.folder / "fp16.plan") as model, pytest.raises(EngineError, match="another kind"):
        model.engine("fusion")


@pytest.mark.parametrize("name", ["fp16.plan", "fp16.plan.json"])
def test_one_changed_byte_is_refused_before_anything_is_deserialised(planned, place, monkeypatch, name):
    monkeypatch.setattr(place.trt, "deserialise", lambda *_: pytest.fail("the plan was deserialised"))
    path = planned.folder / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    for engine in (planned.folder, planned.folder / "fp16.plan"):
        with pytest.raises(BundleError, match=rf"cannot use {path}: its SHA-256 is \w+, the manifest says"):
            open_model(engine).engine("fusion")


@NO_GPU
@pytest.mark.parametrize("name", ["fp16.plan", "fp16.plan.json"])
def test_one_changed_byte_is_told_without_a_gpu_too(infer, planned, clips, name):
    path = planned.folder / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    code, _, err = infer(clips.both, "--engine", planned.folder / "fp16.plan")
    assert code == 1
    assert re.match(rf"error: cannot use {path}: its SHA-256 is \w+, the manifest says \w+\. ", err)


def test_a_graph_that_nothing_here_runs_says_why_of_every_file(planned):
    manifest = read_manifest(planned.folder)
    files = {name: entry for name, entry in manifest.files.items() if name != "fusion.onnx"}
    files["fusion.tflite"] = replace(files["fp16.plan"])
    save_manifest(planned.folder, files=files)
    with (
        open_model(planned.folder, options=EngineOptions(device="cpu")) as model,
        pytest.raises(BundleError) as caught,
    ):
        model.engine("fusion")
    assert caught.value.found == (
        "none of its engine files runs here (fp16.plan: it runs on CUDA devices only; "
        "fusion.tflite: no backend takes it)"
    )


@pytest.mark.parametrize("simulated", [True, False], ids=["tensorrt", "onnxruntime-cpu"])
def test_eight_threads_on_one_model_get_what_one_gets(request, planned, clips, simulated):
    if simulated:
        request.getfixturevalue("place")
    options = EngineOptions(device="auto" if simulated else "cpu", threads=1)
    jobs = [(clips.both, SAID), (clips.sound, None), (clips.silent, SAID), (clips.both, "the race")] * 2
    with ClipScorer(open_model(planned.folder, options=options)) as scorer:
        alone = [scorer.predict(*job).intensities for job in jobs]
    wrong = []
    # A model that no thread has used yet: engines are opened once, by whoever comes first.
    with ClipScorer(open_model(planned.folder, options=options)) as scorer:

        def work(job, expected):
            for _ in range(3):
                found = scorer.predict(*job).intensities
                if not np.allclose(list(found.values()), list(expected.values()), atol=1e-6):
                    wrong.append((job, found, expected))

        threads = [threading.Thread(target=work, args=pair) for pair in zip(jobs, alone, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_an_unknown_device_layer_is_a_usage_error(infer, planned, clips):
    code, _, err = infer(clips.both, "--engine", planned.folder, "--cuda-backend", "cupy")
    assert code == 2
    assert "'cuda-python', 'pycuda'" in err


def test_plans_are_named_as_the_bundle_format_says():
    assert [plan_name(graph) for graph in GRAPHS][:2] == ["fp16.plan", "audio.fp16.plan"]
