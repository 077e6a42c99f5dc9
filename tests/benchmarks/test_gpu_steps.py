from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from taemi_bench.gpu_steps import pycuda_build, tensorrt_plan
from taemi_bench.gpu_steps.contract import BUNDLE_NAME, SCORES_NAME, Context, NotRunError, Recorder
from taemi_bench.gpu_steps.cuda_python import SCALE, compare_with_numpy
from taemi_bench.gpu_steps.kernel import compile_with_nvcc, compile_with_nvrtc, operands
from taemi_bench.gpu_steps.tensorrt_plan import build_plan, check_tensorrt_rtx, profile_shapes
from taemi_bench.gpu_steps.tensorrt_run import PlanRun, run_plan
from taemi_bench.gpu_steps.torch_cuda import FP16, FP32, graph_rows, half_caller, largest_sizes
from taemi_bench.schedule import Schedule
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.host import cuda_driver
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol
from tests.benchmarks.pretend_gpu import PretendRuntime, PretendTensorRT
from tests.benchmarks.toys import FRAMES, export_graph, frames_onnx, make_bundle, toy_source, weight

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
def pretend(monkeypatch):
    """Makes ``from cuda.bindings import runtime`` give the pretend one."""
    runtime = PretendRuntime()
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.runtime = runtime
    cuda.bindings = bindings
    for name, module in (("cuda", cuda), ("cuda.bindings", bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(tensorrt_plan, "_LOGGERS", {})
    return runtime


def test_a_plan_is_run_compared_timed_and_captured(context, pretend, tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    onnx = bundle.file("frames.onnx")
    run_plan(context, PretendTensorRT(pretend), frames_onnx(weight()), FRAMES, onnx, QUICK)
    found = facts(context)
    assert found["parity"]["passed"] is True
    assert [row["name"] for row in found["rows"]] == ["enqueue", "CUDA graph"]
    assert all(row["latency_ms"]["count"] > 0 and not row["why"] for row in found["rows"])
    assert (pretend.memory, pretend.streams, pretend.graphs) == ({}, 0, 0)


def test_a_plan_with_other_weights_is_beyond_the_gate(context, pretend, tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    values = weight()
    values[1, 1] += 0.05
    with pytest.raises(ParityError, match="differs"):
        run_plan(context, PretendTensorRT(pretend), frames_onnx(values), FRAMES, bundle.file("frames.onnx"))
    assert pretend.memory == {}


@pytest.mark.parametrize(("refuse", "said"), [("plan", "another version"), ("shape", "optimization profile")])
def test_what_the_library_refuses_is_said_in_its_words(pretend, refuse, said):
    inputs = draw_inputs(FRAMES, ragged=False, poison=False)
    with pytest.raises(EngineError, match=said):
        PlanRun(PretendTensorRT(pretend, refuse=refuse), pretend, frames_onnx(weight()), inputs)


def test_a_capture_without_a_call_before_it_is_refused(pretend):
    inputs = draw_inputs(FRAMES, ragged=False, poison=False)
    with PlanRun(PretendTensorRT(pretend), pretend, frames_onnx(weight()), inputs) as runner:
        with pytest.raises(EngineError):
            runner.capture()
        assert pretend.captured is None
        first = runner.outputs()["y"]
        replay = runner.capture()
        replay()
        runner.synchronise()
        assert np.array_equal(runner.outputs()["y"], first)


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
