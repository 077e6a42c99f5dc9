"""Finding the files of clips by their numbers, whatever exactly they are called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from taemi.split_files import clip_name


def clip_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by the clip that they belong to; empty where there is no such folder."""
    found: dict[str, Path] = {}
    for entry in list_folder(folder):
        path = Path(entry.path)
        if path.suffix.lower() not in suffixes:
            continue
        known = found.get(name := clip_name(path.stem))
        if known is None or _rank(path, suffixes) < _rank(known, suffixes):
            found[name] = path
    return found


def clip_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by the clip that they belong to."""
    # Path.is_dir and not the entry's: that one raises where a link leads in a circle.
    return {
        clip_name(path.name): path for entry in list_folder(folder) if (path := Path(entry.path)).is_dir()
    }


def _rank(path: Path, suffixes: tuple[str, ...]) -> int:
    return suffixes.index(path.suffix.lower())


def list_folder(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder by name; nothing where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            # The same file counts wherever the corpus was copied to.
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
