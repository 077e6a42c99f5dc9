from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from taemi_bench.gpu_steps import device_layers, pycuda_build, tensorrt_run
from taemi_bench.gpu_steps.contract import BUNDLE_NAME, SCORES_NAME, Context, NotRunError, Recorder
from taemi_bench.gpu_steps.device_layers import SCALE, compare_with_numpy
from taemi_bench.gpu_steps.kernel import compile_with_nvcc, compile_with_nvrtc, operands
from taemi_bench.gpu_steps.measure import measure
from taemi_bench.gpu_steps.tensorrt_plan import build_plan, check_tensorrt_rtx, profile_shapes
from taemi_bench.gpu_steps.tensorrt_run import run_plan
from taemi_bench.gpu_steps.torch_cuda import FP16, FP32, graph_rows, half_caller, largest_sizes
from taemi_bench.schedule import Schedule
from taemi_runtime.cuda.registry import layer_names
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.host import cuda_driver
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol
from tests.benchmarks.toys import FRAMES, export_graph, frames_onnx, make_bundle, toy_source, weight
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_machine import install_gpu, install_tensorrt
from tests.runtime.fake_tensorrt import FakeTensorRT, fake_plan

QUICK = Schedule(rounds=6, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0, block_calls=1)
ELF = b"\x7fELF"


@pytest.fixture
def context(tmp_path):
    return Context(tmp_path, Recorder(tmp_path / "result.json", "step"))


def facts(context: Context) -> dict:
    return json.loads(context.recorder.path.read_text())["facts"]


def test_steps_find_what_earlier_ones_left(context, tmp_path):
    with pytest.raises(NotRunError, match="export-scores"):
        context.bundle()
    with pytest.raises(NotRunError, match="checkpoint"):
        _ = context.checkpoint
    (tmp_path / SCORES_NAME).mkdir()
    assert context.bundle(whole=True).name == SCORES_NAME
    (tmp_path / BUNDLE_NAME).mkdir()
    assert context.bundle().name == SCORES_NAME
    assert context.bundle(whole=True).name == BUNDLE_NAME


def test_profiles_follow_the_symbols():
    spec = GraphSpec(
        "front",
        (
            Symbol("batch", typical=3),
            Symbol("samples", minimum=20, typical=150, maximum=600),
            Symbol("hops", typical=29, maximum=119, source="samples", convs=((10, 5),)),
        ),
        (
            InputSpec("signal", "float32", ("batch", "samples")),
            InputSpec("signal_mask", "bool", ("batch", "hops"), role="mask", masks="signal"),
        ),
        (OutputSpec("out", "float32", ("batch", "hops")),),
        {},
    )
    assert profile_shapes(spec) == {
        "signal": ((1, 20), (3, 150), (6, 600)),
        "signal_mask": ((1, 3), (3, 29), (6, 119)),
    }


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_kernel_compiles_with_nvcc_without_a_device():
    cubin, compiler = compile_with_nvcc("sm_80")
    assert cubin.startswith(ELF)
    assert b"scaled_add" in cubin
    assert compiler == "nvcc"
    with pytest.raises(EngineError, match="sm_1"):
        compile_with_nvcc("sm_1")


def test_the_kernel_compiles_with_nvrtc_or_says_why_not():
    said = ""
    try:
        cubin, compiler = compile_with_nvrtc("sm_80")
    except NotRunError as error:
        said = str(error)
    if said:
        assert "pip install" in said
        assert "\n" not in said
    else:
        assert cubin.startswith(ELF)
        assert compiler.startswith("NVRTC")


def test_a_kernel_result_is_judged_against_numpy():
    x, y = operands(1000)
    right = y + np.float32(2 * SCALE) * x
    compare_with_numpy(x, y, right, 2)
    for wrong in (right + 1e-3, np.full_like(right, np.nan)):
        with pytest.raises(ParityError):
            compare_with_numpy(x, y, wrong, 2)


