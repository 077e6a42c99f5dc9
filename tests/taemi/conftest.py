"""What several of these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from taemi.encoder_sets import write_tiny_encoders


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    return write_tiny_encoders(tmp_path_factory.mktemp("tiny"), seed=5)
