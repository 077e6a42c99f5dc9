"""What of a corpus is to be extracted, and what a store has already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from taemi.corpus import ClipRow
from taemi.extract.changes import ROLES, is_unchanged, stamps_of
from taemi.extract.transcripts import Transcriber
from taemi.store.layout import FROM_FILE, ClipFacts
from taemi_runtime.crew import map_all
from taemi_runtime.errors import DataError

_COMPARED_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        rows: Every clip, once.
        pending: Those that are to be extracted.
        stale: The names of those of them that the store has of older files.
        refreshed: Clips whose files were touched or copied and hold what they held.
    """

    rows: tuple[ClipRow, ...]
    pending: tuple[ClipRow, ...]
    stale: tuple[str, ...]
    refreshed: dict[str, ClipFacts]


def make_plan(
    splits: Mapping[str, Sequence[ClipRow]], stored: Mapping[str, ClipFacts], transcriber: Transcriber
) -> Plan:
    """Compare a corpus with a store.

    Args:
        splits: The rows of each split.
        stored: What the store says of its clips.
        transcriber: What finds transcripts.

    Raises:
        DataError: Two splits have different clips of one name, or the store's transcripts were asked of
            another recogniser.
    """
    rows = _each_once(splits)

    def compare(row: ClipRow) -> ClipFacts | None:
        """Return what holds of a stored clip; ``None`` where it is to be extracted."""
        facts = stored.get(row.name)
        if facts is None or not _same_words(row, facts, transcriber):
            return None
        stamps = stamps_of(row)
        return replace(facts, stamps=stamps) if is_unchanged(row, facts, stamps) else None

    # A disk over a network answers many questions at a time.
    holds = map_all(compare, rows, _COMPARED_AT_ONCE, "taemi-compare")
    pending = [row for row, facts in zip(rows, holds, strict=True) if facts is None]
    return Plan(
        tuple(rows),
        tuple(pending),
        tuple(row.name for row in pending if row.name in stored),
        {
            row.name: facts
            for row, facts in zip(rows, holds, strict=True)
            if facts is not None and facts != stored[row.name]
        },
    )


def _each_once(splits: Mapping[str, Sequence[ClipRow]]) -> list[ClipRow]:
    found: dict[str, tuple[str, ClipRow]] = {}
    for split, rows in splits.items():
        for row in rows:
            other, known = found.setdefault(row.name, (split, row))
            if any(getattr(known, role) != getattr(row, role) for role in ROLES):
                raise DataError(
                    f"cannot extract clip {row.name}",
                    f"{other} and {split} have different clips of that name: {known.media}, {row.media}",
                    f"Extract them into two stores: --splits {other}, --splits {split}",
                )
    return [row for _, row in found.values()]


def _same_words(row: ClipRow, facts: ClipFacts, transcriber: Transcriber) -> bool:
    if row.text is not None:
        return (facts.source, facts.transcript) == (FROM_FILE, row.transcript)
    asr = transcriber.asr_of(row)
    if facts.asr is not None and asr != facts.asr:
        raise DataError(
            "cannot add to the feature store",
            f"clip {row.name} was transcribed with --asr {facts.asr}, here it is --asr {asr or 'none'}",
            f"Give --asr {facts.asr}, or extract into another folder",
        )
    return facts.source != FROM_FILE and asr == facts.asr
