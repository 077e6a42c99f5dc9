"""The runtime where nothing of the training stack is installed, and what it imports where it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import taemi_runtime
from tests.runtime.feature_stores import draw, expected, write_store

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime" / "taemi_runtime"
TRAINING = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "functorch", "torchgen", "sympy")
# Modules that every later part relies on to know nothing of this one model family.
BACKENDS = sorted(path.stem for path in (RUNTIME / "backends").glob("*.py"))
GENERIC = (
    *("atomic", "bundle", "console", "draw", "engine", "errors", "host"),
    *("engine_choice", "loading", "manifest", "plan_sidecar", "spec", "strict"),
    *("device_array", "input_checks", "resident", "stopwatch"),
    *(f"cuda/{path.stem}" for path in sorted((RUNTIME / "cuda").glob("*.py"))),
    *(f"backends/{name}" for name in BACKENDS),
)


def lean_site(folder: Path, *without: str) -> Path:
    """Make a site-packages of links that lacks some packages, their metadata included."""
    folder.mkdir()
    unwanted = re.compile(rf"({'|'.join(without)})(-.*|\.libs)?$", re.IGNORECASE)
    for source in dict.fromkeys(map(Path, (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))):
        for item in source.iterdir():
            # .pth files stay behind: they would bring the real folders back.
            if not unwanted.match(item.name) and item.suffix != ".pth":
                (folder / item.name).symlink_to(item)
    return folder


def run(site: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = [str(site)] if site else []
    flags = ["-S"] if site else []
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*places, str(ROOT / "runtime"), str(ROOT)]),
            "PYTHONNOUSERSITE": "1",
        },
        check=False,
    )


@pytest.fixture(scope="module")
def no_training(tmp_path_factory):
    site = lean_site(tmp_path_factory.mktemp("lean") / "site", *TRAINING)
    for name in ("torch", "transformers", "onnx"):
        done = run(site, "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr
    return site


def test_clips_are_scored_without_the_training_stack(no_training, bundle, clips):
    done = run(
        no_training,
        "-m",
        "taemi_runtime.cli",
        str(clips.both),
        str(clips.broken),
        "--engine",
        str(bundle.folder),
        "--format",
        "json",
        "--quiet",
    )
    assert done.returncode == 1, done.stderr
    good, broken = json.loads(done.stdout)
    found = np.array(list(good["intensities"].values()))
    np.testing.assert_allclose(found, np.clip(bundle.expected(clips.both), 0, 1), atol=2e-6)
    assert broken["error"].startswith("cannot read")


def test_a_store_is_scored_without_the_training_stack(no_training, bundle, tmp_path):
    store = write_store(tmp_path / "store", bundle, [draw(1), draw(2)])
    command = (str(store), "--engine", str(bundle.folder / "fusion.onnx"), "--format", "json", "--raw")
    done = run(no_training, "-m", "taemi_runtime.cli", *command)
    assert done.returncode == 0, done.stderr
    found = [list(item["intensities"].values()) for item in json.loads(done.stdout)]
    np.testing.assert_allclose(found, [expected(draw(1)), expected(draw(2))], atol=5e-6)


def test_a_checkpoint_without_torch_is_one_line_that_names_the_extra(no_training, clips, tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(b"checkpoint")
    done = run(no_training, "-m", "taemi_runtime.cli", str(clips.both), "--engine", str(path))
    assert done.returncode == 1
    assert done.stderr == (
        f'error: cannot run checkpoint {path}: torch is not installed. pip install "taemi[train]"\n'
    )


def test_the_doctor_works_without_the_training_stack(no_training):
    done = run(no_training, "-m", "taemi_runtime.cli", "--doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"ok  onnxruntime-cpu", done.stdout)


def test_without_onnxruntime_one_line_names_the_extra(tmp_path, bundle, clips):
    site = lean_site(tmp_path / "site", *TRAINING, "onnxruntime.*")
    command = ("-m", "taemi_runtime.cli", str(clips.both), "--engine", str(bundle.folder))
    done = run(site, *command)
    assert done.returncode == 1
    assert done.stderr == (
        'error: cannot run ONNX graphs: onnxruntime is not installed. Install it: pip install "taemi[cpu]"\n'
    )
    done = run(site, *command, "--device", "cuda")
    assert done.returncode == 1
    assert 'onnxruntime is not installed. Install it: pip install "taemi[gpu]"\n' in done.stderr
    done = run(site, "-m", "taemi_runtime.cli", "--doctor")
    assert done.returncode == 0
    assert re.search(r"--  onnxruntime-cpu +onnxruntime is not installed", done.stdout)


def test_what_uninstalling_one_of_two_onnxruntimes_leaves_is_recognised(tmp_path, bundle, clips):
    site = lean_site(tmp_path / "site", *TRAINING, "onnxruntime.*")
    (site / "onnxruntime" / "capi").mkdir(parents=True)
    done = run(site, "-m", "taemi_runtime.cli", str(clips.both), "--engine", str(bundle.folder))
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: cannot run ONNX graphs: onnxruntime is damaged: no InferenceSession"
    )
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install --force-reinstall" in done.stderr


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules in memory after a statement."""
    code = f"import sys, contextlib, io\n{arguments[0]}\nprint(*sorted(sys.modules), sep='\\n')"
    done = run(None, "-c", code)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"numpy", "av", "PIL", "onnxruntime", "tokenizers", "rich", "typer", "msgspec", "torch"}
    assert not heavy & loaded_by("import taemi_runtime; taemi_runtime.load")


def test_help_loads_no_library_that_scores():
    code = (
        "from taemi_runtime.cli import main\n"
        "sys.argv = ['taemi-infer', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()"
    )
    assert not {"numpy", "av", "PIL", "onnxruntime", "tokenizers", "msgspec", "torch"} & loaded_by(code)


def test_scoring_imports_no_training_stack_where_it_is_installed(bundle, clips):
    code = (
        "import taemi_runtime\n"
        f"with taemi_runtime.load({str(bundle.folder)!r}) as scorer:\n"
        f"    scorer.score({str(clips.both)!r}, 'I won')"
    )
    assert not {"torch", "transformers", "onnx"} & loaded_by(code)


def test_the_facade(bundle, clips):
    assert re.match(r"\d+\.\d+", taemi_runtime.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        taemi_runtime.lode  # noqa: B018
    with pytest.raises(taemi_runtime.TaemiError, match="cannot open engine nowhere"):
        taemi_runtime.load("nowhere")
    with taemi_runtime.load(bundle.folder / "fusion.onnx", device="cpu", threads=1) as scorer:
        assert scorer.score(clips.both).engine.threads == 1


@pytest.mark.parametrize("name", GENERIC)
def test_generic_modules_name_no_modality_and_no_emotion(name):
    words = re.compile(
        r"audio|\bvision|video|speech|waveform|transcript|pixels|whisper|wav2vec|emotion|intensit"
        r"|admiration|amusement|determination\b|empathic|excitement|\bjoy\b|[\"'`]text[\"'`]|\btext_",
        re.IGNORECASE,
    )
    found = words.search((RUNTIME / f"{name}.py").read_text())
    assert found is None, f"{name}.py names {found.group()!r}"