def test_pytorch_rows_carry_latency_ratio_and_parity():
    found = graph_rows(toy_source().graphs[0], {"batch": 2}, "cpu", compiled=False, schedule=QUICK)
    assert [row["name"] for row in found["rows"]] == [FP32, FP16]
    assert found["rows"][0]["latency_ms"]["count"] == 6
    assert found["rows"][1]["times_faster"]["than"] == FP32
    assert found["parity"][FP32]["max_abs"] == 0.0
    assert 0 < found["parity"][FP16]["max_abs"] < 0.05
    assert (found["wrong"], found["fp16_note"], found["sizes"]) == ({}, "", {"batch": 2, "steps": 12})


def test_a_module_that_computes_something_else_is_beyond_the_gate():
    graph = toy_source().graphs[0]
    with torch.no_grad():
        graph.module.weight[0, 0] += 0.1
    other = toy_source().graphs[0]
    broken = export_graph(FRAMES, graph.module)
    found = graph_rows(
        type(graph)(FRAMES, broken.module, other.reference, {}), {}, "cpu", compiled=False, schedule=QUICK
    )
    assert "output y differs" in found["wrong"][FP32]


def test_modules_that_do_not_take_half_weights_run_under_autocast():
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(weight()))

        def forward(self, x, x_mask):
            # A float32 constant inside meets half-precision weights.
            return (x.float() @ self.weight) * x_mask[:, :, None].float()

    spec = FRAMES
    inputs = draw_inputs(spec, ragged=False, poison=False)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    call, _, note = half_caller(Mixed().eval(), spec, tensors, "cpu")
    assert note.startswith("autocast")
    assert call()["y"].shape == (1, 12, 3)


