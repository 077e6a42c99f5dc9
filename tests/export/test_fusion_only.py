"""Only the graph that gives the scores: no encoder is built, read, fetched or trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from taemi.config import variant
from taemi.exportable import open_source
from taemi.family import TaemiFamily
from taemi.model import Taemi
from taemi_export import verify_bundle
from taemi_runtime.errors import CheckpointError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import read_manifest
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import to_plain


@pytest.fixture(scope="module")
def ids_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows its encoders by ids which lead nowhere."""
    torch.manual_seed(5)
    config = variant("paper", audio_dim=20, vision_dim=16, text_dim=24, hidden=32, heads=4, feed_forward=48)
    path: Path = tmp_path_factory.mktemp("ids") / "ids.pt"
    data = {
        "format": 1,
        "family": "taemi",
        "model": config.to_plain(),
        "preprocessing": to_plain(Preprocessing()),
        "encoders": {name: {"id": f"nobody/no-such-{name}"} for name in ("audio", "text", "vision")},
        "fusion": Taemi(config).state_dict(),
        "progress": {"trained": True, "epoch": 3, "rho": 0.4},
    }
    torch.save(data, path)
    return path


def test_the_command_line_exports_it_with_sockets_that_fail(
    ids_only: Path, tmp_path: Path, python_env: dict[str, str]
) -> None:
    out = tmp_path / "scores.taemi"
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        f"sys.argv = ['taemi-export', 'onnx', {str(ids_only)!r}, '-o', {str(out)!r}, '--fusion-only']\n"
        "from taemi_export.cli import main; main()"
    )
    environment = {key: value for key, value in python_env.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(out)
    assert list(manifest.graphs) == ["fusion"]
    assert manifest.trained
    assert manifest.random_weights == ()
    assert manifest.parity["fusion.onnx"].passed
    assert verify_bundle(out).passed
    spec = manifest.graphs["fusion"]
    with open_model(out) as model:
        inputs = {
            item.name: np.ones(spec.shape(item, spec.sizes({"batch": 1})), item.dtype) for item in spec.inputs
        }
        assert np.isfinite(model.engine("fusion").run(inputs)["intensities"]).all()


def test_the_whole_system_of_such_a_checkpoint_is_refused_by_the_encoders_name(ids_only: Path) -> None:
    with pytest.raises(CheckpointError, match="nobody/no-such-audio"):
        open_source(ids_only)
    source = open_source(ids_only, first_only=True)
    assert [graph.spec.name for graph in source.graphs] == ["fusion"]


def test_a_damaged_checkpoint_is_refused_in_one_sentence(ids_only: Path, tmp_path: Path) -> None:
    for change, message in (
        (lambda data: data["fusion"].popitem(), "Missing key"),
        (lambda data: data.pop("model"), "KeyError: 'model'"),
        (lambda data: data.update(format=9), "format 9"),
        (lambda data: data["encoders"].pop("text"), "KeyError: 'text'"),
    ):
        data = torch.load(ids_only, weights_only=True)
        change(data)
        torch.save(data, tmp_path / "bad.pt")
        with pytest.raises(CheckpointError, match=message):
            open_source(tmp_path / "bad.pt", first_only=True)


def test_a_family_that_cannot_do_it_is_opened_whole(
    demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(open_source(demo_checkpoint, first_only=True).graphs) == 1
    monkeypatch.delattr(TaemiFamily, "open_first")
    assert len(open_source(demo_checkpoint, first_only=True).graphs) == 4


def test_fusion_only_weighs_what_the_whole_export_weighs(
    demo_checkpoint: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    from taemi_export.export import export_onnx

    out = export_onnx(open_source(demo_checkpoint, first_only=True), tmp_path / "f.taemi", fusion_only=True)
    assert (out / "fusion.onnx").read_bytes() == (demo_bundle / "fusion.onnx").read_bytes()
    assert json.loads((out / "manifest.json").read_text())["random_weights"] == ["fusion"]
