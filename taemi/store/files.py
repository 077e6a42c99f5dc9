"""A clip's file in a training store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from taemi.store.layout import ClipFacts, MadeWith, from_metadata, to_metadata
from taemi_runtime.atomic import write_bytes
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.header import Damaged, open_regular, read_header
from taemi_runtime.feature_files.layout import SUFFIX

Arrays = Mapping[str, npt.NDArray[Any]]


def clip_path(folder: Path, name: str) -> Path:
    """Return a clip's file."""
    return folder / f"{name}{SUFFIX}"


def write_clip(folder: Path, name: str, arrays: Arrays, made_with: MadeWith, facts: ClipFacts) -> None:
    """Write a clip's file atomically.

    Args:
        folder: The store.
        name: The clip.
        arrays: By name, as in ``ClipFeatures``; what the clip lacks is left out.
        made_with: What they were made with.
        facts: What the file says of the clip.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    whole = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
    # To memory first: the library's own writer reports a full disk as an error of the format.
    write_bytes(clip_path(folder, name), save(whole, metadata=to_metadata(name, made_with, facts)))


def read_facts(path: Path) -> tuple[MadeWith, ClipFacts]:
    """Read what a clip's file says, without its arrays.

    Raises:
        DataError: It is damaged, or no file of a training store.
    """
    try:
        with open_regular(path) as (handle, size):
            return from_metadata(read_header(handle, size).metadata)
    except (Damaged, OSError, ValueError) as error:
        raise DataError(
            f"cannot read features from {path}", str(error), "Delete the file and extract again"
        ) from error
