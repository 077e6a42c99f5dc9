"""From what stands on the command line to clips: files, folders, globs, and their transcripts."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.errors import MediaError, UsageError

# What a folder is searched for. A file that is named itself is tried whatever its suffix.
MEDIA_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".3gp", ".ogv"}
    | {".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus"}
)


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
        inputs: Files, folders (searched through all levels, hidden names left out), glob patterns.

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
        return [ClipInput(clip) for clip in clips] or [
            ClipInput(path, f"the folder holds no clip (looked for {suffixes})")
        ]
    if path.exists():
        return [ClipInput(path)]
    if glob.has_magic(argument):
        # Path.glob takes no absolute pattern.
        matches = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207
        clips = [clip for match in matches for clip in (_clips_below(match) if match.is_dir() else [match])]
        return [ClipInput(clip) for clip in clips] or [ClipInput(path, "the pattern matches no clip")]
    return [ClipInput(path, "there is no such file or folder")]


def _clips_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in MEDIA_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


class Transcripts:
    """Finds the transcript of each clip.

    Args:
        given: The transcript of the only clip.
        folder: A folder of ``NAME.txt`` files in UTF-8.

    Raises:
        UsageError: The folder does not exist.
    """

    def __init__(self, given: str | None = None, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"cannot read transcripts in {folder}",
                "there is no such folder",
                "Name a folder of NAME.txt files",
            )
        self._given = given
        self._folder = folder

    def has(self, clip: Path) -> bool:
        """Return whether there is anything to read for a clip, blank or not."""
        return self._given is not None or (self._file(clip) is not None)

    def read(self, clip: Path) -> tuple[str | None, str]:
        """Return a clip's transcript and its source: ``given``, ``file`` or ``none``.

        Raises:
            MediaError: The file is there and is no UTF-8 text.
        """
        if self._given is not None:
            return self._given, "given"
        file = self._file(clip)
        if file is None:
            return None, "none"
        try:
            # utf-8-sig takes the byte order mark that Windows editors put in front.
            return file.read_text(encoding="utf-8-sig").strip(), "file"
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(
                f"cannot read transcript {file}", f"it is no UTF-8 text ({error})", "Save it as UTF-8"
            ) from error

    def _file(self, clip: Path) -> Path | None:
        if self._folder is None:
            return None
        file = self._folder / f"{clip.stem}.txt"
        return file if file.is_file() else None
