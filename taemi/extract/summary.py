"""What an extraction says at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taemi.corpus import ClipRow
from taemi.extract.changes import ROLES
from taemi.extract.run import Extracted

_NAMED = 5


def describe(done: Extracted) -> str:
    """Return counts and rate in one line."""
    parts = [f"{done.clips:,} clips"]
    if done.before:
        parts.append(f"{done.before:,} of them done before")
    worked = done.clips - done.before
    if worked:
        parts.append(f"{worked / max(done.seconds, 1e-9):.1f} clips/s")
    if done.failures:
        parts.append(f"{len(done.failures):,} failed")
    return ", ".join(parts)


def sum_up(failures: Mapping[str, str], rows: Sequence[ClipRow]) -> list[str]:
    """Return a line for each reason for which clips failed, the most frequent first.

    Args:
        failures: The reason for each clip that failed, by name.
        rows: The clips, whose files' names are left out of reasons.
    """
    known = {row.name: row for row in rows}
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(failures.items()):
        by_reason.setdefault(_without_names(reason, known.get(name)), []).append(name)
    lines = []
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{len(names)} failed ({', '.join(names[:_NAMED])}{more}): {reason}")
    return lines


def _without_names(reason: str, row: ClipRow | None) -> str:
    if row is None:
        return reason
    for role in ROLES:
        if (path := getattr(row, role)) is not None:
            reason = reason.replace(
                str(path), f"its {path.parent.name if role != 'pictures' else 'pictures'}"
            )
    return reason.replace(f"clip {row.name}", "the clip")
