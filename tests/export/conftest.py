"""The toy family, and one exported bundle of it that tests copy before they damage it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from taemi_export.cli import main

HERE = Path(__file__).parent


def _by_path(name: str) -> ModuleType:
    """Import a module beside this one by its path: tests also run against an installed wheel."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module toy_family."""
    return _by_path("toy_family")


@pytest.fixture(scope="session")
def graphs() -> ModuleType:
    """The module half_graphs: float32 networks with defects that only half precision has."""
    return _by_path("half_graphs")


@pytest.fixture(scope="session")
def exported(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the toy family; read only."""
    from taemi_export import export_onnx

    return export_onnx(toy.toy_source(), tmp_path_factory.mktemp("exported") / "toy.taemi")


@pytest.fixture(scope="session")
def other_front(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph ``front`` with other weights: same description, other numbers."""
    from taemi_export.bundle_writer import write_graph

    source = toy.toy_source(seed=8)
    folder = tmp_path_factory.mktemp("other")
    return folder / write_graph(folder, source.graphs[1], source, debug=False).file


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to do anything with."""
    return Path(shutil.copytree(exported, tmp_path / "toy.taemi"))


@pytest.fixture
def tamper() -> Callable[..., None]:
    """Change one weight of an exported graph, by default with the manifest brought into line."""

    def change(
        bundle: Path, file: str, weight: str, place: tuple[int, ...], *, manifest: bool = True
    ) -> None:
        path = bundle / file
        model = onnx.load(path)
        tensor = next(item for item in model.graph.initializer if item.name == weight)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[place] = np.nextafter(array[place], np.float32(9))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, weight))
        path.write_bytes(model.SerializeToString())
        if manifest:
            _relist(bundle, file)

    return change


def _relist(bundle: Path, file: str) -> None:
    content = (bundle / file).read_bytes()
    data = json.loads((bundle / "manifest.json").read_text())
    data["files"][file] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    # Somebody who changes a manifest by hand can leave its digest out; a damaged one cannot.
    data["digest"] = ""
    (bundle / "manifest.json").write_text(json.dumps(data))


@pytest.fixture
def relist() -> Callable[[Path, str], None]:
    """Write a changed file's digest and size into the manifest, as a tamperer would."""
    return _relist


@pytest.fixture
def python_env() -> dict[str, str]:
    """Environment of a subprocess that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the console script with arguments; its exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["taemi-export", *map(str, arguments)])
        try:
            main()
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        return 0

    return call
