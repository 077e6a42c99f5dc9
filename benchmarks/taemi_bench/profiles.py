"""Where the time of a row goes, operator by operator, and the files that say so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from taemi_runtime.atomic import write_text
from taemi_runtime.errors import UsageError
from taemi_runtime.strict import to_json

COSTLIEST = 10
COLUMNS = ("operator", "type", "calls", "ms", "share", "floor, ms")


@dataclass(frozen=True)
class ProfiledNode:
    """One operator of a graph in one call.

    Args:
        name: The node's name; of PyTorch the operator's, which stands for all its calls.
        operator: Its type as the engine runs it, e.g. after fusing.
        calls: How often it ran in one call.
        ms: Milliseconds in one call, the mean over the calls that were looked at.
        share: Of all operators' milliseconds.
        floor_ms: What the machine's ceilings allow; ``None`` where its operations are not known.
    """

    name: str
    operator: str
    calls: int
    ms: float
    share: float
    floor_ms: float | None = None


@dataclass(frozen=True)
class Profile:
    """One row's trace, summed up.

    Args:
        scope: The scope.
        row: The row's name.
        trace: The trace's file name; empty where it was not kept.
        calls: How many calls were looked at, after others had warmed it up.
        call_ms: Milliseconds of a call while it was traced, the mean: more than untraced.
        nodes: Every operator, the costliest first.
    """

    scope: str
    row: str
    trace: str
    calls: int
    call_ms: float
    nodes: tuple[ProfiledNode, ...]


class Named(Protocol):
    """What has a scope and a name: a row."""

    @property
    def scope(self) -> str:
        """The scope."""
        ...

    @property
    def name(self) -> str:
        """The row."""
        ...


def row_key(row: Named) -> str:
    """Return what a row's profile is found by."""
    return f"{row.scope}/{row.name}"


def file_stem(scope: str, row: str) -> str:
    """Return what the names of a row's files begin with, e.g. ``frames.onnx-runtime-cpu-int8``."""
    return ".".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (scope, row))


def make_folder(folder: Path) -> None:
    """Make the folder that profiles are written to, before anything is measured.

    Raises:
        UsageError: It cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write profiles to {folder}",
            error.strerror or str(error),
            "Name a folder: --profile DIR",
        ) from error


def write_profiles(
    folder: Path, profiles: Mapping[str, Profile], gaps: Sequence[str], missing: Mapping[str, str]
) -> list[Path]:
    """Write every profile as JSON, and the costliest operators of all of them as Markdown.

    Args:
        folder: An existing folder.
        profiles: The profiles by ``row_key``.
        gaps: What ``floors.describe_gaps`` says.
        missing: Why rows that ran have no profile, by ``row_key``.

    Returns:
        The files.
    """
    written = []
    for profile in profiles.values():
        path = folder / f"{file_stem(profile.scope, profile.row)}.operators.json"
        write_text(path, to_json(profile))
        written.append(path)
    path = folder / "operators.md"
    write_text(path, "\n".join(_page(profiles, gaps, missing)) + "\n")
    return [*written, path]


def cells(profile: Profile) -> Iterator[tuple[str, ...]]:
    """Yield the costliest operators of a profile in the order of ``COLUMNS``."""
    for node in profile.nodes[:COSTLIEST]:
        floor = "-" if node.floor_ms is None else f"{node.floor_ms:.3f}"
        yield node.name, node.operator, str(node.calls), f"{node.ms:.3f}", f"{node.share:.0%}", floor


def title(profile: Profile) -> str:
    """Return what a profile's table is called."""
    rest = f", trace: {profile.trace}" if profile.trace else ""
    return (
        f"{profile.scope}, {profile.row}: costliest operators of {len(profile.nodes)}, "
        f"mean of {profile.calls} calls of {profile.call_ms:.2f} ms while traced{rest}"
    )


def _page(profiles: Mapping[str, Profile], gaps: Sequence[str], missing: Mapping[str, str]) -> Iterator[str]:
    yield "# Where the time goes"
    yield ""
    if gaps:
        yield "Largest gaps to the machine's floor:"
        yield ""
        yield from (f"{place}. {gap}" for place, gap in enumerate(gaps, 1))
        yield ""
    for profile in profiles.values():
        yield f"## {title(profile)}"
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield f"|{' --- |' * len(COLUMNS)}"
        for values in cells(profile):
            yield f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"
        yield ""
    if missing:
        yield "## Rows that were not traced"
        yield ""
        for why in dict.fromkeys(missing.values()):
            rows = ", ".join(key for key, reason in missing.items() if reason == why)
            yield f"- {rows}: {why}"
