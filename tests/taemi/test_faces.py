"""Which face detector training, evaluation and checkpoints agree on."""

from __future__ import annotations

import json

import pytest

from taemi.assemble import assemble
from taemi.checkpoint import Progress, save_checkpoint
from taemi.choice import EncoderChoice
from taemi.corpus import ClipRow, read_corpus
from taemi.evaluate import evaluate_split
from taemi.features import FeatureStore
from taemi_runtime.errors import BundleError, EngineError
from taemi_runtime.faces.choice import faces_name
from tests.runtime.drawn_faces import wall, write_video
from tests.runtime.yunet_like import yunet_like
from tests.taemi.test_cli import taemi


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return yunet_like(tmp_path_factory.mktemp("detector") / "yunet.onnx")


@pytest.fixture(scope="module")
def checkpoint(detector, tmp_path_factory):
    """An untrained one whose features are to be made with the detector's file."""
    path = tmp_path_factory.mktemp("checkpoint") / "yunet.pt"
    system = assemble("paper", EncoderChoice("tiny"), seed=1, max_fps=2.0, faces=faces_name(str(detector)))
    save_checkpoint(path, system, Progress(trained=False))
    return path


def test_ways_have_names():
    assert (faces_name("none"), faces_name("auto")) == ("none", "auto")
    with pytest.raises(EngineError, match="there is no such file"):
        faces_name("Auto")


def test_a_store_is_made_with_the_file_that_its_preprocessing_names(detector, tmp_path):
    system = assemble("paper", EncoderChoice("tiny"), seed=1, faces=faces_name(str(detector)))
    bright = wall()
    bright[64:96, 96:128] = 255
    (tmp_path / "raw").mkdir()
    row = ClipRow("a", write_video(tmp_path / "raw" / "a.mp4", [bright * 0, bright]), "", (0.0,) * 6)
    with pytest.raises(BundleError, match="--faces FILE"):
        FeatureStore(tmp_path / "features", system.vision_encoder, system.preprocessing).extract([row])
    store = FeatureStore(tmp_path / "features", system.vision_encoder, system.preprocessing, str(detector))
    assert store.extract([row]) == {}
    assert len(store.read("a").vision) == 1


def test_evaluation_crops_as_in_training_or_says_so(detector, checkpoint, demo_corpus):
    corpus = read_corpus(demo_corpus)
    with pytest.raises(BundleError, match="trained with a face detector from a file"):
        evaluate_split(checkpoint, corpus, "test")
    warnings = []
    found = evaluate_split(checkpoint, corpus, "test", faces=str(detector), warn=warnings.append)
    assert found.faces == faces_name(str(detector))
    # Of four clips an untrained model may give all the same scores, which is said, too.
    assert [text for text in warnings if "one value" not in text] == []
    warnings.clear()
    whole = evaluate_split(checkpoint, corpus, "test", faces="none", warn=warnings.append)
    assert whole.faces == "none"
    assert "looks at whole frames here" in warnings[0]
    with_vision = [name for name in found.clips if "vision" in name]
    assert all(found.clips[name] <= whole.clips[name] for name in with_vision)


def test_init_and_evaluate_take_the_option(detector, checkpoint, demo_corpus, tmp_path):
    wrong = taemi("init", tmp_path / "x.pt", "--encoders", "tiny", "--faces", "nowhere.onnx")
    assert wrong.returncode == 1
    assert "cannot look for faces with nowhere.onnx: there is no such file" in wrong.stderr
    figures = tmp_path / "figures.json"
    done = taemi(
        *("evaluate", checkpoint, demo_corpus, "--split", "test"),
        *("--faces", detector, "--json", figures, "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(figures.read_text())["faces"] == faces_name(str(detector))


@pytest.mark.slow
def test_training_takes_the_option(detector, demo_corpus, tmp_path):
    options = ("--encoders", "tiny", "--max-fps", "2", "--epochs", "1", "--pad", "longest", "--quiet")
    done = taemi("train", demo_corpus, "--out", tmp_path / "run", "--faces", detector, *options)
    assert done.returncode == 0, done.stderr
    best = tmp_path / "run" / "best.pt"
    refused = taemi("evaluate", best, demo_corpus)
    assert refused.returncode == 1
    assert "Give it: --faces FILE, or take another: --faces auto" in refused.stderr
