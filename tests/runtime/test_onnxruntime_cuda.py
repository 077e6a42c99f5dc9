"""ONNX Runtime's CUDA provider: options, graphs and bound arrays, as far as a CPU can show them."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from taemi_runtime.backends import onnxruntime_cuda
from taemi_runtime.backends.onnxruntime_binding import _MOST_SHAPES, BoundEngine, has_fixed_shapes
from taemi_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from taemi_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from taemi_runtime.backends.onnxruntime_session import import_onnxruntime
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import EngineError
from taemi_runtime.host import CudaDriver
from tests.runtime.fake_provider import open_bytes
from tests.runtime.tiny_bundle import fusion_model, fusion_spec, vision_model, vision_spec


@pytest.fixture
def pictures(tmp_path):
    path = tmp_path / "vision.onnx"
    onnx.save(vision_model(), path)
    return path


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "fusion.onnx"
    onnx.save(fusion_model(), path)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Sessions as a machine with the CUDA provider would be asked for, created on the CPU."""
    found = []

    class Session:
        """Says that it has the provider."""

        def __init__(self, session):
            self._session = session

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def __getattr__(self, name):
            return getattr(self._session, name)

    def create(ort, path, threads, providers):
        found.append(providers)
        return Session(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]))

    monkeypatch.setattr(onnxruntime_cuda, "_require", lambda: import_onnxruntime("gpu"))
    monkeypatch.setattr(onnxruntime_cuda, "cuda_driver", lambda: CudaDriver("13.0", ("GPU",)))
    monkeypatch.setattr(onnxruntime_cuda, "create_session", create)
    return found


def bound(path, spec, **more):
    engine = OnnxRuntimeCpu.open(path, spec, EngineOptions(device="cpu", threads=1))
    return BoundEngine(
        import_onnxruntime("cpu"),
        engine._session,
        spec,
        engine.info,
        open_session=open_bytes,
        device="cpu",
        **more,
    )


def test_every_option_has_its_reason_and_its_value(asked, scores):
    options = EngineOptions(device="cuda", tf32=True, gpu_memory_bytes=1 << 30)
    engine = OnnxRuntimeCuda.open(scores, fusion_spec(), options)
    assert asked == [
        [
            (
                "CUDAExecutionProvider",
                {
                    "device_id": 0,
                    "cudnn_conv_algo_search": "HEURISTIC",
                    "arena_extend_strategy": "kSameAsRequested",
                    "use_tf32": 1,
                    "gpu_mem_limit": 1 << 30,
                },
            ),
            "CPUExecutionProvider",
        ]
    ]
    assert (engine.info.device, engine.info.backend) == ("cuda:0", "onnxruntime-cuda")


def test_graphs_are_captured_only_where_shapes_allow(asked, scores, pictures):
    assert not has_fixed_shapes(fusion_spec())
    assert has_fixed_shapes(vision_spec())
    OnnxRuntimeCuda.open(scores, fusion_spec(), EngineOptions(device="cuda"))
    OnnxRuntimeCuda.open(pictures, vision_spec(), EngineOptions(device="cuda"))
    OnnxRuntimeCuda.open(pictures, vision_spec(), EngineOptions(device="cuda", cuda_graphs=False))
    assert ["enable_cuda_graph" in providers[0][1] for providers in asked] == [False, True, False]


def test_where_the_library_refuses_graphs_it_runs_without_and_says_so(asked, pictures, monkeypatch, caplog):
    create = onnxruntime_cuda.create_session

    def refuse(ort, path, threads, providers):
        if "enable_cuda_graph" in providers[0][1]:
            raise EngineError(f"cannot load {path}", "not all nodes are on the CUDAExecutionProvider")
        return create(ort, path, threads, providers)

    monkeypatch.setattr(onnxruntime_cuda, "create_session", refuse)
    with caplog.at_level(logging.INFO):
        OnnxRuntimeCuda.open(pictures, vision_spec(), EngineOptions(device="cuda"))
    assert f"{pictures} runs without CUDA graphs: not all nodes" in caplog.text
    assert "enable_cuda_graph" not in asked[0][0][1]


def test_bound_arrays_are_used_again_and_few_shapes_keep_them(pictures):
    spec = vision_spec()
    with bound(pictures, spec) as engine:
        for frames in (3, 4, 3, *range(1, 20), 3):
            pixels = draw_inputs(spec, {"frames": frames}, seed=frames)["pixels"]
            found = engine.run({"pixels": pixels})["vision"]
            np.testing.assert_allclose(found, pixels.mean((2, 3)) / 255, rtol=1e-5)
        assert len(engine._slots) == _MOST_SHAPES
        slot = engine._slots[((3, 3, 8, 8),), frozenset(), frozenset()]
        engine.run({"pixels": draw_inputs(spec, {"frames": 3})["pixels"]})
        assert engine._slots[((3, 3, 8, 8),), frozenset(), frozenset()] is slot


def test_graphs_are_numbered_by_shape_and_later_shapes_have_none(pictures, monkeypatch):
    ort = import_onnxruntime("cpu")
    numbers = []
    real = ort.RunOptions

    class Noting(real):
        def add_run_config_entry(self, key, value):
            assert key == "gpu_graph_id"
            numbers.append(int(value))

    monkeypatch.setattr(ort, "RunOptions", Noting)
    spec = vision_spec()
    with bound(pictures, spec, graphs=True) as engine:
        for frames in (1, 2, 1, 2, *range(3, 12)):
            engine.run(draw_inputs(spec, {"frames": frames}))
    assert numbers == [*range(_MOST_SHAPES), -1, -1, -1]


def test_a_failure_inside_the_library_has_its_reason(pictures, monkeypatch):
    spec = vision_spec()
    with bound(pictures, spec) as engine:

        class Broken:
            def __getattr__(self, name):
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

        engine._session = Broken()
        with pytest.raises(EngineError, match=rf"cannot run {pictures}: ONNX Runtime failed \(CUDA fail"):
            engine.run(draw_inputs(spec, {"frames": 2}))
