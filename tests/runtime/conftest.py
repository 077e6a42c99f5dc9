"""Fixtures of the runtime's tests: a small bundle, and real clips made on the spot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from taemi_runtime.engine import say_by_host
from tests.runtime.engine_places import SimulatedPlan
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


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedPlan]:
    """A machine with a simulated GPU, on which nothing is left at the end."""
    made = SimulatedPlan("simulated", "tensorrt", "cuda:0", ".plan")
    made.install(monkeypatch)
    yield made
    assert made.gpu.is_clean


@pytest.fixture
def stale_place(place: SimulatedPlan) -> Iterator[SimulatedPlan]:
    """A machine whose GPU has NaN in fresh memory, and notices unordered work."""
    say_by_host.cache_clear()
    place.gpu.rubbish = 0xFF
    yield place
    assert not place.gpu.races


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
