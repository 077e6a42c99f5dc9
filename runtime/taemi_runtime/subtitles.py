"""What is said, out of subtitle files: WebVTT and SubRip, cues joined in the order of their time.

Sources: W3C WebVTT, sections 4 and 6; SubRip has no standard and is read as players do.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMING = re.compile(rf"^\s*{_STAMP}\s*-->\s*{_STAMP}")
# A tag begins with a letter, so that "3 < 4" stays; WebVTT's inline timestamps begin with a digit.
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_INLINE_STAMP = re.compile(r"<\d[\d:.]*>")
# Position and style overrides of the SubStation family, which SubRip files borrow: {\an8}.
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
# Marks without width or of direction, which tokenizers take for unknown characters.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad]")
_NO_CUE = "it has no cue (no line such as 00:00:01.000 --> 00:00:02.000)"
# Truly empty: rolling captions hold lines of one space inside their cues.
_BLANK_LINES = re.compile(r"\n\n+")


@dataclass(frozen=True)
class Cue:
    """What is said in a stretch of time.

    Args:
        start_s: Its beginning in seconds.
        end_s: Its end.
        text: The words, in one line.
    """

    start_s: float
    end_s: float
    text: str


def text_of_webvtt(content: str) -> str:
    """Return what the cues of a WebVTT file say, in one line; see [cues_of_webvtt][]."""
    return _join(cues_of_webvtt(content))


def cues_of_webvtt(content: str) -> list[Cue]:
    """Return what the cues of a WebVTT file say, each line with its time, in the order of time.

    The header, NOTE, STYLE and REGION blocks, cue names, tags, voices, inline timestamps and settings
    are left out, entities resolved. Captions that roll, as video platforms make them, repeat the line
    above in the next cue: it is taken once.

    Args:
        content: The file's text.

    Raises:
        ValueError: It has text and no cue.
    """
    cues = _cues(content, notes=True)
    if not cues and content.strip() and not content.startswith("WEBVTT"):
        raise ValueError(_NO_CUE)
    return _lines(cues, rolling=_INLINE_STAMP.search(content) is not None)


def text_of_subrip(content: str) -> str:
    """Return what the cues of a SubRip file say, in one line; see [cues_of_subrip][]."""
    return _join(cues_of_subrip(content))


def cues_of_subrip(content: str) -> list[Cue]:
    """Return the lines of a SubRip file with their times; argument and error as for WebVTT."""
    cues = _cues(content, notes=False)
    if not cues and content.strip():
        raise ValueError(_NO_CUE)
    return _lines(cues, rolling=False)


def _join(cues: list[Cue]) -> str:
    return " ".join(cue.text for cue in cues)


def _lines(cues: list[tuple[float, float, list[str]]], *, rolling: bool) -> list[Cue]:
    lines: list[Cue] = []
    for start_s, end_s, raw in sorted(cues, key=lambda cue: cue[0]):
        for line in filter(None, map(_plain, raw)):
            if not (rolling and lines and lines[-1].text == line):
                lines.append(Cue(start_s, end_s, line))
    return lines


def _cues(content: str, *, notes: bool) -> list[tuple[float, float, list[str]]]:
    """Return each cue's start and end in seconds and its lines as they stand there.

    Where the format has ``notes``, what stands above a block's timing line is the cue's name, and a block
    without one is a note, a style or a header. Else only a number stands there; everything besides belongs
    to the cue before, whose text had an empty line in it. Blank lines between cues may be missing.
    """
    cues: list[tuple[float, float, list[str]]] = []
    for block in _BLANK_LINES.split(content.replace("\r\n", "\n").replace("\r", "\n")):
        rows = [row for row in block.split("\n") if row.strip()]
        timings = [(at, found) for at, row in enumerate(rows) if (found := _TIMING.match(row))]
        if cues and not notes:
            above = rows[: timings[0][0]] if timings else rows
            cues[-1][2].extend(above[:-1] if timings and above and above[-1].strip().isdigit() else above)
        ends = [at for at, _ in timings[1:]] + [len(rows)]
        for (at, timing), end in zip(timings, ends, strict=False):
            text = rows[at + 1 : end]
            if end < len(rows) and text and text[-1].strip().isdigit():
                text.pop()  # the number of the cue that follows without a blank line
            cues.append((_seconds(timing, 1), _seconds(timing, 5), text))
    return cues


def _seconds(timing: re.Match[str], first: int) -> float:
    """Return the time whose four parts begin with a group of the match."""
    hours, minutes, seconds, fraction = timing.group(*range(first, first + 4))
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _plain(line: str) -> str:
    """Strip a cue's line of its markup."""
    line = _OVERRIDE.sub("", _INLINE_STAMP.sub("", _TAG.sub("", line)))
    return " ".join(_INVISIBLE.sub("", html.unescape(line)).split())
