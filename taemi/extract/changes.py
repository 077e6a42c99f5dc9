"""Whether a clip's files are still those that its features were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from taemi.corpus import ClipRow
from taemi.crops import list_crops
from taemi.store.layout import ClipFacts
from taemi_runtime.resume import clip_digest

ROLES = ("audio", "media", "pictures")
"""The fields of a row that name files which extraction reads."""


def stamps_of(row: ClipRow) -> dict[str, str]:
    """Return name, size and time of change of each file that a clip has, by role.

    Nothing is read: of a folder of crops, the crops are listed.
    """
    found = {}
    for role in ROLES:
        path: Path | None = getattr(row, role)
        if path is not None and (stamp := _stamp(path)):
            found[role] = stamp
    return found


def digests_of(row: ClipRow, roles: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each file, or of all crops, by role; empty where there is none."""
    return {role: _digest(getattr(row, role)) for role in roles}


def is_unchanged(row: ClipRow, facts: ClipFacts, stamps: dict[str, str]) -> bool:
    """Return whether a clip's files hold what they held.

    Sizes and times tell mostly; where these differ, as after a copy, the content of the files that were read
    is compared.

    Args:
        row: The clip.
        facts: What its store says.
        stamps: The files as they are now.
    """
    if stamps == facts.stamps:
        return True
    if stamps.keys() != facts.stamps.keys():
        return False
    return digests_of(row, facts.sha256) == facts.sha256


def _stamp(path: Path) -> str:
    try:
        if not path.is_dir():
            found = path.stat()
            return f"{path.name} {found.st_size} {found.st_mtime_ns}"
        listed = hashlib.sha256()
        for number, crop in list_crops(path).crops:
            found = crop.stat()
            listed.update(f"{number} {found.st_size} {found.st_mtime_ns}\n".encode())
        return f"{path.name} {listed.hexdigest()}"
    except OSError:
        return ""


def _digest(path: Path | None) -> str:
    if path is None or not path.is_dir():
        return clip_digest(path) if path is not None else ""
    whole = hashlib.sha256()
    try:
        for number, crop in list_crops(path).crops:
            whole.update(f"{number} {clip_digest(crop)}\n".encode())
    except OSError:
        return ""
    return whole.hexdigest()
