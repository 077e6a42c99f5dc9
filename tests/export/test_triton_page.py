"""The example of docs/triton.md, run with the real client: from a clip to the scores of ``taemi-infer``."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import taemi_runtime
from taemi_export.triton import export_triton
from tests.export.triton_server import parse_config, serve, warmup_arrays
from tests.runtime.tiny_bundle import make_bundle
from tests.runtime.tiny_clips import make_clip

PAGE = Path(__file__).parents[2] / "docs" / "triton.md"


def test_the_example_gives_the_scores_that_the_runtime_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    bundle = make_bundle(tmp_path / "ckpt.taemi")
    clip = make_clip(tmp_path / "clip.mp4")
    export_triton(bundle.folder, tmp_path / "models")
    config = parse_config(tmp_path / "models/taemi")
    assert [item.name for item in config.input][-1] == "present"
    assert config.output[0].label_filename == "intensities.txt"
    assert len((tmp_path / "models/taemi/intensities.txt").read_text().splitlines()) == 6
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "client", raising=False)
    found: dict[str, object] = {}
    with serve(tmp_path / "models") as url:
        exec(compile(code.replace("localhost:8000", url), str(PAGE), "exec"), found)
    sys.modules.pop("client")
    scores = found["scores"]
    assert isinstance(scores, dict)
    with taemi_runtime.load(bundle.folder, clip_scores=False) as scorer:
        result = scorer.predict(clip, transcript="what a lovely surprise")
    assert list(scores) == list(result.intensities)
    np.testing.assert_allclose(list(scores.values()), list(result.intensities.values()), atol=1e-5)


@pytest.mark.parametrize("variant", [{"fixed": True}, {"tokens": True}], ids=["fixed lengths", "tokens"])
def test_every_variant_of_the_graph_is_served(
    variant: dict[str, bool],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")
    out = export_triton(make_bundle(tmp_path / "ckpt.taemi", **variant).folder, tmp_path / "models")
    config = parse_config(out / "taemi")
    session = ort.InferenceSession(out / "taemi/1/model.onnx")
    for sample in config.model_warmup:
        (scores,) = session.run(["intensities"], warmup_arrays(out / "taemi", sample, batched=True))
        assert scores.shape == (sample.batch_size, 6)
        assert np.isfinite(scores).all()
    dims = {item.name: list(item.dims) for item in config.input}
    assert (-1 in dims["audio"]) == ("fixed" not in variant)
    assert ("text_mask" in dims) == ("tokens" in variant)
    client = runpy.run_path(str(out / "client.py"))
    with serve(out) as url:
        client["main"](url)
    assert re.match(r"intensities \(1, 6\)\n  Admiration: -?\d", capsys.readouterr().out)


def test_the_layout_shown_is_the_one_written(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "ckpt.taemi")
    out = export_triton(bundle.folder, tmp_path / "models")
    page = PAGE.read_text()
    written = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert {"taemi/config.pbtxt", "taemi/1/model.onnx", "taemi/intensities.txt", "taemi/warmup"} <= written
    for name in ("config.pbtxt", "1/model.onnx", "intensities.txt", "README.md", "client.py"):
        assert name in page
    assert {name for name in written if "/" not in name} == {
        "taemi",
        "README.md",
        "client.py",
        "taemi-repository.json",
    }
