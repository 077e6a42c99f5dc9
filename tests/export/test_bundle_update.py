"""Files added to a bundle: all and the manifest, or none, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taemi_export import bundle_update
from taemi_export.bundle_update import bundle_shadow, check_space, list_file
from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError, ExportError, WriteError
from taemi_runtime.manifest import Manifest, describe_file, file_sha256, format_manifest, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "b.taemi"
    made.mkdir()
    (made / "a.bin").write_bytes(b"old a")
    manifest = Manifest("toy", {}, {"a.bin": describe_file(made / "a.bin")}, {}, {}, trained=False)
    (made / "manifest.json").write_text(format_manifest(manifest))
    return made


def state(folder: Path) -> dict[str, str]:
    """Return everything beside and inside the bundle with its digest."""
    return {str(path): file_sha256(path) for path in sorted(folder.parent.rglob("*")) if path.is_file()}


def add(shadow: Path, name: str, content: bytes) -> None:
    part = shadow / f".{name}.part"
    part.write_bytes(content)
    part.replace(shadow / name)
    list_file(shadow, name)


def test_files_and_manifest_arrive_together(folder: Path) -> None:
    with bundle_shadow(folder) as shadow:
        assert (shadow / "a.bin").read_bytes() == b"old a"
        add(shadow, "a.bin", b"new a")
        add(shadow, "b.bin", b"new b")
        assert (folder / "a.bin").read_bytes() == b"old a"
        assert list(read_manifest(folder).files) == ["a.bin"]
    bundle = Bundle.open(folder)
    assert (bundle.read("a.bin"), bundle.read("b.bin")) == (b"new a", b"new b")
    assert [path.name for path in folder.parent.iterdir()] == ["b.taemi"]
    assert (folder / "b.bin").stat().st_mode == (folder / "manifest.json").stat().st_mode


def test_what_another_command_added_meanwhile_stays(folder: Path) -> None:
    with bundle_shadow(folder) as shadow:
        add(shadow, "b.bin", b"b")
        with bundle_shadow(folder) as other:
            add(other, "c.bin", b"c")
    bundle = Bundle.open(folder)
    assert [bundle.read(name) for name in ("a.bin", "b.bin", "c.bin")] == [b"old a", b"b", b"c"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_any_exception_leaves_the_bundle_as_it_was(folder: Path, error: type[BaseException]) -> None:
    before = state(folder)
    with pytest.raises(error), bundle_shadow(folder) as shadow:
        add(shadow, "a.bin", b"new a")
        add(shadow, "b.bin", b"new b")
        raise error
    assert state(folder) == before


def test_errors_name_the_bundle_and_not_its_shadow(folder: Path) -> None:
    with pytest.raises(ExportError) as caught, bundle_shadow(folder) as shadow:
        raise ExportError(f"cannot do {shadow / 'a.bin'}", f"{shadow} is odd", f"Look at {shadow}")
    assert str(caught.value) == f"cannot do {folder / 'a.bin'}: {folder} is odd. Look at {folder}"


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_rename_that_fails_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    before = state(folder)
    rename: Callable[[Path, Path], Path] = Path.replace
    calls = 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        if active:
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
        return rename(self, target)

    active = False
    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(WriteError, match="No space left"), bundle_shadow(folder) as shadow:
        add(shadow, "a.bin", b"new a")
        add(shadow, "b.bin", b"new b")
        active = True
    active = False
    assert calls >= fails_at
    assert state(folder) == before


def test_a_full_disk_is_found_before_the_work(folder: Path) -> None:
    with pytest.raises(WriteError, match=r"are needed.*the bundle is as it was"):
        check_space(folder, 1 << 62)


def test_without_hard_links_files_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(bundle_update.os, "link", refuse)
    with bundle_shadow(folder) as shadow:
        assert (shadow / "a.bin").stat().st_ino != (folder / "a.bin").stat().st_ino
        add(shadow, "b.bin", b"b")
    assert Bundle.open(folder).read("b.bin") == b"b"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError), bundle_shadow(tmp_path / "empty"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("at", range(1, 7))
def test_a_kill_at_any_rename_leaves_a_bundle_whose_manifest_is_true(
    folder: Path, python_env: dict[str, str], at: int
) -> None:
    # SIGKILL cannot be held back: after each of the renames the manifest must list only what is there.
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from taemi_export.bundle_update import bundle_shadow, list_file\n"
        "folder, at = Path(sys.argv[1]), int(sys.argv[2])\n"
        "rename, calls, active = Path.replace, [], []\n"
        "def replace(self, target):\n"
        "    done = rename(self, target)\n"
        "    calls.append(1)\n"
        "    if active and len(calls) == at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        "Path.replace = replace\n"
        "with bundle_shadow(folder) as shadow:\n"
        "    for name in ('a.bin', 'b.bin'):\n"
        "        (shadow / 'part').write_bytes(b'new ' + name.encode())\n"
        "        rename(shadow / 'part', shadow / name)\n"
        "        list_file(shadow, name)\n"
        "    calls.clear(); active.append(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(at)], env=python_env, capture_output=True, check=False
    )
    bundle = Bundle.open(folder)
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    if done.returncode == 0:
        assert contents == {"a.bin": b"new a.bin", "b.bin": b"new b.bin"}
        assert at == 6, "five renames are all there are"
    else:
        assert done.returncode == -signal.SIGKILL
        assert set(contents.items()) <= {
            ("a.bin", b"new a.bin"),
            ("b.bin", b"new b.bin"),
        } or contents == {"a.bin": b"old a"}
    assert (folder / "manifest.json").is_file()
