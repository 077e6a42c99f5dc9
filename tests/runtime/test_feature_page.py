"""docs/feature-stores.md: its Python runs, and its commands are those that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from taemi_runtime.feature_files.index import read_index

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "feature-stores.md").read_text()


def test_its_python_runs(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle.folder, "NAME.taemi")
    bare, store = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(bare, {})
    assert {name: values.shape for name, values in load_file("clip.safetensors").items()} == {
        "audio": (299, 1027),
        "text": (768,),
    }
    rng = np.random.default_rng(0)
    exec(store, {"clip_sha256": "5" * 64, "audio": rng.normal(0, 1, (9, 3)), "text": rng.normal(0, 1, 2)})
    assert read_index(Path("store")).clips["00007"].lengths == {"audio": 9, "text": 1}
    assert capsys.readouterr().out.startswith("0 00007.mp4 {'Admiration': ")


def test_its_options_exist():
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE))
    known = ""
    for module in ("taemi_runtime.cli", "taemi_export.cli onnx", "taemi_bench.cli store"):
        command = [sys.executable, "-m", *module.split(), "--help"]
        if module.startswith("taemi_export"):
            command[1:3] = ["-c", "from taemi_export.cli import main; main()"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**_environment(), "COLUMNS": "200"}
        )
        known += done.stdout
    assert options
    assert {name for name in options if name not in known} == set()


def _environment() -> dict[str, str]:
    folders = (ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
