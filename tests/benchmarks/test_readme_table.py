"""README's tables, from made-up result files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.main import get_command

from taemi_bench.gpu_bench import run_bench, stages
from taemi_bench.readme_table import figures, gpu_rows, replace_table, versions
from taemi_bench.report import write_report
from taemi_runtime.errors import DataError
from taemi_runtime.host import cuda_driver
from tests.benchmarks.made_reports import ENGINE, SMALL, TORCH, report, row

CUDA = "ONNX Runtime CUDA fp16"


@pytest.fixture
def results(tmp_path):
    rows = [
        row("a", TORCH, 20.0),
        row("a", ENGINE, 10.0, base_ms=20.0),
        replace(row("a", SMALL, 1.0), state="failed", why="wrong"),
    ]
    write_report(tmp_path / "cpu-published.json", report(rows))
    (tmp_path / "other.json").write_text('{"kind": "something else"}')
    return tmp_path


def on_gpu(name, typical_ms=1.5):
    found = replace(row("a", CUDA, typical_ms, device="cuda:0"), backend="onnxruntime-cuda")
    return report([found], gpus=[name])


def test_gpus_without_a_result_file_are_not_run_and_the_command_is_named(results):
    table = figures(results)
    assert "| A100 | not run | `make bench-gpu` on one |" in table
    assert "| A800 | not run | `make bench-gpu` on one |" in table
    assert f"| a | {ENGINE} |" in table
    # What gave wrong numbers is no figure.
    assert SMALL not in table


def test_figures_of_another_gpu_never_stand_in(results):
    for place, name in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA RTX A1000", "NVIDIA RTX A8000")):
        write_report(results / f"gpu-{place}.json", on_gpu(name))
    table = figures(results)
    assert "| A100 | not run |" in table
    assert "| A800 | not run |" in table
    assert CUDA not in table


def test_a_result_file_of_the_model_fills_its_row_alone(results):
    write_report(results / "gpu-x.json", on_gpu("NVIDIA A100-SXM4-80GB"))
    table = figures(results)
    assert f"| A100 | a | {CUDA} | 1.5" in table
    assert "| A100 | not run |" not in table
    assert "| A800 | not run |" in table
    newer = replace(on_gpu("NVIDIA A100-PCIE-40GB", 2.5), created="2027-01-01T00:00:00+00:00")
    write_report(results / "gpu-y.json", newer)
    assert [f"{found.latency_ms.p50:.1f}" for found in gpu_rows(results, "A100")] == ["2.5"]


def test_a_row_that_ran_on_the_processor_is_no_figure_of_the_gpu_beside_it(results):
    write_report(results / "gpu-x.json", report([row("a", ENGINE, 3.0)], gpus=["NVIDIA A100-SXM4-80GB"]))
    assert gpu_rows(results, "A100") == []


def test_versions_are_those_of_rows_that_ran(results):
    before = versions(results, "torch==0.0\nonnxruntime==0.1\n")
    assert "| PyTorch, CPU | 0.0 | 0.0 (cpu-published.json) | measured |" in before
    for library in ("TensorRT", "ONNX Runtime, CUDA"):
        assert f"| {library} | - | not run | not run |" in before
    assert "| NVIDIA driver | - | not run | not run |" in before
    found = on_gpu("Made-up GPU")
    machine = replace(found.machine, packages={"onnxruntime-gpu": "0.2"})
    write_report(results / "gpu-x.json", replace(found, machine=machine))
    after = versions(results, "")
    assert "| ONNX Runtime, CUDA | - | 0.2 (gpu-x.json) | measured |" in after
    assert "| NVIDIA driver | - | 0.0 (Made-up GPU, gpu-x.json) | measured |" in after
    assert "| TensorRT | - | not run | not run |" in after


def test_only_what_stands_between_the_markers_is_replaced():
    page = "before <!-- x: made by make readme-table -->old<!-- end of x --> after"
    found = replace_table(page, "x", "new")
    assert found.startswith("before ")
    assert found.endswith(" after")
    assert "old" not in found
    assert replace_table(found, "x", "new") == found
    with pytest.raises(DataError, match="markers"):
        replace_table("no markers", "x", "new")


def test_measuring_a_gpu_without_one_says_so_and_makes_nothing(tmp_path, capsys):
    if not cuda_driver().why:
        pytest.skip("this machine has a GPU")
    assert run_bench(tmp_path / "out", tmp_path / "work") == 1
    assert "error: cannot measure a GPU: there is no CUDA driver" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_command_makes_what_is_missing_and_its_lines_exist(tmp_path):
    import taemi.cli
    import taemi_bench.cli
    import taemi_export.cli

    apps = {module.__name__: module.app for module in (taemi.cli, taemi_export.cli, taemi_bench.cli)}
    found = stages(tmp_path, tmp_path, "made-up", ("tensorrt", "matplotlib"))
    assert [stage.arguments[0] for stage in found] == ["init", "onnx", "tensorrt", "tensorrt", "run"]
    for stage in found:
        command, *rest = stage.arguments
        known = {
            option
            for item in get_command(apps[stage.module]).commands[command].params
            for option in item.opts
        }
        assert {word for word in rest if word.startswith("-")} <= known
    assert not found[0].made()
    (tmp_path / "published.pt").write_bytes(b"")
    assert found[0].made()
    assert "tensorrt" not in [stage.arguments[0] for stage in stages(tmp_path, tmp_path, "x", ())]
    assert "--html" not in stages(tmp_path, tmp_path, "x", ())[-1].arguments