def test_the_score_graph_is_measured_at_its_bounds():
    assert largest_sizes(FRAMES) == {"steps": 40}


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU under device layers and TensorRT."""
    made = FakeGpu()
    install_gpu(monkeypatch, made)
    install_tensorrt(monkeypatch, FakeTensorRT(made))
    monkeypatch.setattr(tensorrt_run, "compute_capability", lambda index=0: made.capability)
    yield made
    assert made.is_clean


def plan_of(values):
    """A plan of the toy graph with these weights."""
    return fake_plan(frames_onnx(values), [profile_shapes(FRAMES)])


def test_a_plan_is_run_compared_timed_and_captured(context, gpu, tmp_path):
    onnx = make_bundle(tmp_path / "toy.taemi").file("frames.onnx")
    run_plan(context, FakeTensorRT(gpu), plan_of(weight()), FRAMES, onnx, QUICK)
    found = facts(context)
    assert found["parity"]["passed"] is True
    assert [row["name"] for row in found["rows"]] == ["enqueue", "CUDA graph"]
    assert all(row["latency_ms"]["count"] > 0 and not row["why"] for row in found["rows"])
    assert found["calls"]["enqueue"]["replayed"] == 0
    assert found["calls"]["CUDA graph"]["replayed"] > 0
    assert found["warm_up_ms"]["cold_ms"] > 0


def test_a_plan_with_other_weights_is_beyond_the_gate(context, gpu, tmp_path):
    onnx = make_bundle(tmp_path / "toy.taemi").file("frames.onnx")
    values = weight()
    values[1, 1] += 0.05
    with pytest.raises(ParityError, match="differs"):
        run_plan(context, FakeTensorRT(gpu), plan_of(values), FRAMES, onnx)


def test_a_plan_that_the_library_refuses_fails_with_its_words(context, gpu, tmp_path):
    onnx = make_bundle(tmp_path / "toy.taemi").file("frames.onnx")
    with pytest.raises(EngineError, match="magicTag"):
        run_plan(context, FakeTensorRT(gpu), b"no plan", FRAMES, onnx)


@pytest.fixture
def compiled(monkeypatch):
    """A compiler for the simulated GPU."""
    monkeypatch.setattr(device_layers, "compile_kernel", lambda capability: (ELF, "a pretend compiler"))
    monkeypatch.setattr(device_layers, "measure", lambda calls, base="": measure(calls, base, QUICK))


@pytest.mark.parametrize("name", layer_names())
def test_a_device_layer_is_checked_and_timed(context, gpu, compiled, name):
    device_layers.check_layer(context, name)
    found = facts(context)
    assert found["device"] == "Simulated GPU"
    assert found["compute_capability"] == "8.0"
    assert found["kernel"] == "correct in the primary context, compiled by a pretend compiler"
    names = [row["name"] for row in found["launches"]]
    assert names == ["kernel launch"] + ["graph launch"] * (name == "cuda-python")
    assert all(row["latency_ms"]["count"] > 0 for row in found["launches"])


def test_both_layers_are_compared_in_one_run(context, gpu, compiled):
    device_layers.compare_layers(context, layer_names())
    rows = {row["name"]: row for row in facts(context)["layers"]}
    assert list(rows) == [
        "cuda-python: copy up 4 MiB",
        "cuda-python: kernel launch",
        "pycuda: copy up 4 MiB",
        "pycuda: kernel launch",
    ]
    assert rows["pycuda: kernel launch"]["times_faster"]["than"] == "cuda-python: kernel launch"


@pytest.mark.parametrize("name", ["upload", "scaled_add"])
def test_a_layer_that_computes_something_else_fails(context, gpu, compiled, monkeypatch, name):
    real = getattr(FakeGpu, name)

    def wrong(self, handle, *rest):
        *most, count = rest
        real(self, handle, *most, count // 2)

    monkeypatch.setattr(FakeGpu, name, wrong)
    with pytest.raises(ParityError, match=r"changed the data|is wrong"):
        device_layers.check_layer(context, "cuda-python")


def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.tensorrt
def test_a_plan_is_built_ahead_of_time_without_a_gpu(tmp_path):
    path = tmp_path / "frames.onnx"
    path.write_bytes(frames_onnx(weight()))
    plan = build_plan(rtx(), path, FRAMES, target="SM80")
    assert len(plan) > 1000


@pytest.mark.tensorrt
def test_a_graph_that_cannot_be_built_fails_with_the_librarys_reason(tmp_path):
    trt = rtx()
    spec = GraphSpec(
        "odd",
        (Symbol("batch"),),
        (InputSpec("x", "float32", ("batch", 4)),),
        (OutputSpec("y", "int64", (2, "batch")),),
        {},
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])],
        "odd",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.INT64, [2, "found"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="NonZero"):
        build_plan(trt, path, spec, target="SM80")


@pytest.mark.tensorrt
def test_without_a_gpu_the_plan_is_recorded_as_never_executed(tmp_path):
    rtx()
    if not cuda_driver().why:
        pytest.skip("this machine has a GPU")
    bundle = make_bundle(tmp_path / "toy.taemi")
    context = Context(tmp_path, Recorder(tmp_path / "result.json", "step"), given_bundle=bundle.folder)
    check_tensorrt_rtx(context)
    found = facts(context)
    assert found["summary"].startswith("built for SM80, never executed")
    assert found["plan_bytes"] > 1000
    assert "parity" not in found


def test_the_toolkit_is_found_behind_a_wrapper(tmp_path, monkeypatch):
    root = tmp_path / "cuda-99"
    (root / "include").mkdir(parents=True)
    (root / "include" / "cuda.h").touch()
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\necho '#$ _HERE_={root}/bin' >&2\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert pycuda_build.toolkit_root() == root


def test_the_file_of_a_loaded_library_is_found():
    found = pycuda_build.loaded_library("libc.so.6")
    assert found is None or found.name.startswith("libc")
    assert pycuda_build.loaded_library("libnothing.so.1") is None


def test_pycuda_is_not_built_unless_it_was_asked_for(context, monkeypatch):
    from taemi_bench.gpu_steps import pycuda_context

    if importlib.util.find_spec("pycuda") is not None:
        pytest.skip("pycuda is installed")
    monkeypatch.setattr(pycuda_context, "require_cuda", lambda: None)
    with pytest.raises(NotRunError, match="--build-pycuda"):
        pycuda_context.check_pycuda(context)
