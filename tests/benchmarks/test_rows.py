from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from taemi_bench import openvino_row, pytorch_rows
from taemi_bench.graph_rows import graph_ways
from taemi_bench.rows import Row, RowChoice, Way, open_row, open_rows
from taemi_bench.run import run_bundle
from taemi_bench.schedule import Schedule
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import DeviceError, EngineError, UsageError
from tests.benchmarks.toys import FRAMES, make_bundle, toy_source

QUICK = Schedule(rounds=12, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=2)
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino not installed")
CPU_ROWS = [
    "PyTorch eager fp32",
    "PyTorch eager bf16",
    "PyTorch compiled fp32",
    "PyTorch reduce-overhead fp32",
    "PyTorch max-autotune fp32",
    "ONNX Runtime CPU fp32",
    "ONNX Runtime CPU int8",
    "OpenVINO CPU fp32",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy.taemi")


@pytest.fixture
def inputs():
    return draw_inputs(FRAMES, ragged=False, poison=False)


@pytest.fixture
def ways(bundle, inputs):
    graph = toy_source().graphs[0]
    return graph_ways(bundle, "frames", inputs, graph, "", threads=1, devices=["cpu", "cuda"])


def reference(inputs):
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    return toy_source().graphs[0].reference(tensors)["y"].numpy()


def named(ways, name):
    return next(way for way in ways if way.name == name)


def test_a_graph_has_every_row_on_both_devices(ways):
    names = [way.name for way in ways]
    assert names[: len(CPU_ROWS)] == CPU_ROWS
    modes = ("eager", "compiled", "reduce-overhead", "max-autotune")
    cuda = [f"PyTorch {mode} {half}, CUDA" for mode in modes for half in ("fp32", "fp16")]
    assert names[len(CPU_ROWS) :] == [
        *cuda,
        "ONNX Runtime CUDA fp32",
        "ONNX Runtime CUDA fp32, CUDA graph",
        "ONNX Runtime CUDA fp16",
        "TensorRT fp16",
    ]
    assert len(set(names)) == len(names)


def test_what_compiles_long_is_left_out_unless_somebody_asks(ways):
    choice = RowChoice()
    left = [way.name for way in ways[: len(CPU_ROWS)] if choice.why_not(way)]
    assert left == ["PyTorch compiled fp32", "PyTorch max-autotune fp32"]
    assert "--with max-autotune" in choice.why_not(named(ways, "PyTorch max-autotune fp32"))
    assert not RowChoice(also=("compiled",)).why_not(named(ways, "PyTorch compiled fp32"))


def test_rows_are_chosen_by_words_of_their_names(ways):
    def chosen(**words):
        choice = RowChoice(**{key: tuple(value) for key, value in words.items()})
        return [way.name for way in ways[: len(CPU_ROWS)] if not choice.why_not(way)]

    assert chosen(rows=["onnx runtime", "Max-Autotune"]) == CPU_ROWS[4:7]
    assert chosen(without=["openvino", "PyTorch"]) == CPU_ROWS[5:7]
    assert chosen(rows=["eager"], without=["bf16"]) == [CPU_ROWS[0]]


def test_a_word_of_no_row_is_refused_before_anything_runs(bundle):
    with pytest.raises(UsageError, match=r"--without tensorflow.*ONNX Runtime CPU fp32"):
        run_bundle(bundle, None, schedule=QUICK, device="cpu", choice=RowChoice(without=("tensorflow",)))


def test_a_row_that_cannot_run_says_so_rather_than_that_nobody_asked(ways):
    row = open_rows([named(ways, "PyTorch reduce-overhead fp32")], RowChoice())[0]
    assert row.run is None
    assert "equals the compiled row" in row.why
    assert not row.failed


def test_what_is_left_out_stays_in_the_report_with_its_reason(bundle):
    choice = RowChoice(rows=("ONNX",))
    found = run_bundle(
        bundle, toy_source(), graphs=["frames"], schedule=QUICK, device="cpu", threads=1, choice=choice
    )
    assert [row.name for row in found.rows] == CPU_ROWS
    assert [row.name for row in found.rows if row.state == "ran"] == ["ONNX Runtime CPU fp32"]
    assert found.rows[0].why == "left out by --rows"
    assert found.rows[5].times_faster is None
    assert found.rows[5].max_abs < 1e-5


def test_every_row_carries_its_error_and_what_opening_took(bundle):
    found = run_bundle(bundle, toy_source(), graphs=["frames"], schedule=QUICK, device="cpu", threads=1)
    rows = {row.name: row for row in found.rows if row.state == "ran"}
    eager, half, engine = (
        rows[name] for name in ("PyTorch eager fp32", "PyTorch eager bf16", "ONNX Runtime CPU fp32")
    )
    assert (eager.rho, eager.max_abs, eager.load_ms, eager.memory) == (1.0, 0.0, None, None)
    assert half.precision == "bf16"
    # 8 products of numbers with 8 bits: some 2 ** -8 of outputs that reach 5.
    assert 1e-3 < half.max_abs < 0.2
    assert 0.99 < half.rho < 1
    assert half.baseline == eager.name
    assert half.times_faster.rounds == 12
    assert engine.rho == pytest.approx(1, abs=1e-6)
    assert engine.load_ms > 0
    assert engine.memory.engine_bytes == (bundle.folder / "frames.onnx").stat().st_size
    assert engine.tf32 is None
    assert engine.split is None


def test_a_row_that_does_not_open_costs_no_other():
    def refuse(row):
        raise DeviceError("no", "there is none")

    def break_it(row):
        row.run = list
        raise EngineError("no", "it broke")

    rows = [open_row(Way(Row("a", "toy", "fp32", "g", "cpu"), opener)) for opener in (refuse, break_it)]
    assert [(row.run, row.failed) for row in rows] == [(None, False), (None, True)]
    assert "it broke" in rows[1].why


def test_rows_take_other_inputs_without_being_opened_again(ways):
    other = draw_inputs(FRAMES, {"steps": 5, "batch": 2}, seed=9, ragged=False, poison=False)
    expected = reference(other)
    for row in open_rows(ways[: len(CPU_ROWS)], RowChoice()):
        if row.run is not None:
            got = row.to_arrays(row.bind(other)())["y"]
            assert np.abs(got - expected).max() < (0.2 if row.precision == "bf16" else 1e-5)
            assert row.to_arrays(row.run())["y"].shape == (1, 12, 3)
            row.close()


@needs_openvino
def test_openvino_computes_the_same_with_the_threads_that_it_is_given(ways, inputs):
    row = open_row(named(ways, "OpenVINO CPU fp32"))
    expected = reference(inputs)
    np.testing.assert_allclose(row.to_arrays(row.run())["y"], expected, atol=1e-5)
    assert (row.threads, row.failed) == (1, False)
    assert row.versions["openvino"][:2] == "20"
    assert row.load_ms > 0


def test_without_openvino_its_row_says_how_to_get_it(bundle, inputs, monkeypatch):
    monkeypatch.setattr(openvino_row.importlib.util, "find_spec", lambda name: None)
    (way,) = openvino_row.openvino_ways(bundle, "frames", inputs, 1)
    assert "pip install openvino" in open_row(way).why


def test_without_a_compiler_the_compiled_row_says_so_and_is_no_failure(ways, monkeypatch):
    def none():
        raise RuntimeError("No working C++ compiler found")

    from torch._inductor import cpp_builder

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    row = open_row(named(ways, "PyTorch compiled fp32"))
    assert "Install g++" in row.why
    assert not row.failed


def test_pytorch_settings_come_back(monkeypatch):
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with pytorch_rows.torch_settings(before[0] + 1):
        assert torch.get_num_threads() == before[0] + 1
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.slow
def test_compiled_rows_are_measured_again_and_again_in_one_process(bundle):
    choice = RowChoice(rows=("compiled", "max-autotune", "eager fp32"))
    for _ in range(2):
        found = run_bundle(
            bundle, toy_source(), schedule=QUICK, device="cpu", threads=1, choice=choice, memory_seconds=100
        )
        ran = [row for row in found.rows if row.state == "ran"]
        assert [row.name for row in ran] == [CPU_ROWS[0], CPU_ROWS[2], CPU_ROWS[4]] * 2
        assert all(row.max_abs < 1e-5 and row.rho > 0.999 for row in ran)
        assert all(row.load_ms > row.cold_ms for row in ran if row.load_ms is not None)


@pytest.mark.slow
def test_a_compiled_row_compiles_while_it_is_opened_and_never_again(ways):
    from torch._dynamo.utils import counters

    counters.clear()
    with pytorch_rows.fresh_compile_cache():
        row = open_row(named(ways, "PyTorch compiled fp32"))
        assert row.why == ""
        compiled = counters["stats"]["unique_graphs"]
        assert compiled == 1
        expected = row.to_arrays(row.run())
        for _ in range(20):
            row.run()
        assert counters["stats"]["unique_graphs"] == compiled
        assert row.load_ms > 100
    reference = open_row(named(ways, "PyTorch eager fp32"))
    np.testing.assert_allclose(expected["y"], reference.to_arrays(reference.run())["y"], atol=1e-5)
    row.close()
