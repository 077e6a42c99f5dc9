"""Half precision judged with real rounding, plans that nothing here runs, and one byte in every file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from taemi_export import export_onnx, verify_bundle
from taemi_export.bundle_writer import describe_graph, write_manifest
from taemi_export.conversion import convert_to_half
from taemi_export.facts import finish_model, read_facts
from taemi_export.method import choose_method, explain
from taemi_export.onnx_file import read_onnx
from taemi_export.tables import compared
from taemi_export.verify import store_parity
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, DeviceError, ParityError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import describe_file, read_manifest
from taemi_runtime.spec import Gate

HALF = Gate(2e-2, 2e-3, 0.9995)


@pytest.fixture(scope="module")
def half_bundle(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy family's quicker graph in fp32 and fp16, and a file that claims to be a plan."""
    source = toy.toy_source()
    front = source.graphs[1]
    gated = replace(front, spec=replace(front.spec, gates={**front.spec.gates, "fp16": HALF}))
    out = export_onnx(replace(source, graphs=(gated,)), tmp_path_factory.mktemp("half") / "h.taemi")
    add_half(out, "front", onnx.load(out / "front.onnx"))
    (out / "front.fp16.plan").write_bytes(b"not for any library here")
    (out / "front.fp16.plan.json").write_bytes(b"{}")
    manifest = read_manifest(out)
    plan = describe_file(out / "front.fp16.plan", graph="front", precision="fp16")
    files = {
        **manifest.files,
        "front.fp16.plan": plan,
        "front.fp16.plan.json": describe_file(out / "front.fp16.plan.json"),
    }
    write_manifest(out, replace(manifest, files=files))
    return out


def add_half(bundle: Path, graph: str, model: onnx.ModelProto) -> None:
    manifest = read_manifest(bundle)
    half = convert_to_half(model, manifest.graphs[graph])
    facts = read_facts(read_onnx(bundle / f"{graph}.onnx"), graph)
    finish_model(half.model, replace(facts, precision="fp16"))
    path = bundle / f"{graph}.fp16.onnx"
    path.write_bytes(half.model.SerializeToString())
    files = {**manifest.files, path.name: describe_graph(path, graph, "fp16", half.inputs)}
    write_manifest(bundle, replace(manifest, files=files))


@pytest.fixture
def copy(half_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half_bundle, tmp_path / "h.taemi"))


def test_half_precision_is_rounded_op_by_op_and_plans_are_built_not_run(copy: Path) -> None:
    report = verify_bundle(copy, options=EngineOptions("cpu"))
    assert report.passed
    single, half, plan = report.engines
    assert (single.method, half.method, plan.method) == ("executed", "rounded", "not run")
    # ONNX Runtime's own kernels would keep float32 between nodes and come out closer than any GPU can.
    assert 1e-5 < half.outputs[0].max_abs < 2e-2
    assert half.outputs[0].padding is not None
    assert half.outputs[0].padding <= 2e-2
    assert "really rounded" in compared(half)
    assert "random weights" in compared(half)
    assert report.unrun == (plan,)
    assert "built, not run" in compared(plan)
    assert store_parity(report)
    parity = read_manifest(copy).parity
    assert parity["front.fp16.onnx"].method == "rounded"
    assert parity["front.fp16.onnx"].passed
    assert not parity["front.fp16.onnx"].trained
    assert parity["front.fp16.onnx"].outputs["features"].worst_case
    assert parity["front.fp16.plan"].method == "not run"
    assert not parity["front.fp16.plan"].passed
    assert parity["front.fp16.plan"].cases == 0


def test_what_another_machine_measured_of_a_plan_is_kept(copy: Path) -> None:
    report = verify_bundle(copy, options=EngineOptions("cpu"))
    store_parity(report)
    manifest = read_manifest(copy)
    ran = replace(
        manifest.parity["front.fp16.plan"], method="executed", passed=True, cases=9, device="cuda:0"
    )
    write_manifest(copy, replace(manifest, parity={**manifest.parity, "front.fp16.plan": ran}))
    store_parity(verify_bundle(copy, options=EngineOptions("cpu")))
    assert read_manifest(copy).parity["front.fp16.plan"] == ran


