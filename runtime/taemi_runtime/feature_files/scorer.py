"""Scores feature files and stores; needs the fusion network only."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from taemi_runtime.attention import require_attention
from taemi_runtime.closing import Closing
from taemi_runtime.contract import FAMILY, FUSION, SCORES
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, UsageError
from taemi_runtime.feature_files.find import FeatureInput, Features, find_features
from taemi_runtime.feature_files.layout import FeatureFacts, Origin
from taemi_runtime.feature_files.lone import open_lone, stands_alone
from taemi_runtime.feature_files.origin import origin_of, require_same
from taemi_runtime.feature_files.results import ResultMaker
from taemi_runtime.feature_files.store import changes
from taemi_runtime.feature_files.stream import FeatureStream
from taemi_runtime.loading import LoadedModel, open_model
from taemi_runtime.results import ClipFailure, ClipResult

Placed = tuple[int, ClipResult | ClipFailure]

_log = logging.getLogger(__name__)


class FeatureScorer(Closing):
    """Scores features with a fusion network.

    Args:
        engine: Bundle folder (one without encoders will do), engine file, or checkpoint. An ONNX graph or a
            plan that stands in no bundle and names none takes features all the same.
        bundle: The bundle of an engine file that stands elsewhere.
        options: Device and threads.
        batch: Clips a call; chosen by the device when ``None``.
        clip_scores: Whether scores are clipped to [0, 1].
        attention: Whether results say what the network attended to.

    Raises:
        TaemiError: The engine cannot be opened, or scores no features.
    """

    def __init__(
        self,
        engine: Path,
        *,
        bundle: Path | None = None,
        options: EngineOptions | None = None,
        batch: int | None = None,
        clip_scores: bool = True,
        attention: bool = False,
    ) -> None:
        self.path = engine
        self.preprocessing: dict[str, Any] = {}
        self._resources = contextlib.ExitStack()
        try:
            if bundle is None and stands_alone(engine):
                lone = open_lone(engine, options or EngineOptions())
                self._resources.callback(lone.engine.close)
                opened, labels, untrained = lone.engine, lone.labels, lone.untrained
                self.origin = Origin()
                _log.info("%s stands in no bundle: it takes feature files only, no clips", engine)
            else:
                model = self._resources.enter_context(open_model(engine, bundle=bundle, options=options))
                opened, labels = _fusion(model)
                untrained = not model.manifest.trained
                self.origin = origin_of(model)
                self.preprocessing = model.manifest.preprocessing
            self.untrained = untrained
            self.stream = FeatureStream(opened, engine, batch=batch, check=self._check)
            self.labels = labels
            if attention:
                require_attention(opened.spec, engine)
            spec = opened.spec if attention else None
            self._maker = ResultMaker(labels, opened.info, untrained, clip_scores, spec)
        except BaseException:
            self.close()
            raise
        self._seen: Origin | None = None
        self._said: set[str] = set()
        self._saying = threading.Lock()

    def score(self, inputs: Iterable[str | PathLike[str]]) -> Generator[Placed]:
        """Score stores, files and patterns.

        Args:
            inputs: What to score.

        Returns:
            Place and outcome of every clip, as soon as its batch is done; places are those of ``find``.

        Raises:
            UsageError: Something of it is no features.
            DataError: A store cannot be opened, or its features are of other encoders.
        """
        return self.score_found(self.find(inputs))

    def find(self, inputs: Iterable[str | PathLike[str]]) -> Features:
        """Return the feature files among inputs; arguments and errors as for ``score``."""
        names = [fspath(item) for item in inputs]
        found = find_features(names)
        if found is None:
            raise UsageError(
                f"cannot score {', '.join(names) or 'nothing'} as features",
                "there is no feature store and no feature file",
                "Name a store's folder or .safetensors files",
            )
        return found

    def score_found(self, features: Features, *, skip: frozenset[int] = frozenset()) -> Generator[Placed]:
        """Score what ``find`` found.

        Args:
            features: What to score.
            skip: Places that are done already.

        Returns:
            Place and outcome of every other clip, as soon as its batch is done.

        Raises:
            DataError: The features of a store are of other encoders.
        """
        for folder, index in features.stores.items():
            self._say_once(require_same(index.origin, self.origin, f"the feature store {folder}", self.path))
            if self.preprocessing and index.preprocessing != self.preprocessing:
                changed = changes(index.preprocessing, self.preprocessing)
                self._say_once(f"{folder} was made with other preprocessing than {self.path}: {changed}")
        places = [place for place in range(len(features.inputs)) if place not in skip]
        return self._outcomes(places, [features.inputs[place] for place in places])

    def _outcomes(self, places: list[int], inputs: list[FeatureInput]) -> Generator[Placed]:
        with contextlib.closing(self.stream.run(inputs)) as stream:
            for done in stream:
                yield places[done.index], self._maker.make(done)

    def _check(self, facts: FeatureFacts, item: FeatureInput) -> None:
        """Refuse a file whose features are of other encoders."""
        if facts.origin is not None and facts.origin == self._seen:
            return
        if facts.origin is None and item.store is not None:
            return
        about = require_same(facts.origin, self.origin, f"the feature file {item.path}", self.path)
        if item.store is None:
            self._say_once(about, kind="file")
        self._seen = facts.origin

    def _say_once(self, warning: str, kind: str = "") -> None:
        with self._saying:
            if warning and (kind or warning) not in self._said:
                self._said.add(kind or warning)
                _log.warning("%s", warning)

    def close(self) -> None:
        """Close the engine; closing twice does nothing."""
        self._resources.close()


def _fusion(model: LoadedModel) -> tuple[Engine, tuple[str, ...]]:
    manifest = model.manifest
    asked = f"cannot score features with {model.path}"
    if manifest.family != FAMILY:
        raise BundleError(
            asked,
            f"its model family is {manifest.family!r}, features are scored by {FAMILY!r}",
            "Give a bundle or checkpoint of a TAEMI model",
        )
    if FUSION not in manifest.graphs:
        raise BundleError(asked, f"it has no graph {FUSION}", "Export it: taemi-export onnx CKPT --force")
    labels = next((item.labels for item in manifest.graphs[FUSION].outputs if item.name == SCORES), ())
    return model.engine(FUSION), labels
