"""``--attention``: the weights that PyTorch computes, for clips and for features, valid positions only."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from taemi.config import variant
from taemi.exportable import has_attention, open_source
from taemi.fusion_graph import attended
from taemi.model import Taemi
from taemi_export.export import export_onnx
from taemi_runtime import cli
from taemi_runtime.errors import BundleError, UsageError
from taemi_runtime.feature_files.layout import FeatureFacts, Origin
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.feature_files.store import FeatureStoreWriter
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import to_plain

SMALL = {"audio_dim": 20, "vision_dim": 16, "text_dim": 24, "hidden": 32, "heads": 4, "feed_forward": 48}


def checkpoint_of(folder, name: str = "paper"):
    torch.manual_seed(7)
    config = variant(name, **SMALL)
    model = Taemi(config).eval()
    path = folder / f"{name}.pt"
    data = {
        "format": 1,
        "family": "taemi",
        "model": config.to_plain(),
        "preprocessing": to_plain(Preprocessing()),
        "encoders": {part: {"id": f"nobody/{part}"} for part in ("audio", "text", "vision")},
        "fusion": model.state_dict(),
        "progress": {"trained": True, "epoch": 3, "rho": 0.4},
    }
    torch.save(data, path)
    return path, model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small fusion network with attention outputs, its PyTorch twin, and a store of random features."""
    folder = tmp_path_factory.mktemp("attention")
    path, model = checkpoint_of(folder)
    bundle = export_onnx(
        open_source(path, first_only=True, attention=True), folder / "a.taemi", fusion_only=True
    )
    rng = np.random.default_rng(0)
    clips = []
    with FeatureStoreWriter(folder / "store", Origin(), {}) as writer:
        for number, (audio, vision) in enumerate([(30, 12), (7, 40), (50, 0), (0, 9)]):
            clip = {"text": rng.normal(0, 1, 24).astype(np.float16)}
            for name, length, width in (("audio", audio, 20), ("vision", vision, 16)):
                if length:
                    clip[name] = rng.normal(0, 1, (length, width)).astype(np.float16)
            clips.append(clip)
            writer.add(str(number), clip, FeatureFacts(f"{number}.mp4", 1.0))
    return bundle, model, folder / "store", clips


def by_pytorch(model, clip) -> dict[str, np.ndarray]:
    def tensor(name, width):
        values = clip.get(name, np.zeros((1, width), np.float16)).astype(np.float32)
        return torch.from_numpy(values)[None]

    audio, vision, text = tensor("audio", 20), tensor("vision", 16), tensor("text", 24)
    present = torch.tensor([["audio" in clip, "vision" in clip, True]])
    with torch.inference_mode():
        scores = model(
            audio,
            torch.ones(audio.shape[:2], dtype=torch.bool),
            vision,
            torch.ones(vision.shape[:2], dtype=torch.bool),
            text,
            present,
        )
    return {name: weights[0].numpy() for name, weights in scores.attention.items()}


def test_features_give_the_weights_of_pytorch(exported):
    bundle, model, store, clips = exported
    with FeatureScorer(bundle, attention=True, batch=4) as scorer:
        outcomes = dict(scorer.score([store]))
    for place, clip in enumerate(clips):
        found = outcomes[place].attention
        assert set(found) == {"audio", "vision"} & set(clip)
        for name, weights in found.items():
            assert np.shape(weights) == (4, len(clip[name]))
            np.testing.assert_allclose(np.sum(weights, 1), 1, atol=1e-3)
            np.testing.assert_allclose(weights, by_pytorch(model, clip)[name], atol=2e-5)


def test_the_command_writes_them_as_json_only(exported, monkeypatch, capsys):
    bundle, _, store, clips = exported

    def infer(*arguments):
        monkeypatch.setattr(sys, "argv", ["taemi-infer", str(store), "--engine", str(bundle), *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, capsys.readouterr()

    code, said = infer("--attention", "--format", "json", "--ordered")
    assert code == 0, said.err
    first = json.loads(said.out)[0]
    assert len(first["attention"]["audio"][0]) == len(clips[0]["audio"])
    assert "attention" not in json.loads(infer("--format", "json")[1].out)[0]
    code, said = infer("--attention", "--format", "csv")
    assert (code, "Give --format json or jsonl" in said.err) == (2, True)


def test_an_engine_without_them_names_the_option_that_adds_them(demo_bundle):
    with pytest.raises(BundleError, match="taemi-export onnx CKPT --attention --force"):
        FeatureScorer(demo_bundle, attention=True)


def test_a_variant_that_attends_to_nothing_is_refused(tmp_path):
    path, model = checkpoint_of(tmp_path, "concat")
    assert not attended(model.config)
    with pytest.raises(UsageError, match="its variant pools by 'mean' and attends to nothing over time"):
        open_source(path, first_only=True, attention=True)
    assert not has_attention(open_source(path, first_only=True).graphs[0].spec)
