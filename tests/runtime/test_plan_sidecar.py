"""What a plan says of itself, and every plan that is refused before it is deserialised."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError, DeviceError, EngineError, InputError
from taemi_runtime.host import cuda_driver
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import describe_file, file_sha256, read_manifest
from taemi_runtime.plan_sidecar import (
    Execution,
    PlanHost,
    PlanProfile,
    PlanSidecar,
    ShapeRange,
    check_host,
    choose_profile,
    format_sidecar,
    read_sidecar,
    read_sidecar_beside,
    sidecar_name,
)
from tests.runtime.tiny_bundle import save_manifest

ONE = PlanProfile(
    "one", {"x": ShapeRange((1, 1), (1, 100), (1, 500)), "on": ShapeRange((1, 2), (1, 2), (1, 2))}
)
BATCH = PlanProfile(
    "batch", {"x": ShapeRange((1, 1), (8, 100), (32, 500)), "on": ShapeRange((1, 2), (8, 2), (32, 2))}
)
LONG = PlanProfile(
    "long", {"x": ShapeRange((1, 1), (1, 500), (1, 500)), "on": ShapeRange((1, 2), (1, 2), (1, 2))}
)
SIDECAR = PlanSidecar(
    plan="fp16.plan",
    plan_sha256="0" * 64,
    plan_bytes=4,
    library="tensorrt",
    library_version="11.4.1.2",
    graph="fusion",
    source="fusion.onnx",
    source_sha256="1" * 64,
    precision="fp16",
    layer_types={"float16": 20, "float32": 3},
    target="current",
    compute_capability="8.0",
    compatibility="same-compute-capability",
    profiles=(ONE, BATCH, LONG),
    inputs={"x": "float16", "on": "bool"},
    outputs={"y": "float32"},
    tf32=False,
    workspace_bytes=1 << 30,
    device="NVIDIA A100-SXM4-80GB",
    driver="13.0",
)
A800 = PlanHost("tensorrt", "11.4.1.2", "8.0", "13.1")


def put_plan(folder, content=b"plan", **changes):
    """Put a plan with its sidecar into a bundle, listed as the builder lists them."""
    path = folder / "fp16.plan"
    path.write_bytes(content)
    sidecar = replace(
        SIDECAR,
        plan_sha256=file_sha256(path),
        plan_bytes=len(content),
        source_sha256=file_sha256(folder / "fusion.onnx"),
        **changes,
    )
    beside = folder / sidecar_name(path.name)
    beside.write_text(format_sidecar(sidecar))
    files = dict(read_manifest(folder).files)
    files[path.name] = describe_file(path, graph="fusion", precision="fp16")
    files[beside.name] = describe_file(beside)
    save_manifest(folder, files=files)
    return path, beside, sidecar


def test_a_sidecar_comes_back_as_it_was_written(make_bundle):
    folder = make_bundle().folder
    path, _, written = put_plan(
        folder, executed=Execution("A100", "8.0", "13.0", "11.4.1.2", "2026-01-02T03:04:05")
    )
    assert read_sidecar(Bundle.open(folder), path.name) == written
    assert read_sidecar_beside(path) == written
    assert written.state == "executed on A100 (compute capability 8.0) on 2026-01-02"


def test_a_new_plan_was_never_executed():
    assert SIDECAR.state == "built, never executed"
    assert SIDECAR.words() == "a plan of TensorRT 11.4.1.2 for compute capability 8.0 (built, never executed)"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("place", [0, -2])
def test_one_changed_byte_is_refused_before_anything_is_read(make_bundle, which, place):
    folder = make_bundle().folder
    path = put_plan(folder)[which]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_sidecar(Bundle.open(folder), "fp16.plan")
    listed = read_manifest(folder).files[path.name].sha256
    assert file_sha256(path) in caught.value.found
    assert listed in caught.value.found
    assert str(path) in caught.value.asked


def test_a_plan_with_another_plans_sidecar_is_refused(make_bundle):
    folder = make_bundle().folder
    path, beside, sidecar = put_plan(folder)
    beside.write_text(format_sidecar(replace(sidecar, plan_sha256="f" * 64)))
    files = dict(read_manifest(folder).files)
    files[beside.name] = describe_file(beside)
    save_manifest(folder, files=files)
    with pytest.raises(BundleError, match=f"its sidecar is of {'f' * 64}.*taemi-export tensorrt {folder}"):
        read_sidecar(Bundle.open(folder), path.name)
    with pytest.raises(BundleError, match=f"its sidecar says {'f' * 64}"):
        read_sidecar_beside(path)


def test_a_plan_of_a_graph_that_changed_is_refused(make_bundle):
    folder = make_bundle().folder
    path, _, sidecar = put_plan(folder)
    source = folder / "fusion.onnx"
    source.write_bytes(source.read_bytes() + b"\x00")
    files = dict(read_manifest(folder).files)
    files[source.name] = describe_file(source, graph="fusion", precision="fp32")
    save_manifest(folder, files=files)
    with pytest.raises(BundleError) as caught:
        read_sidecar(Bundle.open(folder), path.name)
    assert sidecar.source_sha256 in caught.value.found
    assert files[source.name].sha256 in caught.value.found
    del files[source.name]
    save_manifest(folder, files=files)
    with pytest.raises(BundleError, match="which now is not in the bundle"):
        read_sidecar(Bundle.open(folder), path.name)


def test_a_sidecar_that_contradicts_the_manifest_is_refused(make_bundle):
    folder = make_bundle().folder
    path, _, _ = put_plan(folder, precision="fp32")
    with pytest.raises(BundleError, match="says graph 'fusion' in fp32, the manifest 'fusion' in fp16"):
        read_sidecar(Bundle.open(folder), path.name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(schema=2), "its schema is 2, this taemi reads 1"),
        (lambda data: data.update(speed=9), "unknown field speed"),
        (lambda data: data.pop("library"), "missing required field `library`"),
        (lambda data: data.update(library="tensorflow"), "Invalid enum value 'tensorflow'"),
        (lambda data: data.update(profiles=[]), "at least one optimisation profile"),
        (lambda data: data.update(compute_capability="A100"), "no compute capability: 'A100'"),
        (lambda data: data["profiles"][0]["inputs"]["x"].update(minimum=[2, 1]), "no range of shapes"),
    ],
)
def test_reading_is_strict(tmp_path, change, said):
    plan = tmp_path / "fp16.plan"
    plan.write_bytes(b"plan")
    data = json.loads(format_sidecar(SIDECAR))
    change(data)
    plan.with_name("fp16.plan.json").write_text(json.dumps(data))
    with pytest.raises(BundleError) as caught:
        read_sidecar_beside(plan)
    assert said in str(caught.value)


def test_a_plan_alone_is_refused(tmp_path):
    (tmp_path / "a.plan").write_bytes(b"plan")
    with pytest.raises(BundleError, match="nothing else says what runs the plan"):
        read_sidecar_beside(tmp_path / "a.plan")


@pytest.mark.parametrize(
    "host",
    [
        A800,
        # The fourth number counts builds of one release.
        replace(A800, library_version="11.4.1.9"),
        replace(A800, driver=""),
    ],
)
def test_one_plan_serves_a100_and_a800(host):
    assert check_host(SIDECAR, host) == ()


@pytest.mark.parametrize(
    ("sidecar", "host", "built", "here"),
    [
        (
            SIDECAR,
            replace(A800, library="tensorrt_rtx", library_version="1.7.1"),
            "TensorRT 11.4.1.2",
            "RTX 1.7.1",
        ),
        (
            replace(SIDECAR, library="tensorrt_rtx", library_version="1.7.1.116"),
            A800,
            "TensorRT for RTX 1.7.1.116",
            "TensorRT 11.4.1.2",
        ),
        (SIDECAR, replace(A800, library_version="11.4.2.2"), "TensorRT 11.4.1.2", "TensorRT 11.4.2.2"),
        (SIDECAR, replace(A800, library_version="10.12.0.36"), "TensorRT 11.4.1.2", "TensorRT 10.12.0.36"),
        (SIDECAR, replace(A800, compute_capability="9.0"), "compute capability 8.0", "this GPU has 9.0"),
        (SIDECAR, replace(A800, compute_capability="8.6"), "compute capability 8.0", "this GPU has 8.6"),
        (
            replace(SIDECAR, compatibility="ampere-plus"),
            replace(A800, compute_capability="7.5"),
            "compute capability 8.0 or later",
            "this GPU has 7.5",
        ),
    ],
)
def test_a_plan_that_cannot_run_here_is_refused_with_both_values(sidecar, host, built, here):
    with pytest.raises(EngineError) as caught:
        check_host(sidecar, host)
    assert built in caught.value.found
    assert here in caught.value.found
    assert "taemi-export tensorrt BUNDLE --precision fp16" in caught.value.fix


def test_ampere_plus_runs_on_later_gpus_and_an_older_driver_is_a_remark():
    wide = replace(SIDECAR, compatibility="ampere-plus")
    assert check_host(wide, replace(A800, compute_capability="9.0")) == ()
    assert check_host(SIDECAR, replace(A800, driver="12.8")) == (
        "fp16.plan was built under a driver for CUDA 13.0; this one supports CUDA 12.8",
    )


@pytest.mark.parametrize(
    ("x", "on", "expected"),
    [((1, 90), (1, 2), 0), ((1, 480), (1, 2), 2), ((2, 50), (2, 2), 1), ((32, 500), (32, 2), 1)],
)
def test_a_call_gets_the_profile_that_is_tuned_nearest_to_it(x, on, expected):
    assert choose_profile(SIDECAR, {"x": x, "on": on}) == expected


def test_shapes_outside_every_profile_are_refused_with_the_ranges():
    with pytest.raises(InputError) as caught:
        choose_profile(SIDECAR, {"x": (33, 100), "on": (33, 2)})
    assert "x 33x100 is outside 1x1:8x100:32x500 of profile batch" in caught.value.found
    assert "x 33x100 is outside 1x1:1x100:1x500 of profile one" in caught.value.found
    with pytest.raises(InputError, match="on 1x3 is outside 1x2:1x2:1x2"):
        choose_profile(SIDECAR, {"x": (1, 100), "on": (1, 3)})


@pytest.mark.skipif(not cuda_driver().why, reason="this machine has a GPU")
def test_the_runtime_says_what_a_plan_is_and_what_runs_instead(make_bundle):
    folder = make_bundle().folder
    path, _, _ = put_plan(folder)
    with pytest.raises(DeviceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"cannot run {path}: it is a plan of TensorRT 11.4.1.2 for compute capability 8.0 (built, never "
        f"executed), and {cuda_driver().why}. The same graph runs here with --engine {folder / 'fusion.onnx'}"
    )
    path.write_bytes(b"plam")
    with pytest.raises(BundleError, match="its SHA-256 is"):
        open_model(path)
