from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from taemi_bench.memory import MemoryJob, MemoryMeter, engine_bytes
from taemi_bench.rows import RowChoice
from taemi_bench.run import run_bundle
from tests.benchmarks.test_rows import QUICK
from tests.benchmarks.toys import make_bundle

MIB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")

# A row that holds 64 MiB, and needs 32 more within its call.
HUNGRY = """
import json
import numpy as np
from taemi_bench.memory_child import _open_and_call
from taemi_bench.rows import Row, Way

def fill(row):
    row.weight_bytes = 5 << 20
    held = np.ones(64 << 17)
    row.run = lambda: float(np.ones(32 << 17).sum() + held[0])

print(json.dumps(_open_and_call(Way(Row("hungry", "toy", "fp32", "g", "cpu"), fill))))
"""


def test_a_row_costs_what_it_holds_and_what_its_call_needs():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HUNGRY)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    found = json.loads(done.stdout)
    assert (64 + 32 + 5) * MIB <= found["host_bytes"] <= (64 + 32 + 5 + 8) * MIB
    assert found["device_bytes"] is None


def test_each_row_that_ran_carries_its_memory(tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi", graphs=("squares",))
    found = run_bundle(
        bundle,
        None,
        schedule=QUICK,
        device="cpu",
        threads=1,
        choice=RowChoice(without=("openvino",)),
        memory_seconds=60,
    )
    rows = {row.name: row for row in found.rows}
    engine = rows["ONNX Runtime CPU fp32"]
    assert engine.memory.note == ""
    # A session of one product, its threads and its arena.
    assert 0 < engine.memory.host_bytes < 64 * MIB
    assert engine.memory.engine_bytes == (bundle.folder / "squares.onnx").stat().st_size
    assert rows["PyTorch eager fp32"].memory is None


def job(folder, **changes) -> MemoryJob:
    facts = {"checkpoint": "", "attention": False, "threads": 1, "devices": ("cpu",), "sizes": {}}
    return MemoryJob(bundle=str(folder), **(facts | changes))


def test_what_does_not_open_there_says_why_and_the_next_row_is_measured(tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    with MemoryMeter(job(bundle.folder)) as meter:
        assert meter.measure("frames", "PyTorch eager fp32").note == "no checkpoint file is known"
        assert meter.measure("frames", "ONNX Runtime CPU fp32").host_bytes > 0


def test_time_is_bounded_and_said(tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    with MemoryMeter(job(bundle.folder), seconds=0.001) as meter:
        assert "stopped after" in meter.measure("frames", "ONNX Runtime CPU fp32").note
        assert meter.measure("frames", "ONNX Runtime CPU fp32").note == (
            "the 0.001 s for all rows' memory were spent"
        )


def test_a_process_that_dies_is_said_once(tmp_path):
    with MemoryMeter(job(tmp_path / "none.taemi")) as meter:
        first = meter.measure("frames", "ONNX Runtime CPU fp32")
        assert "ended" in first.note
        assert meter.measure("frames", "ONNX Runtime CPU fp32") == first


def test_an_engine_is_as_large_as_its_file_and_what_lies_outside_of_it(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"12345")
    (tmp_path / "a.onnx.data").write_bytes(b"123")
    (tmp_path / "b.onnx_data").write_bytes(b"1")
    assert engine_bytes(tmp_path, "a.onnx") == 8
    assert engine_bytes(tmp_path, "") is None
    assert engine_bytes(tmp_path, "c.onnx") is None
