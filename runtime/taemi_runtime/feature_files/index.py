"""The index of a feature store: what made its features, and a table of its clips.

The files are what counts: the index is written now and then while a store grows, and a file that it does
not list yet, because the process was killed, is found by its name and read from its header.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.layout import FORMAT, SUFFIX, TRAINING_FORMAT, VERSION, Origin
from taemi_runtime.feature_files.reading import MAKE_ONE, read_facts
from taemi_runtime.strict import from_plain, to_json

INDEX_NAME = "index.json"
# As much of an index is read to tell what it is; all of it for any but a large store of ours.
_MOST_PEEKED = 1 << 16
# Two of the keys of the index that training wrote before its stores had a format.
_TRAINING = {"vision_encoder", "preprocessing"}


@dataclass(frozen=True)
class StoreEntry:
    """One clip of a store.

    Args:
        file: Its file in the store's folder.
        clip_sha256: Digest of the clip that it was made of; empty where nobody computed it.
        sha256: Digest of the file; empty where the index was lost and the file found again.
        lengths: Positions of each tensor by name; a missing modality is not there.
    """

    file: str
    clip_sha256: str = ""
    sha256: str = ""
    lengths: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """A store's table of contents.

    Args:
        format: What it is; first, so that a large one is known by its beginning.
        version: The format's version.
        origin: What made its features.
        preprocessing: What turned clips into the encoders' inputs, as plain values of the model family.
        clips: Its clips by name.
    """

    format: str = FORMAT
    version: int = VERSION
    origin: Origin
    preprocessing: dict[str, Any]
    clips: dict[str, StoreEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.clips.values():
            if entry.file in ("", ".", "..") or "/" in entry.file or "\\" in entry.file:
                raise ValueError(f"file {entry.file!r} would leave the store")


def read_index(folder: Path) -> StoreIndex:
    """Read a store's index.

    Raises:
        DataError: There is none, it is damaged, of another version, or of a training store.
    """
    path = folder / INDEX_NAME
    asked = f"cannot open the feature store {folder}"
    try:
        data = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            asked,
            f"it has no {INDEX_NAME}, which says what made its features",
            f"Name its files: {folder}/*{SUFFIX}",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(asked, f"{INDEX_NAME} cannot be read ({error})", MAKE_ONE) from error
    if is_training_index(data):
        raise DataError(
            asked,
            "it is a training store: it holds the waveform and the vision features of each clip, and what it "
            "may hold of audio and text features says nothing of a bundle's encoders",
            MAKE_ONE,
        )
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise DataError(
            asked,
            f"its {INDEX_NAME} is of format {found[0]!r}, version {found[1]!r}; this taemi reads {FORMAT!r}, "
            f"version {VERSION}",
            MAKE_ONE,
        )
    try:
        return replace(from_plain({**data, "clips": {}}, StoreIndex), clips=_read_entries(data["clips"]))
    except (KeyError, ValueError) as error:
        raise DataError(asked, f"{INDEX_NAME} breaks version {VERSION}: {error}", MAKE_ONE) from error


def _read_entries(data: Any) -> dict[str, StoreEntry]:
    """Read the table of clips: strictly, but without a walk over a hundred thousand trees.

    Raises:
        ValueError: A value is of another type, or a field is unknown.
    """
    entries = msgspec.convert(data, dict[str, StoreEntry], strict=True)
    known = {item.name for item in fields(StoreEntry)}
    for name, entry in data.items():
        if not entry.keys() <= known:
            raise ValueError(f"unknown field {', '.join(sorted(entry.keys() - known))} of clip {name!r}")
    return entries


def is_training_index(data: Any) -> bool:
    """Return whether an index is one that training writes."""
    if not isinstance(data, dict):
        return False
    return data.get("format") == TRAINING_FORMAT or (set(data) >= _TRAINING and "format" not in data)


def is_index(path: Path) -> bool:
    """Return whether a file looks like the index of a feature store, ours or training's.

    Whoever has a folder of clips may have an ``index.json`` of another meaning in it.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_MOST_PEEKED)
        if len(head) == _MOST_PEEKED:
            # Only the table of clips becomes as large.
            start = head[:64]
            return b'"format"' in start and (FORMAT.encode() in start or TRAINING_FORMAT.encode() in start)
        data = msgspec.json.decode(head)
    except (OSError, ValueError, RecursionError):
        return False
    return is_training_index(data) or (isinstance(data, dict) and "format" in data and "clips" in data)


def format_index(index: StoreIndex) -> str:
    """Format an index as JSON."""
    return to_json(index)


def unlisted(folder: Path, index: StoreIndex) -> dict[str, StoreEntry]:
    """Return the entries of whole files that an index does not list, by name."""
    listed = {entry.file for entry in index.clips.values()}
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name in listed or path.name.startswith("."):
            continue
        try:
            facts, lengths = read_facts(path)
        except DataError:
            # Scoring it says what is wrong with it; adding its clip again replaces it.
            found[path.stem] = StoreEntry(path.name)
            continue
        found[path.stem] = StoreEntry(path.name, facts.clip_sha256, lengths=lengths)
    return found
