"""Every TensorRT name that the code uses exists: in the installed TensorRT for RTX, and in TensorRT's stubs.

TensorRT itself needs a GPU and cannot be installed where most tests run. Its stubs can, beside the
environment (see the Makefile's target ``types``), and mypy then checks every call against them.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taemi_export
import taemi_runtime
from taemi_export.plans import library

PLANS = Path(library.__file__).parent
STUBS = Path(sys.prefix) / "tensorrt-stubs"

# How the code calls what the library makes. A name on any of these must be a member of the class.
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "layer": "ILayer",
}
# Attributes of our own classes that are called like the library's objects.
OURS = {
    "cache": {"give", "keep", "path"},
    "profile": {"inputs", "name"},
    "layer": {"__class__", "attention"},
}


def chains(tree: ast.AST) -> set[tuple[str, ...]]:
    """Return every dotted name, e.g. ("trt", "MemoryPoolType", "WORKSPACE")."""
    found = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        here: ast.AST = node
        while isinstance(here, ast.Attribute):
            parts.append(here.attr)
            here = here.value
        if isinstance(here, ast.Name) and parts:
            found.add((here.id, *reversed(parts)))
    return found


def used() -> tuple[set[tuple[str, ...]], set[tuple[str, str]]]:
    """Return the names that are used on the module, and those on its objects."""
    names: set[tuple[str, ...]] = set()
    members: set[tuple[str, str]] = set()
    for path in PLANS.glob("*.py"):
        for head, *rest in chains(ast.parse(path.read_text())):
            if head in ("trt", "tensorrt"):
                names.add(tuple(rest))
            elif head == "library" and rest[0] == "module" and len(rest) > 1:
                names.add(tuple(rest[1:]))
            elif head == "self" and len(rest) > 1 and rest[0] in OBJECTS:
                members.add((rest[0], rest[1]))
            elif head in OBJECTS and rest[0] not in OURS.get(head, ()):
                members.add((head, rest[0]))
    return names, members


def test_the_collector_sees_what_the_code_says() -> None:
    names, members = used()
    assert ("MemoryPoolType", "WORKSPACE") in names
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in names
    assert ("builder", "build_serialized_network") in members
    assert ("config", "set_memory_pool_limit") in members
    assert ("profile", "set_shape") in members
    assert chains(ast.parse("trt.A.B(trt.C)")) >= {("trt", "A", "B"), ("trt", "C")}


def missing(module: Any, names: set[tuple[str, ...]], members: set[tuple[str, str]]) -> list[str]:
    absent = []
    for chain in sorted(names):
        here: Any = module
        for part in chain:
            if not hasattr(here, part):
                absent.append(".".join(chain))
                break
            here = getattr(here, part)
    for owner, member in sorted(members):
        kinds = [OBJECTS[owner], "IAttention"] if owner == "layer" else [OBJECTS[owner]]
        if not any(hasattr(getattr(module, kind), member) for kind in kinds):
            absent.append(f"{OBJECTS[owner]}.{member}")
    return absent


@pytest.mark.tensorrt
def test_every_name_resolves_in_tensorrt_for_rtx() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    names, members = used()
    assert missing(module, names, members) == []
    assert missing(module, {("BuilderFlag", "FP16")}, {("config", "int8_calibrator")}) == [
        "BuilderFlag.FP16",
        "IBuilderConfig.int8_calibrator",
    ], "what TensorRT 11 removed would be found"


@pytest.mark.tensorrt
def test_optional_names_are_asked_for_by_data_and_exist_where_they_mean_something() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    rtx = library.Library("rtx", module)
    assert rtx.optional("ComputeCapability") is module.ComputeCapability
    assert rtx.optional("HardwareCompatibilityLevel") is None, "it is there and means nothing"
    # The other library's view of the same names.
    other = library.Library("tensorrt", module)
    assert other.optional("ComputeCapability") is None
    levels: Any = other.optional("HardwareCompatibilityLevel")
    assert {"SAME_COMPUTE_CAPABILITY", "AMPERE_PLUS"} <= set(levels.__members__)


def repaired_stubs(folder: Path) -> Path:
    """Copy the stubs without what is no Python in them: a parameter ``in``, a default out of order."""
    for name in ("tensorrt", "tensorrt_bindings"):
        shutil.copytree(STUBS / name, folder / name)
        (folder / name / "py.typed").touch()
    path = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"\bin: list\[", "in_: list[", path.read_text())
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if re.search(r"= [^,()]+, \w+: [^=]+\) -> ", line) and "def " in line:
            lines[number] = re.sub(r"\(self.*\) ->", "(self, *args: Any, **kwargs: Any) ->", line)
    path.write_text("".join(lines))
    return folder


def run_mypy(folder: Path, stubs: Path, *files: Path) -> list[str]:
    config = folder / "mypy.ini"
    roots = [stubs, PLANS.parents[1], Path(taemi_runtime.__file__).parents[1], PLANS.parents[2]]
    config.write_text(
        "[mypy]\npython_version = 3.11\nstrict = true\nexplicit_package_bases = true\n"
        "disallow_untyped_calls = false\nignore_missing_imports = true\nfollow_imports = silent\n"
        f"mypy_path = {':'.join(map(str, roots))}\ncache_dir = {folder / 'cache'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(config), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert "prevented further checking" not in done.stdout, done.stdout
    # The stubs have defects of their own, which are none of ours.
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    return [line for line in lines if not (folder / line.partition(":")[0]).resolve().is_relative_to(stubs)]


@pytest.mark.slow
@pytest.mark.skipif(not STUBS.is_dir(), reason="tensorrt-stubs is not installed: make types")
def test_mypy_agrees_with_the_stubs_of_tensorrt(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    assert Path(taemi_export.__file__).parent == PLANS.parent
    stubs = repaired_stubs(tmp_path / "stubs")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n"
        "def f(builder: trt.Builder, config: trt.IBuilderConfig) -> None:\n"
        "    config.set_flag(trt.BuilderFlag.NO_SUCH_FLAG)\n"
        "    builder.build_engine_of_tensorrt_7(config)\n"
    )
    ours = sorted(path for path in PLANS.glob("*.py"))
    errors = run_mypy(tmp_path, stubs, wrong, *ours)
    planted = [line for line in errors if line.startswith("wrong.py")]
    assert len(planted) == 2, "the check can fail"
    assert [line for line in errors if line not in planted] == []
