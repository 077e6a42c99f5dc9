"""Sentences for synthetic clips, written by hand: each emotion in three grades, and everyday talk.

Training clips draw from ``TRAINING`` and all others from ``HELD_OUT``; no sentence stands in both.
"""

from __future__ import annotations

from taemi.synth.sentences import (
    admiration,
    amusement,
    determination,
    empathic_pain,
    everyday,
    excitement,
    joy,
)
from taemi.synth.sentences.grades import Sentences

_MODULES = {
    "Admiration": admiration,
    "Amusement": amusement,
    "Determination": determination,
    "Empathic Pain": empathic_pain,
    "Excitement": excitement,
    "Joy": joy,
}

TRAINING: dict[str, Sentences] = {emotion: module.TRAINING for emotion, module in _MODULES.items()}
HELD_OUT: dict[str, Sentences] = {emotion: module.HELD_OUT for emotion, module in _MODULES.items()}
EVERYDAY_TRAINING: tuple[str, ...] = everyday.TRAINING
EVERYDAY_HELD_OUT: tuple[str, ...] = everyday.HELD_OUT
