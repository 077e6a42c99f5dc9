"""Transcripts beside the clips: finding, decoding and reading NAME.txt, NAME.vtt and NAME.srt."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from taemi_runtime.errors import MediaError, UsageError
from taemi_runtime.subtitles import Cue, cues_of_subrip, cues_of_webvtt, text_of_subrip, text_of_webvtt

# How each kind of file is read, in the order in which they are looked for: what somebody wrote as
# plain text is taken before captions, and WebVTT, which has a standard, before SubRip.
READERS: dict[str, Callable[[str], str]] = {
    ".txt": lambda content: content.strip(),
    ".vtt": text_of_webvtt,
    ".srt": text_of_subrip,
}
# Of these, what says when each line is said.
_CUES: dict[str, Callable[[str], list[Cue]]] = {".vtt": cues_of_webvtt, ".srt": cues_of_subrip}
# A text encoder takes a few hundred tokens; a megabyte of text is hours of speech.
_MAX_BYTES = 1_000_000
# Longer marks first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Control characters that no text has; form feeds and tabs are fine.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_FIX = "Save it as UTF-8 text, or as WebVTT or SubRip with that suffix"


@dataclass(frozen=True)
class Transcript:
    """What is said in a clip.

    Args:
        text: The words; ``None`` where there is no transcript, empty where it says that nothing is said.
        source: ``given``, ``file``, the name of a recogniser, or ``none``.
        why: Why there is no text; empty where there is some, or where nothing more is known.
        warnings: What is worth knowing about it.
        cues: When each line of it is said; ``None`` where that is not known.
    """

    text: str | None = None
    source: str = "none"
    why: str = ""
    warnings: tuple[str, ...] = ()
    cues: tuple[Cue, ...] | None = None

    @classmethod
    def given(cls, text: str | Transcript | None, source: str = "given") -> Transcript:
        """Make a transcript of what a caller gave: text, ``None``, or one that is made already."""
        if isinstance(text, Transcript):
            return text
        return cls() if text is None else cls(text, source)


class Transcripts:
    """Finds the transcript of each clip.

    Args:
        given: The transcript of the only clip.
        folder: A folder of ``NAME.txt``, ``NAME.vtt`` and ``NAME.srt``, looked for in this order.

    Raises:
        UsageError: The folder does not exist.
    """

    def __init__(self, given: str | None = None, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"cannot read transcripts in {folder}",
                "there is no such folder",
                "Name a folder of NAME.txt, NAME.vtt or NAME.srt files",
            )
        self._given = given
        self._folder = folder

    def has(self, clip: Path) -> bool:
        """Return whether there is anything to read for a clip, blank or not."""
        return self._given is not None or bool(self._files(clip))

    def read(self, clip: Path) -> Transcript:
        """Return a clip's transcript.

        Raises:
            MediaError: A file is there and is no text, or no subtitles.
        """
        if self._given is not None:
            return Transcript(self._given, "given")
        files = self._files(clip)
        if not files:
            return Transcript()
        found = read_transcript(files[0])
        if len(files) == 1:
            return found
        others = ", ".join(file.name for file in files[1:])
        several = f"of several transcripts {files[0].name} is used, not {others}"
        return replace(found, warnings=(several, *found.warnings))

    def _files(self, clip: Path) -> list[Path]:
        if self._folder is None:
            return []
        names = [f"{clip.stem}{form}" for suffix in READERS for form in (suffix, suffix.upper())]
        return [self._folder / name for name in names if (self._folder / name).is_file()]


def transcript_reader(
    transcripts: Mapping[str, str] | str | PathLike[str] | None,
) -> Callable[[Path], Transcript]:
    """Return what gives a clip's transcript.

    Args:
        transcripts: A mapping from path to text, or a folder as for [Transcripts][].

    Raises:
        UsageError: The folder does not exist.
    """
    if not isinstance(transcripts, Mapping):
        return Transcripts(None, Path(transcripts) if transcripts is not None else None).read
    by_path = {Path(clip): text for clip, text in transcripts.items()}
    return lambda clip: Transcript.given(by_path.get(clip))


def read_transcript(file: Path) -> Transcript:
    """Read one transcript file.

    Text is UTF-8, UTF-16 or UTF-32 where a byte order mark says so, UTF-8 without one, and else
    Windows-1252, with a warning. Only the first megabyte is read.

    Args:
        file: A file whose suffix is a key of ``READERS``.

    Raises:
        MediaError: It cannot be read, is no text, or is no subtitle file though its suffix says so.
    """
    asked = f"cannot read transcript {file}"
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise MediaError(asked, error.strerror or str(error), "Check the file's permissions") from error
    warnings: tuple[str, ...] = ()
    cut = len(content) > _MAX_BYTES
    if cut:
        warnings += (f"of transcript {file} only the first {_MAX_BYTES:,} bytes are read",)
    try:
        text, encoding = _decode(content[:_MAX_BYTES], cut=cut)
        cues_of = _CUES.get(file.suffix.lower())
        cues = tuple(cues_of(text)) if cues_of is not None else None
        text = READERS[file.suffix.lower()](text)
    except UnicodeDecodeError as error:
        raise MediaError(asked, f"it is no text in UTF-8, UTF-16 or Windows-1252 ({error})", _FIX) from error
    except ValueError as error:
        raise MediaError(asked, str(error), _FIX) from error
    if encoding == "cp1252":
        warnings += (f"transcript {file} is not UTF-8 and is read as Windows-1252; save it as UTF-8",)
    return Transcript(text, "file", warnings=warnings, cues=cues)


def _decode(content: bytes, *, cut: bool) -> tuple[str, str]:
    """Return the text and the encoding that it was in.

    Raises:
        ValueError: It is no text, a UnicodeDecodeError included.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        # An incremental decoder keeps back the character that the limit cut through.
        text = codecs.getincrementaldecoder(encoding)().decode(content, final=not cut)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise
        encoding = "cp1252"
        text = content.decode(encoding)
    found = _NO_TEXT.search(text)
    if found:
        raise ValueError(f"it is no text (it holds the control character {found.group()!r})")
    return text, encoding
