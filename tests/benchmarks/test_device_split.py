from __future__ import annotations

import csv

import pytest

from taemi_bench import selection
from taemi_bench.device_split import BY_CLOCK, summarise_splits
from taemi_bench.flat_csv import write_csv
from taemi_bench.report import read_report, write_report
from taemi_bench.rows import RowChoice
from taemi_bench.run import run_bundle
from taemi_bench.tables import notes, sheets
from taemi_runtime.bundle import Bundle
from taemi_runtime.host import CudaDriver
from taemi_runtime.manifest import MANIFEST_NAME, Manifest, describe_file, format_manifest
from taemi_runtime.plan_sidecar import sidecar_name
from taemi_runtime.stopwatch import SplitMs
from tests.benchmarks.test_rows import QUICK
from tests.benchmarks.toys import SQUARES, make_bundle, squares_onnx, toy_source
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_machine import install_gpu, install_tensorrt
from tests.runtime.fake_provider import install_provider
from tests.runtime.fake_tensorrt import FakeTensorRT, write_plan

STEP_MS = 0.25
"""What every piece of work moves the simulated device's clock on by."""


def split(enqueue=0.1, up=0.2, compute=1.0, down=0.3):
    return SplitMs(enqueue, up, compute, down)


def test_four_parts_are_summed_up_apart():
    found = summarise_splits([split(compute=1.0), split(compute=1.01)] * 10)
    assert found.compute_ms.p50 == pytest.approx(1.005)
    assert (found.enqueue_ms.mean, found.host_to_device_ms.mean) == (pytest.approx(0.1), pytest.approx(0.2))
    assert found.device_to_host_ms.count == 20
    assert found.warnings == ()
    assert summarise_splits([]) is None


@pytest.mark.parametrize(
    ("splits", "streams", "said"),
    [
        ([split(enqueue=0.81)], 1, "host may set the pace"),
        ([split(up=1.0)], 1, "copies to the device take 1.000 ms, computing 1.000 ms"),
        ([split(down=1.2)], 1, "copies from the device"),
        ([split(compute=1.0), split(compute=1.1)], 1, "varies by 6.7%"),
        ([split()], 2, "no latencies"),
    ],
)
def test_what_makes_them_doubtful_is_said(splits, streams, said):
    (warning,) = summarise_splits(splits * 1, streams).warnings
    assert said in warning


def test_what_is_just_within_bounds_is_not_warned_of():
    found = summarise_splits([split(enqueue=0.8, up=0.99, down=0.99), split(enqueue=0.8, compute=1.03)])
    assert found.warnings == ()


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A bundle with a plan, and a simulated GPU that runs it."""
    gpu = FakeGpu()
    install_gpu(monkeypatch, gpu)
    install_tensorrt(monkeypatch, FakeTensorRT(gpu))
    monkeypatch.setattr(selection, "cuda_driver", lambda: CudaDriver("13.0", ("Simulated GPU",)))
    folder = tmp_path / "toy.taemi"
    folder.mkdir()
    plan = folder / "squares.fp32.plan"
    write_plan(plan, SQUARES, squares_onnx(), {"one": {"batch": (1, 4, 16)}}, precision="fp32", tf32=True)
    files = {plan.name: describe_file(plan, graph="squares", precision="fp32")}
    beside = folder / sidecar_name(plan.name)
    files[beside.name] = describe_file(beside)
    manifest = Manifest("toy", {"squares": SQUARES}, files, model={}, preprocessing={}, trained=False)
    (folder / MANIFEST_NAME).write_text(format_manifest(manifest))
    return Bundle.open(folder)


def test_plans_are_measured_with_and_without_graphs_and_say_where_time_goes(planned):
    found = run_bundle(planned, toy_source(), schedule=QUICK, device="cuda", threads=1)
    plain, captured = (row for row in found.rows if row.file.endswith(".plan"))
    assert (plain.name, captured.name) == ("TensorRT fp32", "TensorRT fp32, CUDA graph")
    for row in (plain, captured):
        assert (row.state, row.why) == ("ran", "")
        assert row.max_abs < 1e-6
        assert row.tf32 is True
        split = row.split
        # One piece of work each, and the event behind it; that of the last one is the end's.
        assert set(split.host_to_device_ms.values) == {2 * STEP_MS}
        assert set(split.compute_ms.values) == {2 * STEP_MS}
        assert set(split.device_to_host_ms.values) == {2 * STEP_MS}
        assert min(split.enqueue_ms.values) > 0
        # Not the cold call, nor those that warm up.
        assert split.compute_ms.count >= row.latency_ms.count
    assert any("copies to the device" in warning for warning in plain.split.warnings)


def test_onnx_runtime_s_rows_say_that_the_host_s_clock_split_them(tmp_path, monkeypatch):
    install_provider(monkeypatch, FakeGpu())
    monkeypatch.setattr(selection, "cuda_driver", lambda: CudaDriver("13.0", ("Simulated GPU",)))
    bundle = make_bundle(tmp_path / "toy.taemi", graphs=("squares",))
    choice = RowChoice(rows=("ONNX Runtime CUDA",))
    found = run_bundle(bundle, toy_source(), schedule=QUICK, device="cuda", threads=1, choice=choice)
    row = next(row for row in found.rows if row.state == "ran")
    assert (row.name, row.backend) == ("ONNX Runtime CUDA fp32", "onnxruntime-cuda")
    split = row.split
    assert split.enqueue_ms is None
    parts = (split.host_to_device_ms, split.compute_ms, split.device_to_host_ms)
    assert all(min(part.values) > 0 for part in parts)
    assert split.compute_ms.count >= row.latency_ms.count
    assert sum(part.typical for part in parts) < 2 * row.latency_ms.typical
    assert BY_CLOCK in split.warnings
    assert f"squares, {row.name}: {BY_CLOCK}" in list(notes(found))
    (table,) = (sheet for sheet in sheets(found) if sheet.title.startswith("Where a call on the GPU"))
    assert table.rows[0][:3] == ("squares", row.name, "-")
    for path, write in ((tmp_path / "report.json", write_report), (tmp_path / "report.csv", write_csv)):
        write(path, found)
    assert read_report(tmp_path / "report.json") == found
    with (tmp_path / "report.csv").open(newline="") as stream:
        line = next(line for line in csv.DictReader(stream) if line["state"] == "ran")
    assert line["enqueue_p50_ms"] == ""
    assert float(line["compute_p50_ms"]) == split.compute_ms.p50


def test_rows_of_pytorch_say_that_it_has_no_gpu(planned):
    found = run_bundle(
        planned, toy_source(), schedule=QUICK, device="cuda", choice=RowChoice(also=("compiled",))
    )
    torch_rows = [row for row in found.rows if row.backend == "pytorch"]
    assert len(torch_rows) == 8
    assert all(row.state == "not run" and "0 CUDA devices" in row.why for row in torch_rows)
    assert {row.tf32 for row in torch_rows} == {False}


def test_a_plan_that_is_not_captured_has_no_row_with_graphs(planned, monkeypatch):
    from taemi_runtime.cuda import cuda_python

    monkeypatch.setattr(cuda_python.CudaPythonLayer, "has_graphs", False)
    found = run_bundle(planned, None, schedule=QUICK, device="cuda")
    row = next(row for row in found.rows if "CUDA graph" in row.name)
    assert row.state == "not run"
    assert row.why == "calls of this graph are not captured into CUDA graphs by tensorrt"
