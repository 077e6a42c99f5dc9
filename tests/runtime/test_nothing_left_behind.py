"""What a run leaves on the machine: its results and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taemi_runtime.telemetry import disable_telemetry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def places(tmp_path):
    """Fresh folders for temporary files, home and cache, and the environment that names them."""
    folders = {name: tmp_path / name.lower() for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for folder in folders.values():
        folder.mkdir()
    kept = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    path = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    return folders, {**kept, **{key: str(value) for key, value in folders.items()}, "PYTHONPATH": path}


def left(folders):
    return sorted(str(item) for folder in folders.values() for item in folder.rglob("*"))


@pytest.mark.parametrize("arguments", [("good", "--format", "json"), ("mixed",), ("out",), ("doctor",)])
def test_a_run_leaves_no_file_in_temporary_home_or_cache_folders(places, bundle, clips, arguments, tmp_path):
    folders, environment = places
    what = {
        "good": [clips.both, "--transcript", "I won"],
        "mixed": [clips.folder, "--faces", "auto"],
        "out": [clips.both, clips.broken, "--format", "csv", "--out", tmp_path / "scores.csv"],
        "doctor": ["--doctor"],
    }[arguments[0]]
    done = subprocess.run(
        [sys.executable, "-m", "taemi_runtime.cli", *map(str, what), *arguments[1:]]
        + (["--engine", str(bundle.folder)] if arguments[0] != "doctor" else []),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (1 if arguments[0] in ("mixed", "out") else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert left(folders) == []


def test_a_recogniser_is_imported_with_reports_switched_off(places, tmp_path):
    # faster-whisper imports onnxruntime by itself, so that it may well be the first to do so.
    folders, environment = places
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "faster_whisper.py").write_text("import onnxruntime\n")
    program = (
        "from taemi_runtime.asr.faster_whisper import FasterWhisper; FasterWhisper.library(); "
        "import sys; assert 'onnxruntime' in sys.modules"
    )
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert left(folders) == []


def test_who_wants_reports_keeps_them(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    disable_telemetry()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("0", "1")
