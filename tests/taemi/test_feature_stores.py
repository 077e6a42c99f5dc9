"""Stores through real graphs: PyTorch agrees, encoders decide what fits, training's stores are told apart."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from taemi.features import FeatureStore
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, DataError
from taemi_runtime.feature_files.keep import keeping
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import format_manifest, read_manifest
from taemi_runtime.pipeline import ClipScorer

CPU = EngineOptions(device="cpu", threads=2)


def scores(outcome):
    return np.array(list(outcome.intensities.values()))


@pytest.fixture(scope="module")
def kept(demo_bundle, demo_corpus, tmp_path_factory):
    """A store of real clips, and the scores of the clips themselves."""
    from taemi.corpus import read_corpus

    folder = tmp_path_factory.mktemp("kept") / "store"
    direct = {}
    with ClipScorer(open_model(demo_bundle, options=CPU), clip_scores=False) as scorer:
        with keeping(scorer, folder):
            for row in read_corpus(demo_corpus).split("test")[:4]:
                direct[row.media.name] = scores(scorer.score(row.media, row.transcript or None))
    return folder, direct


def test_a_store_scores_as_its_clips_within_the_gate_of_half_precision(kept, demo_bundle):
    folder, direct = kept
    gate = read_manifest(demo_bundle).graphs["fusion"].gates["fp16"]
    with FeatureScorer(demo_bundle, options=CPU, clip_scores=False) as scorer:
        found = {outcome.clip: scores(outcome) for _, outcome in scorer.score([folder])}
    assert found.keys() == direct.keys()
    errors = np.abs([found[name] - direct[name] for name in direct])
    assert errors.max() < gate.max_abs
    assert errors.mean() < gate.mean_abs


def test_pytorch_gives_the_same_scores_in_batches_and_alone(kept, demo_bundle, demo_checkpoint):
    folder, _ = kept
    found = []
    for engine, batch in ((demo_bundle, 16), (demo_bundle, 1), (demo_checkpoint, 3)):
        with FeatureScorer(engine, options=CPU, batch=batch, clip_scores=False) as scorer:
            outcomes = dict(scorer.score([folder]))
            found.append(np.array([scores(outcomes[place]) for place in range(len(outcomes))]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)


def test_the_fusion_graph_alone_scores_it(kept, demo_bundle, tmp_path, caplog):
    folder, _ = kept
    lean, alone = tmp_path / "lean.taemi", tmp_path / "fusion.onnx"
    lean.mkdir()
    manifest = read_manifest(demo_bundle)
    for place in (lean / "fusion.onnx", alone):
        place.write_bytes((demo_bundle / "fusion.onnx").read_bytes())
    # What --fusion-only writes.
    graphs, files = {"fusion": manifest.graphs["fusion"]}, {"fusion.onnx": manifest.files["fusion.onnx"]}
    lean_manifest = replace(manifest, graphs=graphs, files=files, parity={}, conversions={})
    (lean / "manifest.json").write_text(format_manifest(lean_manifest))
    with FeatureScorer(demo_bundle, options=CPU, clip_scores=False) as scorer:
        wanted = {outcome.clip: scores(outcome) for _, outcome in scorer.score([folder])}
    for engine, warns in ((lean, False), (alone, True)):
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING, logger="taemi_runtime"),
            FeatureScorer(engine, options=CPU, clip_scores=False) as scorer,
        ):
            for _, outcome in scorer.score([folder]):
                np.testing.assert_allclose(scores(outcome), wanted[outcome.clip], atol=1e-6)
            assert outcome.untrained
        assert ("nobody can tell whether" in caplog.text) == warns
    with pytest.raises(BundleError, match="without --fusion-only"):
        ClipScorer(open_model(lean, options=CPU))


def test_a_training_store_is_refused_with_the_command_that_makes_a_full_one(
    demo_bundle, demo_checkpoint, demo_corpus, tmp_path
):
    from taemi.checkpoint import load_system
    from taemi.corpus import read_corpus

    system, _ = load_system(demo_checkpoint)
    store = FeatureStore(tmp_path / "training", system.vision_encoder, system.preprocessing)
    row = read_corpus(demo_corpus).split("test")[0]
    assert not store.extract([row])
    with FeatureScorer(demo_bundle, options=CPU) as scorer:
        with pytest.raises(DataError) as caught:
            scorer.score([tmp_path / "training"])
        assert "it is a training store: it holds the waveform and the vision features" in str(caught.value)
        assert "taemi-infer CLIP... --engine BUNDLE --save-features STORE" in str(caught.value)
        ((_, outcome),) = scorer.score([tmp_path / "training" / f"{row.name}.safetensors"])
        assert "it has waveform" in outcome.error or "it is a training store" in outcome.error