def test_large_graphs_are_searched_for_overflow(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taemi_export.method.SMALL_BYTES", 0)
    half = verify_bundle(copy, Path("front.fp16.onnx"), EngineOptions("cpu")).engines[0]
    assert half.passed
    assert half.method == "half-outputs"
    assert "none of which may be Inf or NaN" in explain("half-outputs")


def test_an_overflow_inside_fails_by_name_although_the_output_is_small(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy / "front.onnx"
    model = onnx.load(path)
    # Times 2^24 and back after the second convolution: exact in float32, Inf in half precision.
    nodes = list(model.graph.node)
    conv = [node for node in nodes if node.op_type == "Conv"][1]
    value, steps = conv.output[0], (12, 12, -12, -12)
    for node in nodes:
        for at, name in enumerate(node.input):
            if name == value:
                node.input[at] = f"{value}.4"
    chain = []
    for number, power in enumerate(steps, 1):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(2.0**power, np.float32), f"power{number}")
        )
        given = value if number == 1 else f"{value}.{number - 1}"
        chain.append(
            onnx.helper.make_node("Mul", [given, f"power{number}"], [f"{value}.{number}"], f"enlarge{number}")
        )
    at = nodes.index(conv) + 1
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *chain, *nodes[at:]])
    path.write_bytes(model.SerializeToString())
    manifest = read_manifest(copy)
    write_manifest(
        copy, replace(manifest, files={**manifest.files, "front.onnx": describe_graph(path, "front", "fp32")})
    )
    add_half(copy, "front", model)
    small = verify_bundle(copy, Path("front.fp16.onnx"), EngineOptions("cpu"))
    with pytest.raises(ParityError, match=r"front\.features.*values not finite"):
        small.require()
    monkeypatch.setattr("taemi_export.method.SMALL_BYTES", 0)
    large = verify_bundle(copy, Path("front.fp16.onnx"), EngineOptions("cpu"))
    overflow = [error for error in large.all_errors if "overflows half precision" in str(error)]
    assert len(overflow) == 1
    assert "enlarge2" in str(overflow[0])


def test_an_explicit_gpu_is_asked_for_in_earnest(copy: Path) -> None:
    assert choose_method(copy / "front.fp16.onnx", "fp16", EngineOptions("cuda")) == "executed"
    assert choose_method(copy / "front.fp16.onnx", "fp16", EngineOptions("cpu")) == "rounded"
    assert choose_method(copy / "front.onnx", "fp32", EngineOptions("cpu")) == "executed"
    assert choose_method(copy / "x.fp16.sm80.rtx.plan", "fp16", EngineOptions("cuda")) == "not run"
    with pytest.raises((DeviceError, Exception), match="cuda:7"):
        verify_bundle(copy, Path("front.fp16.onnx"), EngineOptions("cuda:7"))


@pytest.mark.parametrize(
    "name",
    ["front.onnx", "front.fp16.onnx", "front.fp16.plan", "front.fp16.plan.json", "words.json"],
)
def test_one_byte_is_refused_with_both_digests_before_anything_reads_the_file(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: its SHA-256 is \w{{64}}, the manifest says \w{{64}}"):
        Bundle.open(copy).file(name)
    report = verify_bundle(copy, options=EngineOptions("cpu"))
    assert [str(error) for error in report.all_errors if name in str(error) and "SHA-256" in str(error)]
    damaged = [engine for engine in report.engines if engine.file == name]
    assert all(engine.cases == 0 and not engine.backend for engine in damaged)


def test_every_single_byte_of_a_manifest_counts(copy: Path) -> None:
    path = copy / "manifest.json"
    content = path.read_bytes()
    digest_at = content.rindex(b'"digest"')
    # Some of everywhere, and all of its own digest.
    places = [*range(0, len(content), 97), *range(digest_at, digest_at + 78)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError, match=r"cannot open bundle.*taemi-export onnx CKPT --force"):
            Bundle.open(copy)
    with pytest.raises(BundleError):
        open_model(copy)
    path.write_bytes(content.replace(b'"rate": 100', b'"rate": 101'))
    with pytest.raises(
        BundleError, match=r"the SHA-256 of manifest\.json is \w{64}, it says \w{64} of itself"
    ):
        Bundle.open(copy)
    path.write_bytes(content)
    assert Bundle.open(copy).manifest.preprocessing == {"rate": 100}


def test_operators_of_every_graph_are_in_the_manifest(copy: Path) -> None:
    files = read_manifest(copy).files
    for name in ("front.onnx", "front.fp16.onnx"):
        counted: dict[str, int] = {}
        for node in onnx.load(copy / name).graph.node:
            counted[node.op_type] = counted.get(node.op_type, 0) + 1
        assert files[name].operators == counted
    assert files["front.onnx"].operators["Conv"] == 2
    assert files["words.json"].operators == {}
