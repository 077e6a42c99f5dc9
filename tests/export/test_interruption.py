"""Kill, Ctrl-C and a full disk while a real command line exports: the bundle stays as it was."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from taemi_export import verify_bundle
from taemi_runtime.bundle import Bundle


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}


@pytest.fixture
def export(toy: ModuleType, python_env: dict[str, str], tmp_path: Path) -> subprocess.Popen[str]:
    """A process that replaces tmp_path/toy.taemi, held up in the middle of writing it."""
    site = tmp_path / "site"
    info = site / "toy_family-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taemi.families]\ntoy = toy_family:ToyFamily\n")
    checkpoint = toy.save_toy(tmp_path / "ckpt.pt", seed=99)
    code = (
        "import sys, time\n"
        f"sys.path[:0] = [{str(site)!r}, {str(Path(toy.__file__).parent)!r}]\n"
        "import taemi_export.export as export\n"
        "write = export.write_reference\n"
        "def slow(*arguments):\n"
        "    print('HALFWAY', flush=True)\n"
        "    time.sleep(60)\n"
        "    return write(*arguments)\n"
        "export.write_reference = slow\n"
        f"sys.argv = ['taemi-export', 'onnx', {str(checkpoint)!r}, '-o', {str(tmp_path / 'toy.taemi')!r}, "
        "'--force']\n"
        "from taemi_export.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=python_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_signal_during_export_leaves_the_bundle_as_it_was(
    export: subprocess.Popen[str], bundle: Path, number: signal.Signals
) -> None:
    before = contents(bundle)
    assert export.stdout is not None
    assert export.stdout.readline() == "HALFWAY\n", export.communicate()[1]
    part = [path for path in bundle.parent.iterdir() if path.name.startswith(f".{bundle.name}.")]
    assert [path.name for path in part[0].glob("*.onnx")], "the new graphs were being written"
    os.kill(export.pid, number)
    _, err = export.communicate(timeout=30)
    assert export.returncode != 0
    assert contents(bundle) == before
    assert verify_bundle(bundle).passed
    if number == signal.SIGINT:
        # Nobody could clean up after a kill; after Ctrl-C nothing is left, and there is no traceback.
        assert not [path for path in bundle.parent.iterdir() if path.name.startswith(f".{bundle.name}.")]
        assert "Traceback" not in err


def test_a_disk_that_fills_up_leaves_the_bundle_as_it_was(
    toy: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taemi_export import export_onnx
    from taemi_runtime.errors import WriteError

    before = contents(bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*toy\.taemi: File too large"):
            export_onnx(toy.toy_source(seed=3), bundle, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_bundle_is_never_absent_while_it_is_replaced(toy: ModuleType, bundle: Path) -> None:
    """Another process opens the bundle over and over while it is replaced."""
    watcher = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from taemi_runtime.bundle import Bundle\n"
        "print('READY', flush=True)\n"
        "end = time.monotonic() + 60\n"
        "opened = 0\n"
        "while not Path(sys.argv[2]).exists() and time.monotonic() < end:\n"
        "    Bundle.open(Path(sys.argv[1])); opened += 1\n"
        "print(opened)\n"
    )
    from taemi_runtime.atomic import atomic_folder

    stop = bundle.parent / "stop"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", watcher, str(bundle), str(stop)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "READY\n"
    saved = contents(bundle)
    for _ in range(60):
        with atomic_folder(bundle, replace=True) as part:
            for name, content in saved.items():
                (part / name).write_bytes(content)
        time.sleep(0.001)
    stop.touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert int(out) > 0
    assert Bundle.open(bundle).manifest.files
