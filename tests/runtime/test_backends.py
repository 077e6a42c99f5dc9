"""The registry, the choice among backends, and what is said when none fits."""

from __future__ import annotations

import importlib
import logging

import numpy as np
import onnx
import onnxruntime
import pytest

from taemi_runtime import backends
from taemi_runtime.backends import backend, onnxruntime_cuda, open_engine, registered, takers
from taemi_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from taemi_runtime.backends.onnxruntime_session import (
    _warn_about_second_distribution,
    import_onnxruntime,
    installed_distributions,
)
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import Backend, EngineOptions, Probe
from taemi_runtime.errors import DeviceError, EngineError, MissingExtraError, UsageError
from taemi_runtime.host import CudaDriver, cuda_driver
from tests.runtime.tiny_bundle import fusion_model, fusion_spec, vision_model, vision_spec


class Flaky(Backend):
    """Looks usable and is not, as a provider whose libraries are broken."""

    name = "flaky"
    suffixes = (".onnx",)
    extra = "gpu"
    devices = ("cuda",)

    @classmethod
    def probe(cls):
        return Probe(True, "looks fine")

    @classmethod
    def open(cls, path, spec, options, **facts):
        raise EngineError(f"cannot load {path}", "its kernels are missing")


class Absent(Flaky):
    name = "absent"

    @classmethod
    def probe(cls):
        return Probe(False, "not installed", "pip install absent")

    @classmethod
    def open(cls, path, spec, options, **facts):
        raise MissingExtraError(f"cannot run {path}", "absent is not installed", "pip install absent")


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "fusion.onnx"
    onnx.save(fusion_model(), path)
    return path


@pytest.fixture
def register(monkeypatch):
    """Put backends before the real ones."""

    def put(**paths):
        monkeypatch.setattr(backends, "_BUILTIN", {**paths, **backends._BUILTIN})
        registered.cache_clear()
        backend.cache_clear()

    yield put
    monkeypatch.undo()
    registered.cache_clear()
    backend.cache_clear()


def test_builtin_backends_are_registered_best_first():
    names = list(registered())
    assert names.index("onnxruntime-cuda") < names.index("onnxruntime-cpu")
    assert all(":" in path for path in registered().values())


def test_every_builtin_backend_takes_onnx(tmp_path):
    assert takers(tmp_path / "a.onnx")[:2] == ["onnxruntime-cuda", "onnxruntime-cpu"]
    assert takers(tmp_path / "A.ONNX")[:2] == ["onnxruntime-cuda", "onnxruntime-cpu"]
    assert takers(tmp_path / "a.plan") == ["tensorrt"]
    assert takers(tmp_path / "a.tflite") == []


def test_an_unknown_backend_is_refused(graph):
    with pytest.raises(UsageError, match="cannot use backend 'tpu': registered are tensorrt, onnx"):
        open_engine(graph, fusion_spec(), backend="tpu")


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no backend takes \.tflite\. Give a file that ends in \.plan"):
        open_engine(tmp_path / "x.tflite", fusion_spec())


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "", "cuda:-1"])
def test_devices_without_meaning_are_refused(graph, device):
    with pytest.raises(UsageError, match="Give auto, cpu, cuda or cuda:N"):
        open_engine(graph, fusion_spec(), EngineOptions(device=device))


def test_auto_falls_back_and_says_so(graph, register, caplog):
    register(flaky=f"{__name__}:Flaky")
    with caplog.at_level(logging.WARNING), open_engine(graph, fusion_spec()) as engine:
        assert engine.info.backend.startswith("onnxruntime")
        assert engine.run(draw_inputs(fusion_spec()))["intensities"].shape == (1, 6)
    assert f"flaky cannot run {graph}, falling back to onnxruntime" in caplog.text
    assert "its kernels are missing" in caplog.text


def test_an_explicit_device_never_falls_back(graph, register):
    register(flaky=f"{__name__}:Flaky")
    with pytest.raises(EngineError, match="its kernels are missing"):
        open_engine(graph, fusion_spec(), EngineOptions(device="cuda"))


def test_what_is_not_usable_is_passed_over_without_a_word(graph, register, caplog):
    register(absent=f"{__name__}:Absent")
    with caplog.at_level(logging.WARNING), open_engine(graph, fusion_spec()) as engine:
        assert engine.info.backend.startswith("onnxruntime")
    assert "absent" not in caplog.text


def test_a_plug_in_that_does_not_import_harms_no_other(graph, register):
    register(broken="no_such_package.backend:Backend", misspelt="taemi_runtime.engine:Nothing")
    with open_engine(graph, fusion_spec(), EngineOptions(device="cpu")) as engine:
        assert engine.info.backend == "onnxruntime-cpu"
    with pytest.raises(MissingExtraError, match="the package 'no_such_package' is not installed"):
        backend("broken")
    with pytest.raises(EngineError, match=r"taemi_runtime\.engine:Nothing does not import"):
        backend("misspelt")


@pytest.mark.skipif(OnnxRuntimeCuda.probe().usable, reason="CUDA works here")
def test_cuda_without_cuda_is_an_error_that_says_what_to_install(graph):
    with pytest.raises((MissingExtraError, DeviceError, EngineError)) as caught:
        open_engine(graph, fusion_spec(), EngineOptions(device="cuda:0"))
    assert caught.value.asked == f"cannot run {graph} on cuda:0"
    assert caught.value.found
    assert caught.value.fix


