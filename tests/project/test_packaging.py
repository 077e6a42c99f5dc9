"""The wheel: what is in it, and that it scores a clip where nothing of the training stack exists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("taemi", "taemi-export", "taemi-infer", "taemi-bench")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Building in place leaves build/ behind, and a later wheel would hold what an earlier one did.
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "demo", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not build a wheel here: {done.stderr.strip().splitlines()[-1]}")
    return next(folder.glob("taemi-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert tops - info == {"taemi", "taemi_export", "taemi_runtime", "taemi_bench"}
    for package in tops - info:
        assert f"{package}/py.typed" in names
    text = next(name for name in names if name.endswith("entry_points.txt"))
    entries = zipfile.ZipFile(wheel).read(text).decode()
    for script in SCRIPTS:
        assert f"\n{script} = " in entries
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "taemi").rglob("*.py")}
    assert sources <= set(names)


@pytest.fixture(scope="session")
def lean_python(wheel, tmp_path_factory):
    """A fresh environment with the wheel and its [cpu] extra only."""
    folder = tmp_path_factory.mktemp("lean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), f"{wheel}[cpu]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not install the wheel here: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_a_clip_is_scored_without_torch_transformers_or_onnx(lean_python, demo_bundle, demo_clip):
    listed = subprocess.run([lean_python, "-m", "pip", "list"], capture_output=True, text=True, check=True)
    installed = {line.split()[0].lower() for line in listed.stdout.splitlines()[2:]}
    assert not installed & {"torch", "transformers", "onnx"}
    infer = lean_python.parent / "taemi-infer"
    command = [
        infer,
        demo_clip,
        "--engine",
        demo_bundle,
        "--transcript",
        "what a lovely day",
        "--format",
        "csv",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=lean_python.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()[:2]
    assert header.startswith("Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy")
    scores = [float(value) for value in row.split(",")[1:7]]
    assert all(0 <= score <= 1 for score in scores)
    trained = subprocess.run(
        [lean_python.parent / "taemi", "train", "x", "--out", "y"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 1
    assert 'pip install "taemi[train]"' in trained.stderr
    assert "Traceback" not in trained.stderr
