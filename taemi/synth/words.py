"""Transcripts of synthetic clips: sentences of the emotions in their grades, among everyday talk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taemi.synth.sentences import EVERYDAY_HELD_OUT, EVERYDAY_TRAINING, HELD_OUT, TRAINING
from taemi_runtime.emotions import EMOTIONS

# Conversational English has about 150 words a minute (Tauroza and Allison, "Speech rates in British
# English", 1990, give 170 for conversation and 140 for lectures).
_WORDS_PER_S = 2.5
# Of what is said beyond one sentence per emotion, this share is everyday talk.
_EVERYDAY_SHARE = 0.5


def write_transcript(
    grades: Sequence[int], seconds: float, rng: np.random.Generator, *, held_out: bool
) -> str:
    """Put a clip into words.

    Args:
        grades: [6] how strongly each emotion is expressed, 0 to 3, in the order of ``EMOTIONS``.
        seconds: How long the clip is; a longer one has more to say.
        rng: The clip's random numbers.
        held_out: Whether the sentences are those that no training clip has.

    Returns:
        Whole sentences; everyday talk alone where no emotion is expressed.
    """
    sentences, everyday = (HELD_OUT, EVERYDAY_HELD_OUT) if held_out else (TRAINING, EVERYDAY_TRAINING)
    expressed = [
        list(rng.permutation(sentences[emotion][grade - 1]))
        for emotion, grade in zip(EMOTIONS, grades, strict=True)
        if grade
    ]
    talk = list(rng.permutation(everyday))
    parts = [str(choices.pop()) for choices in expressed] or [str(talk.pop())]
    while True:
        more = talk
        if expressed and rng.random() >= _EVERYDAY_SHARE:
            more = expressed[rng.integers(len(expressed))]
        if not more:
            break
        sentence = str(more.pop())
        if sum(len(part.split()) for part in (*parts, sentence)) > seconds * _WORDS_PER_S:
            break
        parts.append(sentence)
    rng.shuffle(parts)
    return " ".join(parts)
