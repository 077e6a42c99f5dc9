"""TAEMI: from clip.mp4 to six emotional mimicry intensities.

A lazy facade: importing it loads neither torch nor any decoder.

    import taemi
    with taemi.load("ckpt.taemi") as scorer:
        print(scorer.predict("clip.mp4", transcript="what a lovely day").intensities)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taemi.config import ModelConfig, variant
    from taemi.model import Taemi
    from taemi_runtime import ClipFailure, ClipResult, TaemiError, WindowResult, load

__all__ = [
    "ClipFailure",
    "ClipResult",
    "ModelConfig",
    "Taemi",
    "TaemiError",
    "WindowResult",
    "load",
    "variant",
]

_HOMES = {
    "ClipFailure": "taemi_runtime",
    "ClipResult": "taemi_runtime",
    "ModelConfig": "taemi.config",
    "Taemi": "taemi.model",
    "TaemiError": "taemi_runtime",
    "WindowResult": "taemi_runtime",
    "load": "taemi_runtime",
    "variant": "taemi.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taemi' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
