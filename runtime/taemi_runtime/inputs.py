"""From what stands on the command line to clips: files, folders, globs."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What a folder is searched for. A file that is named itself is tried whatever its suffix.
_VIDEO = ".mp4 .m4v .mov .qt .mkv .webm .avi .mpg .mpeg .vob .ts .mts .m2ts .flv .f4v .3gp .3g2 .ogv"
_MORE_VIDEO = ".wmv .asf .rm .rmvb .mxf .dv .nut .ivf"
_SOUND = ".wav .w64 .mp3 .m4a .m4b .mka .aac .ac3 .eac3 .amr .flac .ogg .oga .opus .wma .aif .aiff .au .caf"
_PICTURES = ".gif .apng .png .jpg .jpeg .webp .bmp .tif .tiff"
MEDIA_SUFFIXES = frozenset(" ".join((_VIDEO, _MORE_VIDEO, _SOUND, _PICTURES)).split())

_OUTWARD_LINK = "it is a link that leads out of the folder. Give its own path to have it read"


@dataclass(frozen=True)
class ClipInput:
    """A clip to score.

    Args:
        path: Where it is, as named.
        error: Why there is nothing to score there; empty when there is.
    """

    path: Path
    error: str = ""


def expand(inputs: Iterable[str]) -> list[ClipInput]:
    """Find the clips behind every argument.

    Args:
        inputs: Files, folders (searched through all levels, hidden names left out), glob patterns. Below a
            folder, links that lead out of it are not followed: only what is named itself is read.

    Returns:
        The clips in the order of the arguments, those of a folder or pattern sorted by path, each
        file once. An argument that leads to none is there with its error.
    """
    found: list[ClipInput] = []
    for argument in inputs:
        found += _expand_one(argument)
    return list({(item.path, item.error): item for item in found}.values())


def _expand_one(argument: str) -> list[ClipInput]:
    path = Path(argument)
    if path.is_dir():
        clips = _clips_below(path)
        suffixes = ", ".join(sorted(MEDIA_SUFFIXES))
        return clips or [ClipInput(path, f"the folder holds no clip (looked for {suffixes})")]
    if path.exists():
        return [ClipInput(path)]
    if glob.has_magic(argument):
        # Path.glob takes no absolute pattern.
        matches = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207
        clips = [
            clip
            for match in matches
            for clip in (_clips_below(match) if match.is_dir() else [ClipInput(match)])
        ]
        return clips or [ClipInput(path, "the pattern matches no clip")]
    return [ClipInput(path, "there is no such file or folder")]


def _clips_below(folder: Path) -> list[ClipInput]:
    # Pipes and devices are among them, so that reading says what they are.
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in MEDIA_SUFFIXES
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    inside = folder.resolve()
    return [ClipInput(path, "" if _stays_inside(path, inside) else _OUTWARD_LINK) for path in found]


def _stays_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # links in a circle
        return False
