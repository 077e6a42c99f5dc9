"""Ceilings, floors, traces and the words about them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys

import pytest

from taemi_bench import ceilings as ceilings_module
from taemi_bench.ceilings import best_rate, last_level_cache, measure_ceilings
from taemi_bench.counting import NodeCost, count_file
from taemi_bench.floors import describe_gaps, graph_floor, largest_gaps, node_floors, with_floors
from taemi_bench.ort_trace import read_onnxruntime_trace
from taemi_bench.profiles import COSTLIEST, Profile, ProfiledNode, cells, make_folder
from taemi_bench.report import read_report, write_report
from taemi_bench.roof import try_add_roof
from taemi_bench.roofline import Ceilings
from taemi_bench.rows import RowChoice
from taemi_bench.run import run_bundle
from taemi_bench.schedule import Schedule
from taemi_runtime.errors import UsageError
from tests.benchmarks.toys import make_bundle, toy_source

QUICK = Schedule(rounds=4, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=2)
# 1 G multiply-adds and 1 GB a second: a million of either is a millisecond. Caches are ten times as fast.
LIMITS = Ceilings("cpu", 1, {"fp32": 1e9, "int8": 4e9, "bf16": 5e8}, 1e9, {}, 1e10, 10_000)


def node(operator="MatMul", precision="fp32", adds=0, other=0, weights=0, read=0, written=0) -> NodeCost:
    return NodeCost(operator.lower(), operator, precision, adds, other, weights, read, written)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy.taemi")


@pytest.fixture(scope="module")
def report(bundle):
    choice = RowChoice(rows=("eager fp32", "ONNX Runtime"))
    found = run_bundle(bundle, toy_source(), schedule=QUICK, threads=1, device="cpu", choice=choice)
    return dataclasses.replace(found, rows=tuple(row for row in found.rows if row.state == "ran"))


@pytest.fixture
def small_products(monkeypatch):
    monkeypatch.setattr(ceilings_module, "SIDES", (32,))
    monkeypatch.setattr(ceilings_module, "_LEAST_ARRAY_BYTES", 2**16)
    monkeypatch.setattr(ceilings_module, "last_level_cache", lambda: 2**16)


@pytest.mark.parametrize(
    ("cost", "ms", "bound"),
    [
        (node(adds=2_000_000, read=5_000), 2.0, "compute"),
        (node(precision="int8", adds=2_000_000), 0.5, "compute"),
        # Slower than float32 by itself: an engine computes it in float32.
        (node(precision="bf16", adds=2_000_000), 2.0, "compute"),
        (node(precision="fp16", adds=2_000_000), 2.0, "compute"),
        (node("Softmax", other=3_000_000, read=100), 3.0, "compute"),
        # Values beyond the cache come from memory, smaller ones from the cache, weights from memory.
        (node("Add", read=20_000, written=20_000), 0.04, "memory"),
        (node("Add", read=4_000, written=1_000), 0.0005, "memory"),
        (node(weights=2_000_000, adds=1_000), 2.0, "memory"),
    ],
)
def test_a_node_takes_the_longer_of_its_arithmetic_and_its_bytes(cost, ms, bound):
    (found,) = node_floors([cost], LIMITS, weights_cached=False)
    assert (found.ms, found.bound) == (pytest.approx(ms), bound)


def test_weights_that_stay_in_the_caches_come_from_there():
    (found,) = node_floors([node(weights=2_000_000)], LIMITS, weights_cached=True)
    assert found.ms == pytest.approx(0.2)


def test_a_graph_s_floor_is_the_sum_over_its_nodes(bundle):
    graph = count_file(bundle.file("frames.onnx"), {"batch": 1, "steps": 1000 // 8})
    steps, given = 125, 125 * 8 * 4
    product = max(steps * 8 * 3 / 1e9, (given + 8 * 3 * 4 + steps * 3 * 4) / 1e10)
    cast = max(steps / 1e9, (steps + 4 * steps) / 1e10)
    scaled = max(steps * 3 / 1e9, (2 * steps * 3 * 4 + steps * 4) / 1e10)
    found = graph_floor(graph, LIMITS, p50_ms=1.0)
    assert found.floor_ms == pytest.approx((product + cast + scaled) * 1e3)
    assert found.share == pytest.approx(found.floor_ms)
    assert "of the floor is MatMul (compute-bound)" in found.note
    assert "stay in the caches" in found.note


def test_a_row_below_its_floor_is_said_and_not_clipped(bundle):
    graph = count_file(bundle.file("frames.onnx"), {"batch": 1, "steps": 12})
    found = graph_floor(graph, LIMITS, p50_ms=1e-6)
    assert found.share > 1
    assert "faster than its floor" in found.note
    assert "faster than its floor" not in graph_floor(graph, LIMITS, p50_ms=10.0).note


def test_the_words_name_the_operator_that_is_farthest_above_its_floor(bundle):
    graph = count_file(bundle.file("frames.onnx"), {"batch": 1, "steps": 12})
    nodes = (
        ProfiledNode("m1", "MatMul", 1, 9.0, 0.6, 8.5),
        ProfiledNode("s1", "Softmax", 1, 2.0, 0.2, 0.1),
        ProfiledNode("s2", "Softmax", 1, 2.0, 0.2, 0.1),
        ProfiledNode("u", "Unknown", 1, 50.0, 0.2, None),
    )
    profile = Profile("frames", "row", "", 3, 13.0, nodes)
    note = graph_floor(graph, LIMITS, 15.0, profile).note
    assert "look next at Softmax: 4.00 ms of the call, 0.20 ms at the ceilings" in note


def test_rows_that_ran_get_a_floor_and_graphs_a_cost(report, bundle, tmp_path):
    found = with_floors(report, bundle, {"cpu": LIMITS}, {})
    cost = found.scopes[0].cost
    assert (cost.file, cost.multiply_adds) == ("frames.onnx", 12 * 8 * 3)
    assert all(row.floor is not None and row.floor.floor_ms > 0 for row in found.rows)
    assert found.ceilings == {"cpu": LIMITS}
    path = tmp_path / "report.json"
    write_report(path, found)
    assert read_report(path) == found


def test_every_device_s_rows_have_the_floor_of_their_own_ceilings(report, bundle):
    engine = next(row for row in report.rows if row.backend != "pytorch")
    there = dataclasses.replace(engine, name="made-up", backend="made-up", device="cuda:0")
    fast = Ceilings("cuda:0", 0, {"fp32": 1e12}, 1e12, {}, 1e13, 10_000)
    both = dataclasses.replace(report, rows=(engine, there))
    limits = {"cpu": LIMITS, "cuda:0": fast}
    found = with_floors(both, bundle, limits, {})
    assert found.ceilings == limits
    # A thousand times as fast in everything.
    slow, quick = (row.floor.floor_ms for row in found.rows)
    assert quick == pytest.approx(slow / 1000)


def test_without_ceilings_graphs_still_have_a_cost(report, bundle):
    found = with_floors(report, bundle, {}, {})
    assert found.scopes[1].cost.other_operations == 4 * 5
    assert {row.floor for row in found.rows} == {None}


def test_half_precision_of_a_float32_graph_moves_half_the_bytes(report, bundle):
    limits = dataclasses.replace(LIMITS, multiply_adds_per_second={"fp32": 1e18, "fp16": 1e18})
    rows = tuple(
        dataclasses.replace(row, precision="fp16") for row in report.rows if row.backend == "pytorch"
    )
    full = with_floors(report, bundle, {"cpu": limits}, {}).rows[2].floor.floor_ms
    half = (
        with_floors(dataclasses.replace(report, rows=rows), bundle, {"cpu": limits}, {})
        .rows[1]
        .floor.floor_ms
    )
    assert half == pytest.approx(full / 2)


def test_gaps_are_ranked_and_pytorch_is_none_of_them(report, bundle):
    found = with_floors(report, bundle, {"cpu": LIMITS}, {})
    gaps = largest_gaps(found)
    assert [row.backend for row, _ in gaps] == ["onnxruntime-cpu"] * 2
    assert gaps[0][1] >= gaps[1][1]
    assert f"{gaps[0][0].scope}, ONNX Runtime CPU fp32: {gaps[0][1]:.2f} ms above" in describe_gaps(found)[0]


def test_the_last_cache_that_holds_data_counts(tmp_path):
    for index, (kind, level, size) in enumerate(
        [
            ("Data", "1", "48K"),
            ("Instruction", "1", "32K"),
            ("Unified", "2", "1024K"),
            ("Unified", "3", "32768K"),
        ]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert last_level_cache(tmp_path) == 32 * 2**20
    assert last_level_cache(tmp_path / "none") == 0


def test_the_best_call_counts():
    waits = iter([0.0, 0.03, 0.002, 0.03])

    def call() -> None:
        ceilings_module.time.sleep(next(waits, 0.03))

    rate = best_rate(call, work=1.0, seconds=0.05)
    assert 1 / 0.02 < rate <= 1 / 0.002


def test_ceilings_are_measured_with_the_asked_threads(small_products):
    found = measure_ceilings("cpu", 2, seconds=0.01)
    assert (found.device, found.threads, found.cache_bytes) == ("cpu", 2, 2**16)
    assert {"fp32", "int8"} <= set(found.multiply_adds_per_second)
    assert min(found.multiply_adds_per_second.values()) > 0
    assert 1e8 < found.bytes_per_second < 1e13
    assert {"fp32", "int8", "bytes", "cached bytes"} <= set(found.how)
    assert "2 threads" in found.how["bytes"]


def event(name, operator, start, took, inputs, outputs, constants=0):
    shapes = {"input_type_shape": inputs, "output_type_shape": outputs, "parameter_size": str(constants)}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": took,
        "args": {"op_name": operator, **shapes},
    }


def test_a_trace_is_summed_over_the_warm_calls(tmp_path):
    """Two cold calls and two warm ones; the weights of a product that was packed do not stand in it."""
    events = [{"cat": "Session", "name": "model_run", "ts": at * 1000, "dur": 900} for at in range(4)]
    for at, (product, soft) in enumerate([(700, 90), (500, 90), (100, 40), (300, 60)]):
        begin = at * 1000
        events.append(
            event("m", "MatMul", begin, product, [{"float": [5, 100]}], [{"float": [5, 200]}], 100 * 200 * 4)
        )
        events.append(event("s", "Softmax", begin + 800, soft, [{"float": [5, 200]}], [{"float": [5, 200]}]))
        events.append(event("x", "Mystery", begin + 890, 2, [], [{"float": [1]}]))
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(events))
    found = read_onnxruntime_trace(path, LIMITS)
    assert (found.calls, found.call_ms) == (2, pytest.approx(0.9))
    product, soft, other = found.nodes
    assert (product.name, product.calls, product.ms) == ("m", 1, pytest.approx(0.2))
    # 80 kB of weights are more than the cache of 10 kB holds: they come from memory, 4 + 2 kB do not.
    assert product.floor_ms == pytest.approx(max(5 * 200 * 100 / 1e9, 80_000 / 1e9 + 6_000 / 1e10) * 1e3)
    assert (soft.ms, soft.floor_ms) == (pytest.approx(0.05), pytest.approx(5 * 1000 / 1e9 * 1e3))
    assert other.floor_ms is None
    assert sum(item.share for item in found.nodes) == pytest.approx(1)
    assert len(list(cells(found))) == min(3, COSTLIEST)


def test_profiles_are_written_beside_the_traces(report, bundle, tmp_path, small_products):
    found = try_add_roof(report, bundle, toy_source(), folder=tmp_path)
    assert not found.interrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            f"{graph}.{row}.{kind}.json"
            for graph in ("frames", "squares")
            for row in ("onnx-runtime-cpu-fp32", "pytorch-eager-fp32")
            for kind in ("operators", "trace")
        ]
        + ["operators.md"]
    )
    engine = found.profiles["frames/ONNX Runtime CPU fp32"]
    assert "MatMul" in {item.operator for item in engine.nodes}
    assert engine.calls >= 2
    assert engine.nodes[0].floor_ms is not None
    assert json.loads((tmp_path / engine.trace).read_text())
    torch_profile = found.profiles["squares/PyTorch eager fp32"]
    assert "aten::mul" in {item.name for item in torch_profile.nodes}
    page = (tmp_path / "operators.md").read_text()
    assert "| operator | type |" in page
    assert "above its floor" in page
    assert "look next at" in found.report.rows[1].floor.note


def only(report, library, **changes):
    """The report with one row of frames, as if it were another's."""
    row = next(row for row in report.rows if row.scope == "frames" and row.backend == library)
    return dataclasses.replace(report, rows=(dataclasses.replace(row, **changes),))


