"""Fixtures of the runtime's tests: a small bundle, and real clips made on the spot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.runtime.tiny_bundle import Made
from tests.runtime.tiny_bundle import make_bundle as build
from tests.runtime.tiny_clips import make_clip


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Made]:
    """Make a bundle that the test may damage: ``make_bundle(name, **changes)``."""
    return lambda name="own.taemi", **changes: build(tmp_path / name, **changes)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A whole bundle that no test changes."""
    return build(tmp_path_factory.mktemp("bundles") / "tiny.taemi")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Real clips: both tracks, sound only, picture only, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    broken = folder / "broken.mp4"
    broken.write_bytes(b"this is no media file" * 50)
    return SimpleNamespace(
        folder=folder,
        both=make_clip(folder / "both.mp4"),
        second=make_clip(folder / "second.mp4", seconds=0.9),
        sound=make_clip(folder / "sound.mp4", video=False),
        silent=make_clip(folder / "silent.mp4", audio=False),
        broken=broken,
    )


@pytest.fixture
def infer(monkeypatch, capsys):
    """Run ``taemi-infer`` in this process and return (exit code, stdout, stderr)."""
    from taemi_runtime import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["taemi-infer", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run
