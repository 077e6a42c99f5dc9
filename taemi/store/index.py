"""Reading a training store: its index, and the files that the index does not list yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from taemi.store.files import read_facts
from taemi.store.layout import INDEX_NAME, VERSION, ClipFacts, MadeWith, StoreIndex
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.index import is_training_index
from taemi_runtime.feature_files.layout import SUFFIX, TRAINING_FORMAT
from taemi_runtime.feature_files.store import changes
from taemi_runtime.strict import from_plain

_ELSEWHERE = "Delete the folder, or extract into another one: taemi extract CORPUS STORE"


def is_store(folder: Path) -> bool:
    """Return whether a folder is a training store."""
    try:
        return is_training_index(msgspec.json.decode((folder / INDEX_NAME).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False


def read_index(folder: Path) -> StoreIndex:
    """Read a store's index; clips that it does not list yet are taken from their files.

    Raises:
        DataError: It is damaged, or of another format or version.
    """
    asked = f"cannot open the feature store {folder}"
    try:
        data = msgspec.json.decode((folder / INDEX_NAME).read_bytes())
    except FileNotFoundError:
        raise DataError(
            asked, f"it has no {INDEX_NAME}", "Make it again from its files: taemi extract CORPUS STORE"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            asked, f"{INDEX_NAME} cannot be read ({error})", f"Delete {INDEX_NAME} and extract again"
        ) from error
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
    if found != (TRAINING_FORMAT, VERSION):
        raise DataError(
            asked,
            f"its {INDEX_NAME} is of format {found[0]!r}, version {found[1]!r}; this taemi reads "
            f"{TRAINING_FORMAT!r}, version {VERSION}",
            _ELSEWHERE,
        )
    try:
        index = from_plain(data, StoreIndex)
    except ValueError as error:
        raise DataError(
            asked, f"{INDEX_NAME} breaks version {VERSION}: {error}", f"Delete {INDEX_NAME} and extract again"
        ) from error
    return replace(index, clips=listed_clips(folder, index))


def listed_clips(folder: Path, index: StoreIndex) -> dict[str, ClipFacts]:
    """Return what is known of the clips whose files are there.

    A file that cannot be read is as good as none: it is extracted again.

    Args:
        folder: The store.
        index: Its index; what its table lacks is read from the files.

    Raises:
        DataError: A file was made with something else.
    """
    found: dict[str, ClipFacts] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name.startswith("."):
            continue
        facts = index.clips.get(path.stem)
        if facts is None:
            try:
                made_with, facts = read_facts(path)
            except DataError:
                continue
            require_same(folder, made_with, index.made_with)
        found[path.stem] = facts
    return found


def require_same(folder: Path, stored: MadeWith, here: MadeWith) -> None:
    """Refuse to mix features of several encoders or preprocessings.

    Raises:
        DataError: They differ; both values are in the message.
    """
    if found := differences(stored, here):
        raise DataError(f"cannot add to the feature store {folder}", found, _ELSEWHERE)


def differences(stored: MadeWith, here: MadeWith) -> str:
    """Name what two stores were made with where it differs, with both values; empty where it does not.

    An encoder is known by its weights, whatever it is called.
    """
    for name in ("audio", "text"):
        kept = [getattr(made, f"{name}_encoder") is not None for made in (stored, here)]
        if kept[0] != kept[1]:
            said = [f"features of the {name} encoder" if there else "none" for there in kept]
            return f"it keeps {said[0]}, and here {said[1]} are kept (--{name}-features)"
    one, other = _without_names(stored), _without_names(here)
    if one == other:
        return ""
    differing = [key for key in one if one[key] != other[key]]
    return f"it was made with another {' and '.join(differing)}: {changes(one, other)}"


def _without_names(made_with: MadeWith) -> dict[str, Any]:
    # Through JSON and back, so that tuples and lists compare equal.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made_with))
    for value in plain.values():
        if isinstance(value, dict):
            value.pop("name", None)
    return plain
