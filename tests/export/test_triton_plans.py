"""Plans in a Triton repository. Their bytes are planted: only the server deserialises a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taemi_export.bundle_writer import write_manifest
from taemi_export.triton import export_triton
from taemi_export.triton_config import Serving
from taemi_runtime.errors import BundleError, ExportError, UsageError
from taemi_runtime.manifest import describe_file, read_manifest
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, ShapeRange, format_sidecar
from tests.export.triton_server import messages, parse_config, warmup_arrays

Ranges = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
# Batch, tokens, steps of each profile.
WIDE: Ranges = ((1, 8, 32), (1, 9, 40), (1, 12, 60))
SINGLE: Ranges = ((1, 1, 1), (1, 9, 40), (1, 12, 60))
SHORT: Ranges = ((1, 16, 48), (1, 9, 20), (1, 12, 30))
Plant = Callable[..., str]


def profile(name: str, ranges: Ranges) -> PlanProfile:
    batch, tokens, steps = ranges

    def span(*axes: tuple[int, int, int]) -> ShapeRange:
        low, best, high = zip(*axes, strict=True)
        return ShapeRange(low, best, high)

    two = (2, 2, 2)
    return PlanProfile(
        name,
        {
            "ids": span(batch, tokens),
            "ids_mask": span(batch, tokens),
            "frames": span(batch, steps, (6, 6, 6)),
            "frames_mask": span(batch, steps),
            "given": span(batch, two),
        },
    )


@pytest.fixture
def plant(bundle: Path) -> Plant:
    """Put a plan with its sidecar into the toy bundle."""

    def put(name: str = "fp16.plan", *profiles: Ranges, library: str = "tensorrt") -> str:
        (bundle / name).write_bytes(f"planted {name}".encode())
        manifest = read_manifest(bundle)
        entry = describe_file(bundle / name, graph="tagger", precision="fp16", inputs={"frames": "float16"})
        kinds = {"ids": "int64", "ids_mask": "bool", "frames_mask": "bool", "given": "bool"}
        sidecar = PlanSidecar(
            plan=name,
            plan_sha256=entry.sha256,
            plan_bytes=entry.bytes,
            library=library,  # type: ignore[arg-type]
            library_version="11.4.1.3",
            graph="tagger",
            source="tagger.onnx",
            source_sha256=manifest.files["tagger.onnx"].sha256,
            precision="fp16",
            layer_types={"float16": 3},
            target="current",
            compute_capability="8.0",
            compatibility="same-compute-capability",
            profiles=tuple(profile(f"p{index}", one) for index, one in enumerate(profiles or (WIDE,))),
            inputs={**kinds, "frames": "float16"},
            outputs={"tags": "float32"},
            tf32=False,
            workspace_bytes=2**30,
        )
        beside = bundle / f"{name}.json"
        beside.write_text(format_sidecar(sidecar))
        files = {**manifest.files, name: entry, beside.name: describe_file(beside)}
        write_manifest(bundle, replace(manifest, files=files))
        return name

    return put


def test_plan_and_graph_stand_side_by_side(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", WIDE)
    lines: list[str] = []
    out = export_triton(bundle, tmp_path / "m", say=lines.append)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["toy", "toy_plan"]
    assert (out / "toy_plan/1/model.plan").read_bytes() == b"planted fp16.plan"
    config = parse_config(out / "toy_plan")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.max_batch_size == 32
    types = {item.name: messages().DataType.Name(item.data_type) for item in (*config.input, *config.output)}
    assert types["frames"] == "TYPE_FP16"
    assert types["tags"] == "TYPE_FP32"
    (group,) = config.instance_group
    assert group.kind == messages().ModelInstanceGroup.Kind.Value("KIND_GPU")
    assert list(group.profile) == ["0"]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.parameters["taemi_library"].string_value == "tensorrt 11.4.1.3"
    assert config.parameters["taemi_state"].string_value == "built, never executed"
    assert "arena_extend_strategy" not in config.parameters
    assert not config.HasField("optimization")
    assert len(lines) == 2
    assert "no plan" not in " ".join(lines)
    page = (out / "README.md").read_text()
    assert "tensorrt 11.4.1.3" in page
    assert "`toy_plan`" in page


def test_warm_up_stays_inside_the_profiles(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", SINGLE, WIDE, SHORT)
    out = export_triton(bundle, tmp_path / "m", engines=("fp16.plan",))
    config = parse_config(out / "toy_plan")
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]
    samples = {sample.name: sample for sample in config.model_warmup}
    assert len(samples) == 6
    profiles = [profile("", ranges) for ranges in (SINGLE, WIDE, SHORT)]
    for sample in samples.values():
        arrays = warmup_arrays(out / "toy_plan", sample, batched=True)
        assert arrays["frames"].dtype == np.float16
        assert any(
            all(one.inputs[name].holds(array.shape) for name, array in arrays.items()) for one in profiles
        ), sample.name
    assert samples["p1-tuned"].batch_size == 8


def test_what_may_be_batched_fits_one_profile(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    # Batches of 48 exist for short input only: a server that joined 48 long ones would fail them all.
    plant("fp16.plan", SINGLE, WIDE, SHORT)
    config = parse_config(export_triton(bundle, tmp_path / "a", engines=("fp16.plan",)) / "toy_plan")
    assert config.max_batch_size == 32
    assert "`steps`: 1, 12, 60" in (tmp_path / "a/README.md").read_text()
    out = export_triton(bundle, tmp_path / "b", engines=("fp16.plan",), serving=Serving(max_batch=48))
    assert parse_config(out / "toy_plan").max_batch_size == 48
    assert "`steps`: 1, 12, 30" in (out / "README.md").read_text()
    with pytest.raises(UsageError, match="at most 48"):
        export_triton(bundle, tmp_path / "c", engines=("fp16.plan",), serving=Serving(max_batch=49))


def test_clients_of_both_models_keep_to_the_narrower_one(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", SHORT)
    out = export_triton(bundle, tmp_path / "m")
    assert "`tokens`: 1, 9, 20" in (out / "README.md").read_text()
    assert parse_config(out / "toy").max_batch_size == 64


def test_cuda_graphs_are_captured_at_the_tuned_shapes(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", SINGLE, WIDE)
    serving = Serving(cuda_graphs=True)
    config = parse_config(export_triton(bundle, tmp_path / "m", serving=serving) / "toy_plan")
    assert config.optimization.cuda.graphs
    specs = config.optimization.cuda.graph_spec
    assert [spec.batch_size for spec in specs] == [1, 8]
    assert [list(spec.input["frames"].dim) for spec in specs] == [[12, 6], [12, 6]]
    assert [list(spec.input["given"].dim) for spec in specs] == [[2], [2]]


def test_a_tuned_shape_that_is_another_profiles_largest_still_gets_its_graph(
    bundle: Path, plant: Plant, tmp_path: Path
) -> None:
    plant("fp16.plan", SINGLE, ((1, 1, 1), (1, 40, 40), (1, 60, 60)))
    serving = Serving(cuda_graphs=True)
    config = parse_config(export_triton(bundle, tmp_path / "m", serving=serving) / "toy_plan")
    specs = config.optimization.cuda.graph_spec
    assert [list(spec.input["ids"].dim) for spec in specs] == [[9], [40]]
    assert [sample.name for sample in config.model_warmup] == ["p0-tuned", "p1-tuned"]


def test_a_plan_that_takes_no_single_row_is_refused(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", ((4, 8, 32), (1, 9, 40), (1, 12, 60)))
    with pytest.raises(ExportError, match="smallest batch is 4"):
        export_triton(bundle, tmp_path / "m")


def test_a_plan_for_rtx_is_left_out_or_refused_by_name(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    name = plant("fp16.rtx.plan", library="tensorrt_rtx")
    lines: list[str] = []
    out = export_triton(bundle, tmp_path / "m", say=lines.append)
    assert not (out / "toy_plan").exists()
    assert f"{name} is of TensorRT for RTX" in lines[-1]
    assert f"taemi-export tensorrt {bundle}" in lines[-1]
    with pytest.raises(UsageError, match=r"TensorRT for RTX 11\.4\.1\.3.*TensorRT only"):
        export_triton(bundle, tmp_path / "n", engines=(name,))


def test_the_sidecar_and_not_the_name_says_which_library(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.plan", library="tensorrt_rtx")
    with pytest.raises(UsageError, match="TensorRT for RTX"):
        export_triton(bundle, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_plans_for_other_gpus_wait_to_be_named(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    plant("fp16.sm80.plan")
    plant("fp16.h100.plan")
    lines: list[str] = []
    out = export_triton(bundle, tmp_path / "m", say=lines.append)
    assert not list(out.glob("*/1/model.plan"))
    assert "fp16.sm80.plan, fp16.h100.plan" in lines[-1]
    out = export_triton(bundle, tmp_path / "n", engines=("fp16.sm80.plan", str(bundle / "fp16.h100.plan")))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["toy_h100_plan", "toy_sm80_plan"]


def test_a_changed_plan_is_refused(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    name = plant()
    (bundle / name).write_bytes(b"PLANTED fp16.plan")
    with pytest.raises(BundleError, match="SHA-256"):
        export_triton(bundle, tmp_path / "m")
    assert not any(path.name.startswith((".m", "m")) for path in tmp_path.iterdir())


def test_a_plan_on_a_cpu_is_left_out_or_refused_by_name(bundle: Path, plant: Plant, tmp_path: Path) -> None:
    name = plant()
    out = export_triton(bundle, tmp_path / "m", serving=Serving(device="cpu"))
    assert not (out / "toy_plan").exists()
    with pytest.raises(UsageError, match="--device is cpu"):
        export_triton(bundle, tmp_path / "n", engines=(name,), serving=Serving(device="cpu"))
