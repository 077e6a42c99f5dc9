"""From a clip's outputs to its result: what its file says, and what nobody can know any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

import numpy as np

from taemi_runtime.attention import Weights, cut_attention
from taemi_runtime.contract import SCORES
from taemi_runtime.engine import EngineInfo
from taemi_runtime.feature_files.done import Done, Scored
from taemi_runtime.feature_files.layout import AUDIO, TEXT, TOKENS, VISION
from taemi_runtime.remarks import tell_nothing
from taemi_runtime.results import AudioUse, ClipFailure, ClipResult, TextUse, Timings, VisionUse
from taemi_runtime.spec import GraphSpec

Use = TypeVar("Use", AudioUse, VisionUse)

SOURCE = "features"
_ABSENT = "the feature file does not have it"


@dataclass(frozen=True)
class ResultMaker:
    """Makes results of what an engine gave.

    Args:
        labels: Names of the scores in order.
        engine: What ran the fusion network.
        untrained: Whether its weights are random.
        clip_scores: Whether scores are clipped to [0, 1].
        attention: The fusion graph where results say what it attended to.
    """

    labels: tuple[str, ...]
    engine: EngineInfo
    untrained: bool = False
    clip_scores: bool = True
    attention: GraphSpec | None = None

    def make(self, done: Done) -> ClipResult | ClipFailure:
        """Return the result of an input, or its failure."""
        if isinstance(done.scored, Exception):
            return ClipFailure.from_error(str(done.item.path), done.scored)
        scored = done.scored
        facts = scored.facts
        scores = scored.outputs[SCORES]
        if self.clip_scores:
            scores = np.clip(scores, 0.0, 1.0) + 0.0  # no -0.0
        audio = _sequence(AudioUse, scored.lengths.get(AUDIO, 0), facts.audio)
        vision = _sequence(VisionUse, scored.lengths.get(VISION, 0), facts.vision)
        text = _text(scored)
        return ClipResult(
            clip=facts.clip or PurePath(done.item.path).name,
            clip_seconds=facts.clip_seconds,
            # The shortest decimal that reads back as the same float32, not its 17 digits as a float64.
            intensities={name: float(str(score)) for name, score in zip(self.labels, scores, strict=True)},
            audio=audio,
            vision=vision,
            text=text,
            engine=self.engine,
            timings_ms=Timings(decode=scored.read_ms, fusion=scored.engine_ms, total=scored.total_ms),
            untrained=self.untrained,
            attention=self._attention(scored) if self.attention is not None else None,
            warnings=facts.warnings + tell_nothing(audio.present, vision.present, text.present),
        )

    def _attention(self, scored: Scored) -> Weights:
        assert self.attention is not None
        lengths = {name.removesuffix("_tokens"): length for name, length in scored.lengths.items()}
        return cut_attention(self.attention, scored.outputs, lengths)


def _sequence(use: type[Use], frames: int, said: Use | None) -> Use:
    """Say what was used of a sequence, with what the file knows of the clip that it came from."""
    if not frames:
        return said if said is not None and not said.present else use(False, why=_ABSENT)
    if said is None or not said.present:
        return use(True, frames, seconds_used=None)
    return replace(said, frames=frames)


def _text(scored: Scored) -> TextUse:
    said = scored.facts.text
    tokens = scored.lengths.get(TOKENS)
    if tokens is None and TEXT not in scored.lengths:
        return said if said is not None and not said.present else TextUse(False, why=_ABSENT)
    if said is None or not said.present:
        return TextUse(True, tokens, None, SOURCE)
    return replace(said, source=SOURCE)
