from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from taemi_bench.commands.options import parse_sizes
from taemi_runtime.errors import UsageError
from taemi_runtime.manifest import Source, file_sha256
from tests.benchmarks.toys import make_bundle, weight

ROOT = Path(__file__).parents[2]
QUICK = ("--rounds", "6", "--seconds", "0", "--threads", "1", "--quick", "--device", "cpu", "--no-roof")
ROWS = ("--rows", "eager fp32", "--rows", "ONNX Runtime")
FAMILY = """
from dataclasses import replace
from tests.benchmarks.toys import toy_source

class ToyFamily:
    def open(self, checkpoint, path):
        return replace(toy_source(checkpoint["weight"].numpy()), checkpoint=path)
"""


def bench(*arguments: object, plugins: Path | None = None) -> subprocess.CompletedProcess[str]:
    folders = [ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks", *([plugins] if plugins else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "taemi_bench.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """A folder on the import path with a package that registers a model family, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "toy_plugin.py").write_text(FAMILY)
    info = folder / "toy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taemi.families]\ntoy = toy_plugin:ToyFamily\n")
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A checkpoint in run/ and a bundle beside it, as training and export leave them."""
    folder = tmp_path_factory.mktemp("demo")
    checkpoint = folder / "run" / "best.pt"
    checkpoint.parent.mkdir()
    torch.save({"family": "toy", "weight": torch.from_numpy(weight())}, checkpoint)
    make_bundle(folder / "toy.taemi", source=Source("best.pt", file_sha256(checkpoint)))
    return folder


def test_a_bundle_is_measured_against_the_checkpoint_that_lies_near_it(demo, plugins, tmp_path):
    report, table = tmp_path / "report.json", tmp_path / "report.md"
    done = bench(
        "run", demo / "toy.taemi", *QUICK, *ROWS, "--json", report, "--markdown", table, plugins=plugins
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(report.read_text())["rows"] if row["state"] == "ran"]
    assert [(row["scope"], row["backend"]) for row in rows] == [
        ("frames", "pytorch"),
        ("frames", "onnxruntime-cpu"),
        ("squares", "pytorch"),
        ("squares", "onnxruntime-cpu"),
    ]
    engine = rows[1]
    assert engine["max_abs"] < 1e-5
    assert engine["times_faster"]["rounds"] == 6
    assert len(engine["latency_ms"]["values"]) == 6 * engine["calls_per_round"]
    for text in (done.stdout, table.read_text()):
        assert "untrained" in text
        assert "ONNX Runtime CPU fp32" in text
    assert "Traceback" not in done.stderr


def test_wrong_numbers_are_exit_code_1_and_still_written(demo, plugins, tmp_path):
    values = weight()
    values[0, 0] += 1.0
    checkpoint = demo / "run" / "best.pt"
    bundle = make_bundle(
        tmp_path / "wrong.taemi", values=values, source=Source("best.pt", file_sha256(checkpoint))
    )
    report = tmp_path / "report.json"
    arguments = (*ROWS, "--checkpoint", checkpoint, "--graph", "frames", "--json", report)
    done = bench("run", bundle.folder, *QUICK, *arguments, plugins=plugins)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    rows = [row for row in json.loads(report.read_text())["rows"] if row["scope"] == "frames"]
    states = {row["name"]: row["state"] for row in rows}
    assert states["ONNX Runtime CPU fp32"] == "failed"


def test_without_a_checkpoint_it_says_so_and_measures(tmp_path):
    bundle = make_bundle(tmp_path / "alone.taemi", graphs=("squares",))
    done = bench("run", bundle.folder, *QUICK, "--size", "batch=3")
    assert done.returncode == 0
    assert "no PyTorch rows" in done.stderr
    assert "not run: PyTorch eager fp32" in done.stdout
    assert "batch 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--size", "batch"), 2, "S=N"),
        (("--size", "depth=3"), 2, "no graph has such a free axis"),
        (("--graph", "none"), 2, "frames, squares"),
        (("--device", "tpu"), 2, "cuda:N"),
        (("--sweep", "depth"), 2, "squares.batch"),
        (("--clip", "none.mp4"), 2, "there is no such file"),
        (("--without", "tensorflow"), 2, "no row has that in its name"),
    ],
)
def test_usage_errors_are_one_message_and_exit_code_2(demo, arguments, code, said):
    done = bench(
        "run", demo / "toy.taemi", *QUICK[:7], *(QUICK[7:] if "--device" not in arguments else ()), *arguments
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_bundle_is_one_message(tmp_path):
    done = bench("run", tmp_path / "none.taemi")
    assert done.returncode == 1
    assert "error: cannot open bundle" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_is_quick():
    start = time.perf_counter()
    done = bench("run", "--help")
    assert done.returncode == 0
    assert "--checkpoint" in done.stdout
    assert time.perf_counter() - start < 3


def test_help_imports_nothing_heavy():
    code = (
        "import sys, taemi_bench.cli; heavy = {'numpy', 'torch', 'onnxruntime', 'onnx'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sizes_are_read():
    assert parse_sizes(["batch=4", "frames.steps=12"]) == {"batch": 4, "frames.steps": 12}
    for wrong in ("batch", "batch=", "=3", "batch=x", "batch=0", "batch=-1", "batch=1.5"):
        with pytest.raises(UsageError):
            parse_sizes([wrong])


def test_profiles_gaps_and_floors_on_request(demo, plugins, tmp_path):
    report, folder = tmp_path / "report.json", tmp_path / "new" / "profiles"
    arguments = ("--graph", "frames", "--json", report, "--profile", folder)
    done = bench("run", demo / "toy.taemi", *QUICK, *arguments, plugins=plugins)
    assert done.returncode == 0, done.stderr
    assert "gap: frames, ONNX Runtime CPU fp32" in done.stdout
    assert "costliest operators" in done.stdout
    assert (folder / "frames.onnx-runtime-cpu-fp32.trace.json").is_file()
    data = json.loads(report.read_text())
    assert data["ceilings"]["cpu"]["multiply_adds_per_second"]["fp32"] > 0
    ran = [row for row in data["rows"] if row["state"] == "ran"]
    assert len(ran) >= 2
    assert all(row["floor"]["floor_ms"] > 0 for row in ran)
    refused = bench("run", demo / "toy.taemi", *QUICK, "--profile", report)
    assert (refused.returncode, "cannot write profiles" in refused.stderr) == (2, True)