@pytest.mark.skipif(
    "CUDAExecutionProvider" in import_onnxruntime("cpu").get_available_providers(),
    reason="this onnxruntime has the CUDA provider",
)
def test_the_cpu_build_names_the_gpu_extra(graph):
    with pytest.raises(MissingExtraError) as caught:
        open_engine(graph, fusion_spec(), EngineOptions(device="cuda"))
    assert "has no CUDAExecutionProvider, only" in caught.value.found
    assert caught.value.fix.endswith(
        'Install the CUDA build: pip uninstall -y onnxruntime, then pip install "taemi[gpu]"'
    )
    assert caught.value.fix.startswith("Use --device cpu.") == bool(cuda_driver().why)


@pytest.mark.gpu
@pytest.mark.skipif(not OnnxRuntimeCuda.probe().usable, reason=OnnxRuntimeCuda.probe().detail)
def test_auto_takes_cuda_where_it_works(graph):
    with open_engine(graph, fusion_spec()) as engine:
        assert (engine.info.backend, engine.info.device) == ("onnxruntime-cuda", "cuda:0")
    with pytest.raises(DeviceError, match=r"there are \d+ CUDA devices"):
        open_engine(graph, fusion_spec(), EngineOptions(device="cuda:99"))


def test_a_session_that_silently_got_the_cpu_is_refused(graph, monkeypatch):
    # What ONNX Runtime gives when the CUDA provider does not load: a session, and no error.
    asked = []

    def create(ort, path, threads, providers, trace):
        asked.extend(providers)
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime_cuda, "_require", lambda: import_onnxruntime("gpu"))
    monkeypatch.setattr(onnxruntime_cuda, "cuda_driver", lambda: CudaDriver("13.0", ("GPU", "GPU")))
    monkeypatch.setattr(onnxruntime_cuda, "create_session", create)
    options = EngineOptions(device="cuda:1", tf32=True)
    with pytest.raises(EngineError, match=r"gave the session \['CPUExecutionProvider'\], not CUDAExecution"):
        OnnxRuntimeCuda.open(graph, fusion_spec(), options)
    assert asked[0] == (
        "CUDAExecutionProvider",
        {
            "device_id": 1,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": 1,
        },
    )
    with pytest.raises(DeviceError, match=r"there are 2 CUDA devices\. Give cuda:0 to cuda:1"):
        OnnxRuntimeCuda.open(graph, fusion_spec(), EngineOptions(device="cuda:2"))


def test_two_distributions_of_onnxruntime_are_warned_about_once(tmp_path, monkeypatch, caplog):
    # What pip leaves in site-packages when both are installed.
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-9.9.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9.9\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert set(installed_distributions()) >= {"onnxruntime", "onnxruntime-gpu"}
    _warn_about_second_distribution.cache_clear()
    with caplog.at_level(logging.WARNING):
        import_onnxruntime("cpu")
        import_onnxruntime("cpu")
    assert len(caplog.records) == 1
    assert "2 distributions provide onnxruntime (onnxruntime 9.9.9, onnxruntime-gpu 9.9.9)" in caplog.text
    assert "CPUExecutionProvider" in caplog.text
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caplog.text
    _warn_about_second_distribution.cache_clear()


def test_the_library_is_silent_on_both_streams(graph, capfd):
    bad = graph.with_name("bad.onnx")
    bad.write_bytes(b"nothing")
    with pytest.raises(EngineError):
        open_engine(bad, fusion_spec(), EngineOptions(device="cpu"))
    with open_engine(graph, fusion_spec()) as engine:
        arrays = draw_inputs(fusion_spec())
        assert np.isfinite(engine.run(arrays)["intensities"]).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("release", "bounded"), [("1.25.9", False), ("1.26.0", True), ("1.100.0.dev1", True)]
)
def test_threads_that_wait_do_not_take_the_cores_from_others(tmp_path, monkeypatch, release, bounded):
    monkeypatch.setattr(onnxruntime, "__version__", release)
    sleeps = {"session.intra_op.allow_spinning": "0"}
    # Before 1.26 there is no bound: threads would spin for milliseconds.
    fusion = {"session.intra_op.spin_duration_us": "20"} if bounded else sleeps
    for spec, graph, expected in (
        (vision_spec(), vision_model(), sleeps),
        (fusion_spec(), fusion_model(), fusion),
    ):
        path = tmp_path / f"{spec.name}.onnx"
        onnx.save(graph, path)
        with open_engine(path, spec, EngineOptions(device="cpu", threads=2)) as engine:
            options = engine._session.get_session_options()
            for key, value in expected.items():
                assert options.get_session_config_entry(key) == value


def test_a_trace_is_written_where_it_was_asked_for_and_nowhere_else(graph, tmp_path):
    inputs = draw_inputs(fusion_spec(), {})
    for trace in ("", str(tmp_path / "trace")):
        with open_engine(graph, fusion_spec(), EngineOptions(device="cpu", trace=trace)) as engine:
            engine.run(inputs)
        assert bool(list(tmp_path.glob("trace*.json"))) == bool(trace)