@pytest.mark.slow
def test_a_compiled_row_s_trace_names_what_was_fused(report, bundle, tmp_path, small_products):
    name = "PyTorch compiled fp32"
    found = try_add_roof(only(report, "pytorch", name=name), bundle, toy_source(), folder=tmp_path)
    profile = found.profiles[f"frames/{name}"]
    by_name = {item.name: item for item in profile.nodes}
    (fused,) = (item for item in profile.nodes if "cpp_fused" in item.name and "mul" in item.name)
    assert (fused.calls, fused.floor_ms) == (1, None)
    rate = found.report.ceilings["cpu"].product_rate("fp32")
    assert by_name["aten::mm"].floor_ms == pytest.approx(12 * 8 * 3 / rate * 1e3)
    assert by_name["CompiledFxGraph"].calls == 1
    assert sum(item.share for item in profile.nodes) == pytest.approx(1)
    events = json.loads((tmp_path / "frames.pytorch-compiled-fp32.trace.json").read_text())["traceEvents"]
    assert fused.name in {event.get("name") for event in events}
    page = (tmp_path / "operators.md").read_text()
    assert f"## frames, {name}: costliest operators" in page
    assert "not traced" not in page


def test_half_precision_is_traced_as_it_runs(report, bundle, tmp_path, small_products):
    row = only(report, "pytorch", name="PyTorch eager bf16", precision="bf16")
    found = try_add_roof(row, bundle, toy_source(), folder=tmp_path)
    assert "aten::_to_copy" in {item.name for item in found.profiles["frames/PyTorch eager bf16"].nodes}


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino not installed")
def test_openvino_counts_its_nodes_and_has_no_trace(report, bundle, tmp_path, small_products):
    changes = {"name": "OpenVINO CPU fp32", "backend": "openvino", "file": "frames.onnx"}
    sizes = {"batch": 64, "steps": 40}
    scopes = tuple(dataclasses.replace(scope, sizes=sizes) for scope in report.scopes[:1])
    one = dataclasses.replace(only(report, "onnxruntime-cpu", **changes), scopes=scopes)
    found = try_add_roof(one, bundle, None, folder=tmp_path)
    profile = found.profiles["frames/OpenVINO CPU fp32"]
    assert profile.trace == ""
    assert {item.floor_ms for item in profile.nodes} == {None}
    assert profile.nodes[0].ms > 0
    assert sum(item.share for item in profile.nodes) == pytest.approx(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frames.openvino-cpu-fp32.operators.json",
        "operators.md",
    ]


