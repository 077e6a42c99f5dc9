"""The release that a version names, for comparing."""

from __future__ import annotations


def release_of(version: str, parts: int) -> tuple[int, ...]:
    """Return the first numbers of a version, e.g. (1, 31) of ``1.31.1``; what is no number is left out.

    Args:
        version: The version.
        parts: How many of its parts are looked at.
    """
    return tuple(int(part) for part in version.split(".")[:parts] if part.isdigit())
