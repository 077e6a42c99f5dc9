"""Attention over time: a distribution over the frames that are there."""

from __future__ import annotations

import pytest

import taemi_runtime
from taemi.attention_trace import trace_attention


def test_weights_sum_to_one_over_the_clip(demo_checkpoint, demo_bundle, demo_clip):
    with taemi_runtime.load(demo_bundle) as scorer:
        features = scorer.features(demo_clip, "that joke was hilarious")
    traces = trace_attention(demo_checkpoint, features)
    assert set(traces) == {"audio", "vision"}
    for trace in traces.values():
        assert trace.weights.sum() == pytest.approx(1, abs=1e-5)
        assert len(trace.weights) == len(trace.seconds) > 5
        assert 0 < trace.seconds[0] < trace.seconds[-1] < features.clip.seconds + 0.1
    assert len(traces["audio"].weights) == features.audio.frames
