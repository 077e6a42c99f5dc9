"""How a hostile file must end: refused soon, with what was found and what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from taemi_runtime.errors import MediaError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import read_clip
from tests.runtime.made_clips import (
    PREPROCESSING,
)

SECONDS = 5  # Within which a hostile file must be refused.


def refuse(path: Path, **limits: float) -> MediaError:
    """Read a file that must be refused soon, and return the error."""
    start = time.monotonic()
    with pytest.raises(MediaError) as caught:
        read_clip(path, PREPROCESSING, limits=DecodeLimits(**limits))
    assert time.monotonic() - start < SECONDS
    assert caught.value.found
    assert caught.value.fix
    return caught.value
