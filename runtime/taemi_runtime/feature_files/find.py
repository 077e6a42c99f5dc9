"""From what stands on the command line to feature files: stores, files, globs of either."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from taemi_runtime.errors import DataError, UsageError
from taemi_runtime.feature_files.index import INDEX_NAME, StoreIndex, is_index, read_index, unlisted
from taemi_runtime.feature_files.layout import SUFFIX, Origin


@dataclass(frozen=True)
class FeatureInput:
    """A feature file to score.

    Args:
        path: Where it is.
        store: The store that it is of, as named; ``None`` for a file that was named by itself.
        lengths: Positions of each tensor by name, as the store's index says; ``None`` where it says
            nothing. Only an estimate: what the file itself says counts.
        sha256: Digest of the file, as the index says; empty where it says nothing.
        error: Why there is nothing to score; empty where there is.
    """

    path: Path
    store: Path | None = None
    lengths: dict[str, int] | None = None
    sha256: str = ""
    error: str = ""


@dataclass(frozen=True)
class Features:
    """What was found.

    Args:
        inputs: The feature files, those of a store by name.
        stores: What made the features of each store.
    """

    inputs: list[FeatureInput]
    stores: dict[Path, StoreIndex] = field(default_factory=dict)

    def origin(self, item: FeatureInput) -> Origin | None:
        """Return what made the features of an input's store."""
        return self.stores[item.store].origin if item.store is not None else None


def find_features(inputs: Iterable[str]) -> Features | None:
    """Find the feature files and stores among a command's inputs.

    Args:
        inputs: Files, folders and patterns.

    Returns:
        What is to be scored, each file once; ``None`` where nothing of it is features.

    Raises:
        UsageError: Some are features and some are not.
        DataError: A store cannot be opened, or is of another kind.
    """
    arguments = [(argument, _paths(argument)) for argument in inputs]
    kinds = {argument: {_is_features(path) for path in paths} for argument, paths in arguments}
    if not any(True in kind for kind in kinds.values()):
        return None
    others = [argument for argument, kind in kinds.items() if kind != {True}]
    if others:
        first = next(argument for argument, kind in kinds.items() if True in kind)
        raise UsageError(
            "cannot score clips and features in one run",
            f"{first} holds features, {others[0]} does not, or not alone",
            "Run taemi-infer twice",
        )
    stores: dict[Path, StoreIndex] = {}
    found: dict[Path, FeatureInput] = {}
    for _, paths in arguments:
        for path in paths:
            items = _of_store(path, stores) if path.is_dir() else [_of_file(path, stores)]
            for item in items:
                found.setdefault(item.path, item)
    return Features(list(found.values()), stores)


def _paths(argument: str) -> list[Path]:
    path = Path(argument)
    if path.exists() or not glob.has_magic(argument):
        return [path]
    # Path.glob takes no absolute pattern.
    return sorted(map(Path, glob.glob(argument, recursive=True))) or [path]  # noqa: PTH207


def _is_features(path: Path) -> bool:
    if path.is_dir():
        return is_index(path / INDEX_NAME) or _lost_its_index(path)
    return path.suffix.lower() == SUFFIX


def _lost_its_index(folder: Path) -> bool:
    """Return whether a folder holds feature files and nothing but.

    A bundle, for one, has a file of that suffix, too.
    """
    try:
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        # What is wrong with the folder is said by whoever looks for clips in it.
        return False
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def _of_store(folder: Path, stores: dict[Path, StoreIndex]) -> list[FeatureInput]:
    index = stores[folder] = read_index(folder)
    entries = {**index.clips, **unlisted(folder, index)}
    if not entries:
        raise DataError(f"cannot score the feature store {folder}", "it holds no clip", "Add some first")
    return [
        FeatureInput(folder / entry.file, folder, entry.lengths or None, entry.sha256)
        for _, entry in sorted(entries.items())
    ]


def _of_file(path: Path, stores: dict[Path, StoreIndex]) -> FeatureInput:
    """Take a file that was named by itself; the index beside it, where there is one, counts for it."""
    if not path.exists():
        return FeatureInput(path, error="there is no such file")
    folder = path.parent
    if folder not in stores and is_index(folder / INDEX_NAME):
        try:
            stores[folder] = read_index(folder)
        except DataError as error:
            return FeatureInput(path, error=str(error))
    return FeatureInput(path, folder if folder in stores else None)
