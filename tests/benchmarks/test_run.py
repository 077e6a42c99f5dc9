from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from taemi_bench import engine_rows, run
from taemi_bench.checkpoint import find_checkpoint, open_checkpoint
from taemi_bench.memory import MemoryMeter
from taemi_bench.report import read_report, write_report
from taemi_bench.rows import RowChoice
from taemi_bench.schedule import Schedule
from taemi_bench.tables import cells, notes
from taemi_runtime.errors import BundleError, DataError, DeviceError, InputError, UsageError
from taemi_runtime.host import cuda_driver
from taemi_runtime.manifest import Source
from tests.benchmarks.toys import make_bundle, toy_source, weight

# What these tests are about: PyTorch's own row and the bundle's engines.
BOTH = RowChoice(rows=("eager fp32", "ONNX Runtime"))
QUICK = Schedule(rounds=12, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=2)


def run_bundle(*arguments, **options):
    """Measure the two rows; those that are left out, and that the bundle lacks, are not looked at."""
    found = run.run_bundle(*arguments, **({"choice": BOTH} | options))
    others = ("left out", "the bundle has none")
    rows = tuple(row for row in found.rows if not any(why in row.why for why in others))
    return dataclasses.replace(found, rows=rows)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy.taemi")


@pytest.fixture(scope="module")
def report(bundle):
    return run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu")


def test_every_graph_has_pytorch_and_its_engine(report):
    ran = [(row.scope, row.name) for row in report.rows if row.state == "ran"]
    assert ran == [
        ("frames", "PyTorch eager fp32"),
        ("frames", "ONNX Runtime CPU fp32"),
        ("squares", "PyTorch eager fp32"),
        ("squares", "ONNX Runtime CPU fp32"),
    ]
    assert not report.failures
    assert not report.interrupted


def test_samples_and_ratios_hang_together(report):
    for torch_row, engine_row in zip(report.rows[::2], report.rows[1::2], strict=True):
        for row in (torch_row, engine_row):
            assert row.latency_ms.count == len(row.latency_ms.values) == 12 * row.calls_per_round
            assert row.cold_ms > 0
        assert (torch_row.baseline, torch_row.times_faster) == ("", None)
        assert engine_row.baseline == "PyTorch eager fp32"
        assert engine_row.times_faster.rounds == 12
        assert engine_row.times_faster.low <= engine_row.times_faster.median <= engine_row.times_faster.high


def test_all_rows_get_one_thread_count_and_pytorch_gets_its_own_back(bundle):
    before = torch.get_num_threads()
    found = run_bundle(bundle, toy_source(), graphs=["squares"], schedule=QUICK, threads=2, device="cpu")
    assert [row.threads for row in found.rows] == [2, 2]
    assert torch.get_num_threads() == before


def test_parity_is_measured_on_the_timed_inputs(report):
    reference, engine = report.rows[:2]
    assert (reference.max_abs, reference.mean_abs) == (0.0, 0.0)
    assert 0 <= engine.mean_abs <= engine.max_abs < 1e-5
    assert (engine.output, engine.cosine) == ("y", pytest.approx(1.0))


def test_one_changed_weight_fails_the_row(tmp_path):
    values = weight()
    values[4, 1] += 0.02
    bundle = make_bundle(tmp_path / "changed.taemi", values=values)
    found = run_bundle(bundle, toy_source(), graphs=["frames"], schedule=QUICK, threads=1, device="cpu")
    (failure,) = found.failures
    assert failure.name == "ONNX Runtime CPU fp32"
    # Inputs are standard normal plus a wave of amplitude 1: the largest of a row is some 2 to 4.
    assert 0.02 < failure.max_abs < 0.1
    assert "output y differs" in failure.why
    assert failure.latency_ms is not None


def test_an_engine_that_answers_nan_fails(tmp_path):
    values = weight()
    values[0, 0] = np.nan
    bundle = make_bundle(tmp_path / "nan.taemi", values=values)
    found = run_bundle(bundle, toy_source(), graphs=["frames"], schedule=QUICK, threads=1, device="cpu")
    assert "not finite" in found.failures[0].why
    assert found.failures[0].max_abs is None


def test_without_a_checkpoint_engines_are_measured_and_the_row_says_why(bundle):
    found = run_bundle(bundle, None, source_note="name it", graphs=["squares"], schedule=QUICK, device="cpu")
    torch_row, engine_row = found.rows
    assert (torch_row.state, torch_row.why) == ("not run", "name it")
    assert (engine_row.state, engine_row.times_faster, engine_row.max_abs) == ("ran", None, None)


def test_a_graph_that_the_checkpoint_lacks_is_said(bundle):
    source = toy_source()
    source = dataclasses.replace(source, graphs=source.graphs[1:])
    found = run_bundle(bundle, source, schedule=QUICK, threads=1, device="cpu")
    assert found.rows[0].why == "the checkpoint has no graph 'frames'"
    assert found.rows[2].state == "ran"


def test_a_damaged_engine_is_a_failed_row_and_the_rest_is_measured(tmp_path):
    bundle = make_bundle(tmp_path / "damaged.taemi")
    path = bundle.folder / "frames.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    found = run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu")
    states = [(row.scope, row.backend, row.state) for row in found.rows]
    assert states == [
        ("frames", "pytorch", "ran"),
        ("frames", "onnxruntime-cpu", "failed"),
        ("squares", "pytorch", "ran"),
        ("squares", "onnxruntime-cpu", "ran"),
    ]
    assert "SHA-256" in found.rows[1].why


