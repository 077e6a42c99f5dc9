"""A growing feature store: one file a clip, at any moment whole, and resumed where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from taemi_runtime.atomic import explain_write, write_text
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.index import (
    INDEX_NAME,
    StoreEntry,
    StoreIndex,
    format_index,
    read_index,
    unlisted,
)
from taemi_runtime.feature_files.layout import SUFFIX, FeatureFacts, Origin
from taemi_runtime.feature_files.origin import differences
from taemi_runtime.feature_files.writing import write_features
from taemi_runtime.spec import Array

# The index of a large store is megabytes: it is written this often, and once at the end.
_INDEX_SECONDS = 5.0
_INDEX_SHARE = 20


@dataclass(frozen=True)
class StoredClip:
    """A clip that a store has.

    Args:
        name: Its name in the store.
        path: Its file.
    """

    name: str
    path: Path


class FeatureStoreWriter:
    """Adds clips to a store.

    Args:
        folder: The store; created where there is none.
        origin: What makes the features.
        preprocessing: What turns clips into the encoders' inputs, as plain values.

    Raises:
        DataError: The folder is no store, or its features were made by other encoders or with other
            preprocessing.
        WriteError: The folder cannot be made.
    """

    def __init__(self, folder: Path, origin: Origin, preprocessing: dict[str, Any]) -> None:
        self.folder = folder
        # Through JSON and back, so that tuples and lists compare equal.
        self.index = StoreIndex(origin=origin, preprocessing=json.loads(json.dumps(preprocessing)))
        if (folder / INDEX_NAME).exists():
            self.index = self._reopen(folder, self.index)
        else:
            self._create()
        self._written = time.monotonic()
        self._writing_s = 0.0

    def _create(self) -> None:
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            found = "the folder holds other things" if self.folder.is_dir() else "it is a file"
            raise DataError(
                f"cannot make a feature store of {self.folder}",
                f"{found}, and no {INDEX_NAME}",
                "Name a new folder, or an empty one",
            )
        with explain_write(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / INDEX_NAME, format_index(self.index))

    @staticmethod
    def _reopen(folder: Path, wanted: StoreIndex) -> StoreIndex:
        index = read_index(folder)
        different = differences(index.origin, wanted.origin, precision=True)
        if index.preprocessing != wanted.preprocessing:
            different.append(f"preprocessing {changes(index.preprocessing, wanted.preprocessing)}")
        if different:
            raise DataError(
                f"cannot add to the feature store {folder}",
                "it was made otherwise: " + "; ".join(different),
                "Give --save-features another folder",
            )
        return replace(index, clips={**index.clips, **unlisted(folder, index)})

    def find(self, name: str, clip_sha256: str) -> StoredClip | None:
        """Return the clip of this name and content, where the store has it."""
        for candidate in (_file_name(name), f"{_file_name(name)}-{clip_sha256[:12]}"):
            entry = self.index.clips.get(candidate)
            if entry is not None and entry.lengths and clip_sha256 == entry.clip_sha256 != "":
                return StoredClip(candidate, self.folder / entry.file)
        return None

    def add(self, name: str, features: Mapping[str, Array], facts: FeatureFacts) -> StoredClip:
        """Write a clip's features; a clip of the same name and content is replaced.

        Args:
            name: What the clip is called, e.g. its file's name without suffix; where the store has
                another clip of that name, the beginning of its digest is added.
            features: As for ``write_features``.
            facts: What the file says of its clip.

        Raises:
            DataError: The features are none that can be stored.
            WriteError: The disk is full, or the place cannot be written to.
        """
        name = self._free_name(name, facts.clip_sha256)
        path = self.folder / f"{name}{SUFFIX}"
        facts = replace(facts, origin=self.index.origin)
        sha256 = write_features(path, features, facts)
        lengths = {key: len(values) if values.ndim == 2 else 1 for key, values in features.items()}
        self.index.clips[name] = StoreEntry(path.name, facts.clip_sha256, sha256, lengths)
        # However large the store becomes, its index takes a small share of the time.
        if time.monotonic() - self._written > max(_INDEX_SECONDS, _INDEX_SHARE * self._writing_s):
            self.flush()
        return StoredClip(name, path)

    def _free_name(self, name: str, sha256: str) -> str:
        name = _file_name(name)
        there = self.index.clips.get(name)
        if there is None or (sha256 and there.clip_sha256 == sha256) or not there.lengths:
            return name
        if not sha256:
            raise DataError(
                f"cannot add clip {name} to the feature store {self.folder}",
                "it has one of that name, and without a digest nobody can tell whether it is another",
                "Give clips different names, or the digest of their content",
            )
        return f"{name}-{sha256[:12]}"

    def flush(self) -> None:
        """Write the index."""
        start = time.monotonic()
        write_text(self.folder / INDEX_NAME, format_index(self.index))
        self._written = time.monotonic()
        self._writing_s = self._written - start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _file_name(name: str) -> str:
    # Hidden names and separators would make files of another kind.
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "clip"


def changes(first: Any, second: Any, place: str = "") -> str:
    """Name the values in which two trees differ, with both."""
    if isinstance(first, dict) and isinstance(second, dict):
        parts = [
            changes(first.get(key), second.get(key), f"{place}.{key}" if place else key)
            for key in {**first, **second}
            if first.get(key) != second.get(key)
        ]
        return ", ".join(parts)
    return f"{place} {first!r}, here {second!r}"
