"""Which library, which GPU, which file name; and every one that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from taemi_export.plans import library as library_module
from taemi_export.plans.library import Gpu, open_library, why_not_here
from taemi_export.plans.targets import (
    GPUS,
    RTX_CAPABILITIES,
    Target,
    parse_target,
    plan_name,
    resolve_target,
    sm_name,
)
from taemi_runtime.errors import DeviceError, MissingExtraError, UsageError

A100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), "13.0")
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), "13.0")
V100 = Gpu("Tesla V100", (7, 0), "12.8")


@pytest.mark.parametrize(
    ("text", "name", "capability"),
    [
        ("sm80", "sm80", (8, 0)),
        ("SM_80", "sm80", (8, 0)),
        ("A800", "sm80", (8, 0)),
        ("sm120", "sm120", (12, 0)),
    ],
)
def test_gpus_and_compute_capabilities_are_one_target(
    text: str, name: str, capability: tuple[int, int]
) -> None:
    for choice in ("tensorrt", "rtx"):
        assert parse_target(text, choice) == Target(name, capability)


def test_one_plan_serves_a100_and_a800() -> None:
    assert parse_target("a100", "rtx") == parse_target("a800", "rtx")
    assert parse_target("a100", "rtx").compatibility == "same-compute-capability"


@pytest.mark.parametrize("text", ["sm90", "h100", "b200", "sm70"])
def test_what_rtx_has_no_code_for_is_refused_in_one_sentence_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text, "rtx")
    assert text in caught.value.asked
    assert (
        "no code for that compute capability, only for sm75, sm80, sm86, sm89, sm120, sm121"
        in caught.value.found
    )
    assert "taemi-export tensorrt BUNDLE" in caught.value.fix
    assert parse_target(text, "tensorrt").capability is not None


@pytest.mark.parametrize("text", ["gpu", "a1000", "sm8", "", "sm8000"])
def test_an_unknown_target_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"there is no such target.*current, ampere-plus, smNN, t4, a100"):
        parse_target(text, "tensorrt")


def test_rtx_compiles_for_named_architectures_only() -> None:
    with pytest.raises(UsageError, match="--target sm80"):
        parse_target("ampere-plus", "rtx")
    with pytest.raises(UsageError, match=r"there is none\. Name the target: --target sm75 or sm80"):
        resolve_target(parse_target("current", "rtx"), "rtx", None)
    with pytest.raises(UsageError, match="this machine's NVIDIA H100"):
        resolve_target(parse_target("current", "rtx"), "rtx", H100)
    assert resolve_target(parse_target("sm89", "rtx"), "rtx", None) == Target("sm89", (8, 9))


def test_tensorrt_compiles_for_the_gpu_that_is_here_only() -> None:
    assert resolve_target(parse_target("current", "tensorrt"), "tensorrt", A100) == Target("current", (8, 0))
    assert resolve_target(parse_target("a800", "tensorrt"), "tensorrt", A100) == Target("sm80", (8, 0))
    with pytest.raises(DeviceError, match=r"this one, NVIDIA H100 80GB HBM3, is sm90"):
        resolve_target(parse_target("a100", "tensorrt"), "tensorrt", H100)


def test_ampere_plus_is_built_on_ampere_or_later() -> None:
    wide = parse_target("ampere-plus", "tensorrt")
    assert resolve_target(wide, "tensorrt", H100) == Target("ampere-plus", (9, 0), "ampere-plus")
    with pytest.raises(DeviceError, match="Tesla V100, is sm70"):
        resolve_target(wide, "tensorrt", V100)


def test_names_of_plans() -> None:
    current, sm80 = Target("current", (8, 0)), Target("sm80", (8, 0))
    wide = Target("ampere-plus", (8, 0), "ampere-plus")
    assert plan_name("fusion", "fp16", current, "tensorrt", first=True) == "fp16.plan"
    assert plan_name("audio", "fp16", current, "tensorrt", first=False) == "audio.fp16.plan"
    assert plan_name("fusion", "fp32", sm80, "rtx", first=True) == "fp32.sm80.rtx.plan"
    assert plan_name("text", "fp16", sm80, "rtx", first=False) == "text.fp16.sm80.rtx.plan"
    assert plan_name("fusion", "fp16", wide, "tensorrt", first=True) == "fp16.ampere-plus.plan"


@pytest.mark.tensorrt
def test_the_table_of_rtx_is_what_the_installed_library_knows() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    known = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert {sm_name(capability).upper() for capability in RTX_CAPABILITIES} == known
    assert (9, 0) in GPUS.values()


def test_a_library_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"tensorrt: it is not installed.*taemi\[tensorrt\].*extra-index-url"
    ):
        open_library("tensorrt")
    with pytest.raises(MissingExtraError, match=r'pip install "taemi\[rtx\]"'):
        open_library("rtx")


def make_package(folder: Path, content: str | None) -> None:
    package = folder / "tensorrt"
    package.mkdir()
    if content is not None:
        (package / "__init__.py").write_text(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        # What type stubs leave behind: a folder that imports as an empty namespace package.
        (None, "it is not installed"),
        (
            "raise ImportError('libnvinfer.so.11: cannot open shared object file')",
            "does not import (libnvinfer.so.11",
        ),
        ("__version__ = '11.4.0'", "does not import (module 'tensorrt' has no attribute 'Builder')"),
        (
            "class Builder: pass\n__version__ = '10.11.0.33'",
            "it is version 10.11.0.33, and 10.12 is the oldest",
        ),
    ],
)
def test_placeholders_broken_and_old_packages_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    make_package(tmp_path, content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError) as caught:
        open_library("tensorrt")
    sys.modules.pop("tensorrt", None)
    assert said in str(caught.value)
    assert "docs/deploy.md" in caught.value.fix


def test_tensorrt_without_a_gpu_is_told_apart_from_no_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    make_package(tmp_path, "class Builder: pass\n__version__ = '11.4.1.2'")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        library_module, "cuda_driver", lambda: SimpleNamespace(why="there is no CUDA driver", devices=())
    )
    monkeypatch.setattr(library_module, "compute_capability", lambda: None)
    error = why_not_here("tensorrt")
    assert isinstance(error, DeviceError)
    assert "it compiles for the GPU that it runs on, and there is no CUDA driver" in str(error)
    driver = SimpleNamespace(why="", devices=("NVIDIA A100",), version="13.0")
    monkeypatch.setattr(library_module, "cuda_driver", lambda: driver)
    monkeypatch.setattr(library_module, "compute_capability", lambda: (8, 0))
    assert why_not_here("tensorrt") is None
    assert open_library("tensorrt").version == "11.4.1.2"
    sys.modules.pop("tensorrt", None)
