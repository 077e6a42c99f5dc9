"""Writing one clip's features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from taemi_runtime.atomic import write_bytes
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.layout import AUDIO, TEXT, TOKENS, VISION, FeatureFacts, to_metadata
from taemi_runtime.input_checks import HALF_MAX
from taemi_runtime.spec import Array

_AXES = {AUDIO: 2, VISION: 2, TEXT: 1, TOKENS: 2}


def write_features(path: Path, features: Mapping[str, Array], facts: FeatureFacts) -> str:
    """Write a feature file atomically, in half precision.

    Args:
        path: The file.
        features: ``audio`` [frames, D_a], ``vision`` [frames, D_v], ``text`` [D_t] or ``text_tokens``
            [tokens, D_t], floating point; a missing modality is left out, and all of them may be.
        facts: What the file says of its clip.

    Returns:
        The file's SHA-256.

    Raises:
        DataError: A tensor is of another name or shape, has no rows, or holds what half precision cannot.
        WriteError: The disk is full, or the place cannot be written to.
    """
    asked = f"cannot write features to {path}"
    halves = {}
    for name, values in features.items():
        if name not in _AXES or values.ndim != _AXES[name] or values.dtype.kind != "f" or not values.size:
            raise DataError(
                asked, f"{name} is {values.dtype} {list(values.shape)}", "See docs/feature-stores.md"
            )
        largest = float(np.abs(values).max())
        if not largest <= HALF_MAX:
            raise DataError(
                asked,
                f"{name} reaches {largest:g}, half precision ends at {HALF_MAX:g}",
                "Score the clip itself: such features cannot be kept",
            )
        halves[name] = np.ascontiguousarray(values, dtype=np.float16)
    content = save(halves, metadata=to_metadata(facts))
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()
