from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from taemi_runtime.manifest import file_sha256, read_manifest

Run = Callable[..., int]


@pytest.fixture
def installed_toy(toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the toy family the way a package would, and give a checkpoint of it."""
    site = tmp_path / "site"
    info = site / "toy_family-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taemi.families]\ntoy = toy_family:ToyFamily\n")
    monkeypatch.syspath_prepend(str(site))
    checkpoint: Path = toy.save_toy(tmp_path / "ckpt.pt")
    return checkpoint


def test_the_whole_way_from_checkpoint_to_verified_bundle(
    installed_toy: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("onnx", installed_toy) == 0
    bundle = installed_toy.with_suffix(".taemi")
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 4, err
    assert lines[0].startswith("tagger: ")
    assert str(bundle / "tagger.onnx") in lines[0]
    assert lines[1].startswith("front: ")
    assert "verified, untrained" in lines[2]
    assert lines[3] == f"next: taemi-infer clip.mp4 --engine {bundle}"
    source = read_manifest(bundle).source
    assert source is not None
    assert (source.name, source.sha256) == ("ckpt.pt", file_sha256(installed_toy))

    assert run("onnx", installed_toy) == 2
    assert "--force" in capfd.readouterr().err

    assert run("inspect", installed_toy, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["kind"] == "checkpoint"
    assert found["facts"]["weights of front"] == "6 tensors, 732 numbers"


def test_quiet_and_fusion_only(installed_toy: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    out = installed_toy.parent / "elsewhere" / "mine"
    assert run("onnx", installed_toy, "-o", out, "--fusion-only", "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert list(read_manifest(out).graphs) == ["tagger"]


def test_missing_or_broken_checkpoint_is_one_line(
    tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("onnx", tmp_path / "absent.pt") == 1
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    assert run("onnx", tmp_path / "broken.pt") == 1
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "absent.pt" in lines[0]
    assert "broken.pt" in lines[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.pt"]


def test_verify_prints_a_table_and_leaves_with_zero(
    exported: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", exported, "--device", "cpu") == 0
    out, err = capfd.readouterr()
    for part in ("tagger.tags", "front.features", "allowed 0.0001", "constant tensors", "Inf", "12 cases"):
        assert part in out
    assert "everything holds" in err


def test_verify_leaves_with_one_when_a_weight_changed(
    bundle: Path, tamper: Callable[..., None], run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    tamper(bundle, "tagger.onnx", "embedding.weight", (60, 0))
    assert run("verify", bundle) == 1
    out, err = capfd.readouterr()
    assert "embedding.weight" in err
    assert "Traceback" not in err
    assert "tagger.tags" in out


def test_verify_leaves_with_one_and_names_the_output_beyond_its_gate(
    other_front: Path,
    bundle: Path,
    relist: Callable[[Path, str], None],
    run: Run,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(other_front, bundle)
    relist(bundle, "front.onnx")
    assert run("verify", bundle, "--engine", bundle / "front.onnx") == 1
    out, err = capfd.readouterr()
    assert "front.features" in err
    assert "FAILED" in out
    assert "tagger" not in out


def test_device_that_is_not_there_never_falls_back(
    exported: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", exported, "--device", "cuda:77") == 1
    assert run("verify", exported, "--device", "gpu") == 2
    assert "cuda:77" in capfd.readouterr().err


def test_inspect_bundle_and_graph(exported: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", exported) == 0
    out = capfd.readouterr().out
    for part in (
        "untrained",
        "tags",
        "tag_7",
        "steps 1..60",
        "hops from samples",
        "intact",
        "passed",
        "not needed (spare)",
    ):
        assert part in out
    assert run("inspect", exported / "front.onnx", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["facts"]["precision"] == "fp32"
    assert found["facts"]["sha256"] == file_sha256(exported / "front.onnx")
    assert "opset ai.onnx 20" in found["facts"]["format"]
    assert found["facts"]["parity"].startswith("passed")


def test_inspect_shows_damage_and_refuses_the_unknown(
    bundle: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    (bundle / "words.json").write_bytes(b"12345678")
    assert run("inspect", bundle) == 0
    assert "its SHA-256 is" in capfd.readouterr().out
    assert run("inspect", bundle / "words.json") == 2
    assert run("inspect", bundle / "absent.onnx") == 1


def test_without_torch_there_is_one_line_that_names_the_extra(
    tmp_path: Path, python_env: dict[str, str]
) -> None:
    # What an environment without the extra looks like: the finder does not find it.
    code = (
        "import importlib.util, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'onnx'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('torch', 'onnx') else find(name, *a)\n"
        f"sys.argv = ['taemi-export', 'onnx', {str(tmp_path / 'ckpt.pt')!r}]\n"
        "from taemi_export.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'pip install "taemi[export]"' in done.stderr


def test_help_is_quick_and_loads_nothing_heavy(python_env: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['taemi-export', '--help']\n"
        "from taemi_export.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 3, "under one second on an idle machine"
    for command in ("onnx", "verify", "inspect"):
        assert command in done.stdout
