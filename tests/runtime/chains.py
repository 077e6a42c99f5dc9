"""What the tests of the chain on the device share."""

from __future__ import annotations

import contextlib

import pytest

from taemi_runtime import encoding, pipeline
from taemi_runtime.engine import EngineOptions
from taemi_runtime.loading import open_model
from taemi_runtime.media import read_clip
from taemi_runtime.pipeline import ClipScorer
from tests.runtime.tiny_bundle import Made

SAID = "I won the race today"


def open_scorer(made: Made, layer: str = "cuda-python", *, contexts: int = 4) -> ClipScorer:
    """Open a bundle; scores are not clipped."""
    options = EngineOptions(cuda_backend=layer, contexts=contexts)
    return ClipScorer(open_model(made.folder, options=options), clip_scores=False)


def open_by_host(made: Made, layer: str = "cuda-python") -> ClipScorer:
    """Open a bundle whose features go down to the host and up again."""
    init = encoding.ClipEncoder.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline.ClipEncoder,
            "__init__",
            lambda self, model, preprocessing, **_: init(self, model, preprocessing),
        )
        return open_scorer(made, layer)


def make_lanes(scorer: ClipScorer) -> None:
    """Make the second lane of every plan now: otherwise it comes with the first two calls that meet."""
    for graph in scorer.model.manifest.graphs:
        engine = scorer.model.engine(graph)
        with contextlib.ExitStack() as stack:
            for _ in range(engine.calls_at_a_time):
                stack.enter_context(engine._lane())


def values(result) -> list[float]:
    """Return a result's scores."""
    return list(result.intensities.values())


def pools(scorer: ClipScorer) -> list:
    """Return the pools of a model's engines."""
    return [engine.pool for engine in scorer.model._engines.values() if engine.pool is not None]


def lent(scorer: ClipScorer) -> int:
    """Return how many arrays on the device nobody has given back."""
    return sum(len(pool._lent) for pool in pools(scorer))


def decoded(made: Made, path):
    """Return a clip, decoded."""
    return read_clip(path, made.preprocessing)
