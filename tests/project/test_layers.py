"""The architecture's rules, read from the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "taemi_runtime": ROOT / "runtime" / "taemi_runtime",
    "taemi": ROOT / "taemi",
    "taemi_export": ROOT / "export" / "taemi_export",
    "taemi_bench": ROOT / "benchmarks" / "taemi_bench",
}
# Each may import what stands before it, never what stands after it.
ORDER = tuple(FOLDERS)
HEAVY = {"torch", "transformers", "onnx", "onnxscript"}


def modules(package: str) -> list[Path]:
    return sorted(FOLDERS[package].rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere, lazy imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_downwards_only(package):
    above = set(ORDER[ORDER.index(package) + 1 :])
    assert modules(package)
    offenders = {str(path): imported(path) & above for path in modules(package) if imported(path) & above}
    assert not offenders


def test_the_runtime_never_imports_the_training_stack():
    offenders = {
        str(path): imported(path) & HEAVY for path in modules("taemi_runtime") if imported(path) & HEAVY
    }
    assert not offenders


@pytest.mark.parametrize("package", ["taemi_export", "taemi_bench"])
def test_generic_packages_name_no_modality_and_no_emotion(package):
    words = re.compile(
        r"(?<![a-z])(audio|vision|video|transcript|waveform|admiration|amusement|empathic|excitement|joy\b)",
        re.IGNORECASE,
    )
    for path in modules(package):
        found = words.search(path.read_text())
        assert found is None, f"{path.name} names {found.group()!r}"


@pytest.mark.parametrize("folder", ["export", "runtime", "benchmarks", "tests"])
def test_component_folders_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", ORDER)
def test_packages_ship_their_types(package):
    assert (FOLDERS[package] / "py.typed").is_file()
