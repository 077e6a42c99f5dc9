"""Encoders: the three parts of the model that are published on their own.

Each is an ordinary transformers model behind one small class, loaded with ``from_pretrained`` from a
hub id or a folder, described by plain values, and rebuilt from these and its weights without a hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from taemi.audio_encoder import AudioEncoder, load_audio_encoder, rebuild_audio_encoder
from taemi.text_encoder import TextEncoder, load_text_encoder, rebuild_text_encoder
from taemi.vision_encoder import VisionEncoder, load_vision_encoder, rebuild_vision_encoder
from taemi_runtime.errors import CheckpointError

__all__ = [
    "AudioEncoder",
    "Encoder",
    "TextEncoder",
    "VisionEncoder",
    "load_audio_encoder",
    "load_text_encoder",
    "load_vision_encoder",
    "rebuild",
]

Encoder = AudioEncoder | TextEncoder | VisionEncoder

_REBUILDERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Encoder]] = {
    "audio": rebuild_audio_encoder,
    "text": rebuild_text_encoder,
    "vision": rebuild_vision_encoder,
}


def rebuild(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> Encoder:
    """Rebuild an encoder in evaluation mode from ``describe()`` and ``state_dict()``.

    Args:
        description: What ``describe()`` gave.
        state: Tensors by name; they are copied.

    Raises:
        CheckpointError: The description is of no known kind, or transformers cannot build it.
        ValueError: The description is damaged.
        RuntimeError: The weights do not fit it.
    """
    kind = description.get("kind")
    if kind not in _REBUILDERS:
        raise CheckpointError(
            "cannot rebuild an encoder", f"its kind is {kind!r}, known are {', '.join(_REBUILDERS)}"
        )
    return _REBUILDERS[kind](description, state).eval()
