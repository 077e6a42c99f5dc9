"""What users read when a plan does not run: refused before it is read, or explained afterwards."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from taemi_runtime.backends import open_engine
from taemi_runtime.backends.tensorrt import TensorRT
from taemi_runtime.backends.tensorrt_library import ErrorLog, import_library, logger_of
from taemi_runtime.backends.tensorrt_messages import SYMPTOMS, explain
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, DeviceError, EngineError, MissingExtraError
from taemi_runtime.host import cuda_driver
from tests.runtime.engine_places import widest
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_machine import install_gpu, install_tensorrt
from tests.runtime.fake_tensorrt import RAW, FakeTensorRT, write_plan
from tests.runtime.tiny_bundle import fusion_model, fusion_spec

SPEC = fusion_spec()
DOCUMENT = Path(__file__).parents[2] / "docs" / "runtime-gpu.md"

# Raw lines as users post them, and as the libraries that are installed here wrote them.
SAID = {
    "driver": [
        "CUDA initialization failure with error: 35. Please check your CUDA installation",
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
        "resources.cpp:25 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))",
    ],
    "no plan": [
        "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
        "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to load an engine "
        "created with incompatible serialization version (1651663207 != 1953657974).",
    ],
    "other version": [
        "Error Code 1: Serialization (Serialization assertion stdVersionRead == serializationVersion failed."
        "Version tag does not match. Note: Current Version: 213, Serialized Engine Version: 205)",
        "The engine plan file is not compatible with this version of TensorRT, expecting library version "
        "8.6.1 got 8.5.3, please rebuild.",
    ],
    "other GPU": [
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 8.0",
        "Using an engine plan file across different models of devices is not recommended: no kernel image is "
        "available for execution on the device",
    ],
    "host code": ["Plugin library not deserialized because engine_host_code_allowed is false: host code"],
    "plug-in": [
        "getPluginCreator could not find plugin: InstanceNormalization_TRT version: 1",
        "NonZero plugin creator version 1 was not found",
    ],
    "memory": ["Requested amount of GPU memory (1 bytes) could not be allocated", "CUDA_ERROR_OUT_OF_MEMORY"],
    "shape": [
        "Runtime dimension does not satisfy any optimization profile.",
        "Parameter check failed, condition: engineDims.d[i] == dims.d[i]. kMIN dimensions in profile 0 are 1",
        "Network has dynamic or shape inputs, but no optimization profile has been defined.",
        "input: dynamic input is missing dimensions in profile 0.",
    ],
    "illegal address": ["an illegal memory access was encountered", "cudaError 716 : misaligned address"],
    "context": [
        "PyCUDA ERROR: The context stack was not empty upon module cleanup.",
        "cuMemFree failed: invalid device context",
        "cannot activate out-of-thread context",
    ],
    "TensorRT provider of ONNX Runtime": [
        "libonnxruntime_providers_tensorrt.so: libnvinfer.so.10: cannot open shared object file"
    ],
    "CUDA libraries": [
        "libcublasLt.so.13: cannot open shared object file: No such file or directory",
        "Error loading libonnxruntime_providers_cuda.so: libcudnn.so.9: cannot open shared object file",
    ],
    "installation": ["nvidia-stub: wheel_stub.error.InstallFailedError: The installation of tensorrt failed"],
}


def plan(folder, name="fp16.plan", **changes):
    path = folder / name
    write_plan(path, SPEC, fusion_model().SerializeToString(), {"one": widest(SPEC)}, **changes)
    return path


@pytest.mark.parametrize(("key", "line"), [(key, line) for key, lines in SAID.items() for line in lines])
def test_raw_lines_are_explained(key, line):
    facts = {name: name.upper() for name in ("library", "built", "here", "rebuild", "free", "shapes")}
    found, fix = explain(["something before", line], facts)
    row = next(row for row in SYMPTOMS if row.key == key)
    assert found == f"{row.found.format(**facts)} ({line})"
    assert fix == row.fix.format(**facts)
    assert "{" not in found.replace(line, "") + fix


def test_every_row_of_the_table_is_tried_and_documented():
    assert [row.key for row in SYMPTOMS] == list(SAID)
    text = DOCUMENT.read_text()
    for row in SYMPTOMS:
        assert f"| {row.key} |" in text
    assert len({row.key for row in SYMPTOMS}) == len(SYMPTOMS)


def test_words_that_are_unknown_are_passed_on():
    assert explain(["first", "a new\nproblem"]) == ("a new problem", "")
    assert explain([]) == ("the library gave no reason", "")


def test_only_errors_since_the_last_look_count():
    errors = ErrorLog()
    for index in range(30):
        errors.add(str(index))
    assert errors.take() == [str(index) for index in range(10, 30)]
    assert errors.take() == []


@pytest.mark.parametrize(
    ("refuse", "found"),
    [
        ("magic", "it does not begin as a plan of TensorRT does"),
        ("version", "the plan was built by another version of the library"),
        ("capability", "the plan was compiled for another kind of GPU"),
        ("driver", "TensorRT does not get the GPU from the driver"),
        ("plugin", "the plan needs a TensorRT plug-in that is not here"),
        ("host code", "the plan carries code for the host"),
    ],
)
def test_what_the_library_does_not_load_is_an_error_with_its_reason(place, tmp_path, refuse, found):
    path = plan(tmp_path)
    place.trt.refuse = refuse
    with pytest.raises(EngineError) as caught:
        open_engine(path, SPEC)
    assert caught.value.asked == f"cannot load {path}"
    assert caught.value.found.startswith(found)
    assert RAW[refuse].split(":")[0] in caught.value.found
    assert caught.value.fix
    assert place.gpu.is_clean


def test_a_context_that_is_not_made_is_an_error_with_its_reason(place, tmp_path):
    path = plan(tmp_path)
    place.trt.refuse = "context"
    with pytest.raises(EngineError, match=rf"cannot make an execution context for {path}: .* free memory"):
        open_engine(path, SPEC)
    assert place.gpu.is_clean


@pytest.fixture
def unread(place, monkeypatch):
    """Fails when the library gets to see the plan."""
    monkeypatch.setattr(place.trt, "deserialise", lambda *_: pytest.fail("the plan was deserialised"))
    return place


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"library_version": "10.16.1.11"},
            "it was built by TensorRT 10.16.1.11, and this is TensorRT 11.1.0.106",
        ),
        (
            {"compute_capability": "9.0"},
            "it was built for compute capability 9.0, and this GPU has 8.0",
        ),
    ],
)
def test_a_plan_of_another_host_is_refused_unread(unread, tmp_path, changes, found):
    path = plan(tmp_path, **changes)
    with pytest.raises(EngineError) as caught:
        open_engine(path, SPEC)
    assert str(caught.value) == (
        f"cannot run {path}: {found}. Build it on this machine: "
        f"taemi-export tensorrt {tmp_path} --precision fp16"
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda facts: facts["inputs"].update(audio="int64"),
            "input audio is int64, expected float32",
        ),
        (lambda facts: facts["inputs"].pop("text"), "there is no input text"),
        (lambda facts: facts["outputs"].update(more="float32"), "output more is unknown"),
        (
            lambda facts: facts["profiles"][0]["inputs"]["text"].update(
                minimum=[1, 7], optimum=[1, 7], maximum=[1, 7]
            ),
            "input text has the range 1x7:1x7:1x7 in profile one, expected one for ['batch', 2]",
        ),
        (
            lambda facts: facts["profiles"][0]["inputs"].pop("present"),
            "input present has the range None in profile one, expected one for ['batch', 3]",
        ),
    ],
)
def test_a_sidecar_of_another_graph_is_refused_unread(unread, tmp_path, change, found):
    path = plan(tmp_path)
    sidecar = path.with_name("fp16.plan.json")
    facts = json.loads(sidecar.read_text())
    change(facts)
    sidecar.write_text(json.dumps(facts))
    with pytest.raises(EngineError) as caught:
        open_engine(path, SPEC)
    assert caught.value.found == f"it is not the graph that the manifest describes: {found}"
    assert unread.gpu.is_clean


def test_a_plan_of_one_library_is_never_offered_to_the_other(unread, tmp_path):
    path = plan(tmp_path, library="tensorrt_rtx")
    with pytest.raises(MissingExtraError) as caught:
        open_engine(path, SPEC)
    assert caught.value.found == (
        "it is a plan of TensorRT for RTX 11.1.0.106 for compute capability 8.0 (built, never executed): "
        "the package tensorrt_rtx is not installed"
    )


def test_both_libraries_are_driven_by_one_code(monkeypatch, tmp_path):
    gpu = FakeGpu()
    install_gpu(monkeypatch, gpu)
    install_tensorrt(monkeypatch, FakeTensorRT(gpu), FakeTensorRT(gpu, "tensorrt_rtx"))
    for library in ("tensorrt", "tensorrt_rtx"):
        path = plan(tmp_path, f"{library}.plan", library=library)
        with open_engine(path, SPEC) as engine:
            assert next(iter(engine.info.versions)) == library


def test_a_plan_without_its_sidecar_or_with_other_bytes_is_refused_unread(unread, tmp_path):
    path = plan(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"its SHA-256 is \w+, its sidecar says \w+"):
        open_engine(path, SPEC)
    path.with_name("fp16.plan.json").unlink()
    with pytest.raises(BundleError, match="nothing else says what runs the plan"):
        open_engine(path, SPEC)


def test_an_older_driver_is_warned_about(place, tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING),
        open_engine(plan(tmp_path, driver="13.4"), SPEC) as engine,
    ):
        assert engine.info.backend == "tensorrt"
    assert "was built under a driver for CUDA 13.4; this one supports CUDA 13.0" in caplog.text


def test_a_device_that_is_not_there_is_refused_unread(unread, tmp_path):
    path = plan(tmp_path)
    with pytest.raises(DeviceError, match=r"there is no cuda:1, only Simulated GPU"):
        open_engine(path, SPEC, EngineOptions(device="cuda:1"))
    with pytest.raises(DeviceError, match=rf"cannot run {path} on cpu: .* plans run on CUDA devices only"):
        open_engine(path, SPEC, EngineOptions(device="cpu"), backend="tensorrt")


def test_a_device_layer_that_is_not_installed_is_named(unread, tmp_path, monkeypatch):
    from taemi_runtime.cuda import pycuda

    def missing():
        raise MissingExtraError("cannot drive a GPU", "it does not import", 'pip install "taemi[pycuda]"')

    monkeypatch.setattr(pycuda, "import_driver", missing)
    with pytest.raises(MissingExtraError, match="pycuda cannot be used: it does not import"):
        open_engine(plan(tmp_path), SPEC, EngineOptions(cuda_backend="pycuda"))


@pytest.mark.skipif(not cuda_driver().why, reason="this machine has a GPU")
def test_without_a_gpu_that_is_what_is_said(tmp_path):
    path = plan(tmp_path)
    with pytest.raises(DeviceError) as caught:
        open_engine(path, SPEC)
    assert str(caught.value) == (
        f"cannot run {path}: it is a plan of TensorRT 11.1.0.106 for compute capability 8.0 (built, "
        f"never executed), and {cuda_driver().why}"
    )
    probe = TensorRT.probe()
    assert (probe.usable, probe.detail) == (False, cuda_driver().why)


def test_the_probe_names_library_layer_and_gpu(place, monkeypatch):
    probe = TensorRT.probe()
    assert probe.usable
    assert probe.detail == (
        "tensorrt 11.1.0.106 over cuda-python, pycuda; Simulated GPU (compute capability 8.0)"
    )
    install_tensorrt(monkeypatch)
    probe = TensorRT.probe()
    assert (probe.usable, probe.detail) == (False, "the package tensorrt is not installed")
    assert probe.fix


@pytest.mark.parametrize(
    ("module", "found"),
    [(None, "is not installed"), (object(), "is installed without its libraries")],
)
def test_a_library_that_is_not_whole_names_the_index_that_it_comes_from(monkeypatch, module, found):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", module)
    import_library.cache_clear()
    with pytest.raises(MissingExtraError) as caught:
        import_library("tensorrt")
    import_library.cache_clear()
    assert found in caught.value.found
    assert "NVIDIA's package index as --extra-index-url; without network, from wheels" in caught.value.fix


def test_a_library_that_is_too_old_is_refused(monkeypatch):
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.9.0", Runtime=object))
    import_library.cache_clear()
    with pytest.raises(EngineError, match=r"tensorrt 10\.9\.0 is older than 10\.12"):
        import_library("tensorrt")
    import_library.cache_clear()


@pytest.mark.tensorrt
def test_the_installed_library_gives_its_reason_through_the_same_log():
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    trt = import_library("tensorrt_rtx")
    logger, errors = logger_of(trt)
    errors.take()
    assert trt.Runtime(logger).deserialize_cuda_engine(b"no plan" * 100) is None
    found, fix = explain(errors.take(), {"library": "TensorRT for RTX", "rebuild": "Build it again"})
    assert found.startswith(
        "TensorRT for RTX does not get the GPU" if cuda_driver().why else "it does not begin as a plan"
    )
    assert fix