def test_rows_that_are_not_traced_say_why(report, bundle, tmp_path, small_products, monkeypatch):
    from torch._inductor import cpp_builder

    def none():
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    (compiled,) = only(report, "pytorch", name="PyTorch compiled fp32").rows
    on_gpu = {"name": "CUDA", "backend": "onnxruntime-cuda", "device": "cuda:0", "file": "frames.onnx"}
    rows = (
        compiled,
        dataclasses.replace(compiled, name="TensorRT fp32", backend="tensorrt"),
        dataclasses.replace(compiled, **on_gpu),
        dataclasses.replace(compiled, scope="frames on the device"),
        dataclasses.replace(compiled, name="OpenVINO CPU fp32", backend="openvino", state="not run"),
    )
    on_device = dataclasses.replace(report.scopes[0], name="frames on the device", kind="graph on the device")
    whole = dataclasses.replace(report, rows=rows, scopes=(*report.scopes, on_device))
    found = try_add_roof(whole, bundle, toy_source(), folder=tmp_path)
    assert found.profiles == {}
    said = (tmp_path / "operators.md").read_text().partition("## Rows that were not traced\n\n")[2]
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in said.splitlines())
    assert "Install g++" in lines["frames/PyTorch compiled fp32"]
    assert "not traced here" in lines["frames/TensorRT fp32"]
    assert "cannot run" in lines["frames/CUDA"]
    assert "rows of single graphs" in lines["frames on the device/PyTorch compiled fp32"]
    assert len(lines) == 4


def test_without_a_folder_nothing_is_kept_and_rows_still_say_where_to_look(report, bundle, small_products):
    found = try_add_roof(report, bundle, toy_source())
    assert set(found.profiles) == {"frames/ONNX Runtime CPU fp32", "squares/ONNX Runtime CPU fp32"}
    assert {profile.trace for profile in found.profiles.values()} == {""}
    assert found.report.ceilings.keys() == {"cpu"}
    assert try_add_roof(report, bundle, None, wanted=False).report is report


def test_ctrl_c_while_the_ceilings_are_measured_loses_nothing(report, bundle, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taemi_bench.roof.measure_ceilings", interrupted)
    found = try_add_roof(report, bundle, None)
    assert (found.interrupted, found.report) == (True, report)


def test_without_onnx_the_report_stays_and_says_why(report, bundle, monkeypatch, small_products):
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = try_add_roof(report, bundle, None)
    assert found.report == report
    assert "onnx is not installed" in found.why[0]
    assert 'pip install "taemi[export]"' in found.why[0]


def test_a_file_is_no_folder_for_profiles(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UsageError, match="cannot write profiles"):
        make_folder(path)