def test_engines_that_the_bundle_lacks_have_rows_that_say_how_to_make_them(bundle):
    found = run.run_bundle(bundle, None, graphs=["squares"], schedule=QUICK, device="auto", choice=BOTH)
    lacking = {row.name: row.why for row in found.rows if "the bundle has none" in row.why}
    assert lacking == {
        "ONNX Runtime CPU int8": "the bundle has none: taemi-export quantize BUNDLE",
        "ONNX Runtime CUDA fp16": "the bundle has none: taemi-export tensorrt BUNDLE makes it on the way",
    }


def test_auto_adds_cuda_rows_that_say_why_they_did_not_run(bundle):
    if not cuda_driver().why:
        pytest.skip("this machine has a GPU")
    found = run_bundle(bundle, toy_source(), graphs=["squares"], schedule=QUICK, threads=1, device="auto")
    cuda = [row for row in found.rows if row.device == "cuda:0"]
    assert [row.name for row in cuda] == [
        "PyTorch eager fp32, CUDA",
        "ONNX Runtime CUDA fp32",
        "ONNX Runtime CUDA fp32, CUDA graph",
    ]
    assert all(row.state == "not run" and row.why for row in cuda)
    assert not found.failures


def test_a_cuda_device_that_is_asked_for_by_name_never_falls_back(bundle):
    if not cuda_driver().why:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="--device cpu"):
        run_bundle(bundle, toy_source(), schedule=QUICK, device="cuda")


def test_sizes_reach_the_graphs_that_have_the_axis(bundle):
    found = run_bundle(
        bundle,
        toy_source(),
        sizes={"batch": 3, "frames.steps": 5, "squares.batch": 7},
        schedule=QUICK,
        threads=1,
        device="cpu",
    )
    assert [scope.sizes for scope in found.scopes] == [{"batch": 3, "steps": 5}, {"batch": 7}]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"graphs": ["fronts"]}, UsageError, "frames, squares"),
        ({"sizes": {"depth": 3}}, UsageError, "frames.steps"),
        ({"sizes": {"squares.steps": 3}}, UsageError, "frames.steps"),
        ({"sizes": {"steps": 41}}, InputError, "1 to 40"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(bundle, options, error, said):
    with pytest.raises(error, match=said):
        run_bundle(bundle, None, schedule=QUICK, device="cpu", **options)


def test_inputs_are_the_same_for_all_runs_and_never_zeros(bundle, report):
    again = run_bundle(bundle, None, schedule=QUICK, threads=1, device="cpu")
    assert [scope.inputs_sha256 for scope in again.scopes] == [scope.inputs_sha256 for scope in report.scopes]


def test_ctrl_c_ends_with_what_was_finished(bundle):
    ticks = []

    def stop(name, done, total):
        ticks.append(name)
        if len(ticks) == 3:
            raise KeyboardInterrupt

    found = run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu", progress=stop)
    assert found.interrupted
    assert [scope.name for scope in found.scopes] == ["frames"]
    assert found.scopes[0].rounds == 3
    assert all(row.latency_ms.count == 3 * row.calls_per_round for row in found.rows)


def test_ctrl_c_while_a_row_opens_or_its_memory_is_measured_keeps_what_is_there(bundle, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MemoryMeter, "measure", interrupt)
        found = run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu", memory_seconds=9)
    assert found.interrupted
    assert [(row.scope, row.state) for row in found.rows] == [("frames", "ran")] * 2
    monkeypatch.setattr(engine_rows, "open_engine", interrupt)
    found = run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu")
    assert found.interrupted
    assert {(row.scope, row.state) for row in found.rows} == {("frames", "not run")}
    assert "interrupted" in found.rows[0].why


def test_a_report_comes_back_as_it_was(report, tmp_path):
    path = tmp_path / "report.json"
    write_report(path, report)
    assert read_report(path) == report
    text = path.read_text()
    path.write_text(text.replace('"schema": 2', '"schema": 3'))
    with pytest.raises(DataError, match="schema is 3"):
        read_report(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="kind"):
        read_report(path)


def test_the_table_prints_no_percentile_that_its_samples_cannot_carry(report):
    row = report.rows[0]
    assert row.latency_ms.p99 is None
    found = cells(row)
    assert found[0:2] == ("frames", "PyTorch eager fp32")
    assert found[5] == "-"
    assert any("p99 500" in note for note in notes(report))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("place", ["best.pt", "run/best.pt", "run/renamed.pt"])
def test_the_checkpoint_is_found_near_the_bundle_by_its_digest(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"the one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "best.pt").write_bytes(b"not the one")
    bundle = make_bundle(tmp_path / "toy.taemi", source=Source("best.pt", sha256(b"the one")))
    assert find_checkpoint(bundle.folder, bundle.manifest) == (path, "")


def test_a_checkpoint_with_another_digest_is_not_taken(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"trained further since")
    bundle = make_bundle(tmp_path / "toy.taemi", source=Source("best.pt", sha256(b"the one")))
    found, why = find_checkpoint(bundle.folder, bundle.manifest)
    assert found is None
    assert "best.pt" in why
    assert "--checkpoint" in why
    with pytest.raises(BundleError) as caught:
        open_checkpoint(bundle.folder, bundle.manifest, tmp_path / "best.pt")
    assert sha256(b"the one") in str(caught.value)
    assert sha256(b"trained further since") in str(caught.value)


def test_a_bundle_without_a_source_says_so(tmp_path):
    bundle = make_bundle(tmp_path / "toy.taemi")
    assert open_checkpoint(bundle.folder, bundle.manifest, None)[0] is None


def test_a_found_checkpoint_that_cannot_be_opened_is_a_reason(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    bundle = make_bundle(tmp_path / "toy.taemi", source=Source("best.pt", sha256(b"no checkpoint")))
    source, why = open_checkpoint(bundle.folder, bundle.manifest, None)
    assert source is None
    assert "best.pt" in why
