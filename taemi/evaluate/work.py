"""A clip on its way through the cases: what was planned for it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from taemi.corpus import ClipRow
from taemi.evaluate.reading import RowClip
from taemi_runtime.batching import DecodedClip
from taemi_runtime.clip_features import ClipFeatures
from taemi_runtime.transcripts import Transcript

Scores = npt.NDArray[np.float32]
Inputs = dict[str, Any]
Present = tuple[bool, ...]


@dataclass(frozen=True)
class Scored:
    """A clip's scores.

    Args:
        scores: [cases, outputs] float32, not clipped: ``CONDITIONS``, then the levels of every curve.
        has: Which modalities the clip has, in the order of ``MODALITIES``.
    """

    scores: Scores
    has: Present


@dataclass
class Work:
    """A clip on its way through the cases.

    Args:
        row: The clip.
        clip: What was read of it.
        base: Its features as it is.
        has: Which modalities it has.
        cases: For each case what its inputs are called.
        made: The fusion graph's inputs by what they are called.
        scores: What they are scored.
        error: What went wrong.
    """

    row: ClipRow
    clip: RowClip
    base: ClipFeatures
    has: Present
    cases: list[str] = field(default_factory=list)
    made: dict[str, Inputs] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    error: Exception | None = None

    def swap(self, modality: str, inputs: Inputs) -> Inputs:
        """Return the inputs with those of one modality replaced."""
        return {**self.base.inputs, **inputs_of(modality, inputs)}

    def conclude(self) -> Scored | Exception:
        """Return its scores, or what went wrong with it."""
        if self.error is not None:
            return self.error
        return Scored(np.stack([self.scores[name] for name in self.cases]), self.has)


def inputs_of(modality: str, inputs: Inputs) -> Inputs:
    """Return the inputs of one modality: itself and its mask, or its tokens and theirs."""
    return {name: value for name, value in inputs.items() if name.split("_")[0] == modality}


def only_part(
    clip: RowClip, *, waveform: npt.NDArray[np.float32] | None = None, words: str = ""
) -> DecodedClip:
    """Return a clip of which nothing is left but its sound or its words."""
    return DecodedClip(replace(clip, waveform=waveform, frames=None), Transcript(words, "file"))
