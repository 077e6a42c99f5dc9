"""Chains of plans and of ONNX Runtime's CUDA provider, and what goes by the host."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from taemi_runtime.backends import open_engine
from taemi_runtime.batching import DecodedClip
from taemi_runtime.clock import Clock
from taemi_runtime.engine import EngineOptions, say_by_host
from taemi_runtime.errors import EngineError
from taemi_runtime.streaming import stream_clip
from taemi_runtime.transcripts import Transcript
from tests.runtime.chains import SAID, decoded, lent, open_by_host, open_scorer, values
from tests.runtime.fake_provider import install_provider
from tests.runtime.plan_bundles import GRAPHS, add_plan

ENCODERS = ("audio", "vision", "text")


@pytest.fixture
def place(stale_place, monkeypatch):
    """A machine with ONNX Runtime's CUDA provider on its simulated GPU."""
    install_provider(monkeypatch, stale_place.gpu)
    return stale_place


@pytest.mark.parametrize("plans", [(), ("fusion",), ENCODERS, ("fusion", "vision")], ids=" ".join)
def test_plans_and_graphs_feed_each_other_on_the_device(make_bundle, clips, place, plans, caplog):
    made = make_bundle()
    for graph in plans:
        add_plan(made, graph)
    jobs = [(clips.both, SAID), (clips.sound, None), (clips.silent, SAID)]
    with open_by_host(made) as scorer:
        expected = [values(scorer.predict(*job)) for job in jobs * 3]
    with caplog.at_level(logging.INFO), open_scorer(made) as scorer:
        assert {graph: scorer.model.engine(graph).info.backend for graph in GRAPHS} == {
            graph: "tensorrt" if graph in plans else "onnxruntime-cuda" for graph in GRAPHS
        }
        assert [values(scorer.predict(*job)) for job in jobs * 3] == expected
        assert all(scorer.model.engine(graph).pool._idle for graph in ENCODERS)
        assert not lent(scorer)
    assert "goes by the host" not in caplog.text


@pytest.mark.parametrize("plans", [(), ENCODERS, ("fusion",), ("text",)], ids=" ".join)
def test_what_clips_share_stays_on_the_device_whoever_computes_it(make_bundle, clips, place, plans, caplog):
    made = make_bundle()
    for graph in plans:
        add_plan(made, graph)
    paths = (clips.both, clips.silent, clips.sound, clips.both)
    some = [DecodedClip(decoded(made, path), Transcript.given(SAID)) for path in paths]
    with open_by_host(made) as scorer:
        expected = [values(found) for found in scorer.score_batch(some)]
    say_by_host.cache_clear()
    with caplog.at_level(logging.INFO), open_scorer(made) as scorer:
        for _ in range(3):
            assert [values(found) for found in scorer.score_batch(some)] == expected
        assert not lent(scorer)
        assert all(scorer.model.engine(graph).pool._idle for graph in ENCODERS)
        allocated = place.gpu.allocations
        assert [values(found) for found in scorer.score_batch(some[::-1])] == expected[::-1]
        assert place.gpu.allocations == allocated
    assert "goes by the host" not in caplog.text


FEATURES = {"audio": "audio", "vision": "vision", "text": "text"}


def half_bundle(make_bundle, *, fusion, encoders):
    made = make_bundle(f"{fusion}{encoders}.taemi")
    add_plan(made, "fusion", halves=FEATURES if fusion else ())
    for graph in ENCODERS:
        add_plan(made, graph, halves=FEATURES if encoders else ())
    return made


def test_features_in_half_precision_stay_on_the_device_in_half_the_bytes(make_bundle, clips, place):
    found, within = [], []
    for half in (False, True):
        made = half_bundle(make_bundle, fusion=half, encoders=half)
        with open_by_host(made) as scorer:
            expected = values(scorer.predict(clips.both, SAID))
        with open_scorer(made) as scorer:
            assert scorer.model.engine("vision").info.outputs == ({"vision": "float16"} if half else {})
            before = place.gpu.copied["within"]
            found.append(values(scorer.predict(clips.both, SAID)))
            within.append(place.gpu.copied["within"] - before)
        assert found[-1] == expected
    assert within[0] == 2 * within[1] > 0
    assert found[0] != found[1]
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


@pytest.mark.parametrize(("fusion", "encoders"), [(True, False), (False, True)])
def test_another_element_type_goes_by_the_host_and_that_is_said(
    make_bundle, clips, place, caplog, fusion, encoders
):
    made = half_bundle(make_bundle, fusion=fusion, encoders=encoders)
    with caplog.at_level(logging.INFO), open_scorer(made) as scorer:
        for _ in range(2):
            found = values(scorer.predict(clips.both, SAID))
        assert not scorer.model.engine("vision").pool._idle
    np.testing.assert_allclose(found, made.expected(clips.both, SAID), atol=2e-3)
    there, taken = ("float32", "float16") if fusion else ("float16", "float32")
    for name in ENCODERS:
        line = f"fusion.{name} goes by the host: it is {there} there, {made.folder}/fp16.plan takes {taken}"
        assert caplog.text.count(line) == 1


def test_arrays_that_an_engine_cannot_take_come_to_the_host(make_bundle, clips, place, caplog):
    made = half_bundle(make_bundle, fusion=False, encoders=False)
    with (
        caplog.at_level(logging.INFO),
        open_scorer(made) as scorer,
        stream_clip(scorer, clips.both, Transcript.given(SAID), Clock()) as features,
    ):
        expected = scorer.fuse(features)
        assert set(features.resident) == set(FEATURES)
        with open_engine(
            made.folder / "fusion.onnx",
            scorer.model.manifest.graphs["fusion"],
            EngineOptions(device="cpu"),
            backend="onnxruntime-cpu",
        ) as other:
            found = other.run(features.feeds())["intensities"][0]
            with pytest.raises(EngineError, match="cannot keep outputs of"):
                other.run(features.feeds(), keep={"intensities": ()})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "onnxruntime-cpu takes its inputs from the host, not from cuda:0" in caplog.text
