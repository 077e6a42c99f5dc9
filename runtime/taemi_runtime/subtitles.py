"""What is said, out of subtitle files: WebVTT and SubRip, cues joined in the order of their time.

Sources: W3C WebVTT, sections 4 and 6; SubRip has no standard and is read as players do.
"""

from __future__ import annotations

import html
import re

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


def text_of_webvtt(content: str) -> str:
    """Return what the cues of a WebVTT file say, in one line.

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
    return _join(cues, rolling=_INLINE_STAMP.search(content) is not None)


def text_of_subrip(content: str) -> str:
    """Return what the cues of a SubRip file say, in one line; argument and error as for WebVTT."""
    cues = _cues(content, notes=False)
    if not cues and content.strip():
        raise ValueError(_NO_CUE)
    return _join(cues, rolling=False)


def _join(cues: list[tuple[float, list[str]]], *, rolling: bool) -> str:
    lines: list[str] = []
    for _, raw in sorted(cues, key=lambda cue: cue[0]):
        for line in filter(None, map(_plain, raw)):
            if not (rolling and lines and lines[-1] == line):
                lines.append(line)
    return " ".join(lines)


def _cues(content: str, *, notes: bool) -> list[tuple[float, list[str]]]:
    """Return each cue's start in seconds and its lines as they stand there.

    Where the format has ``notes``, what stands above a block's timing line is the cue's name, and a block
    without one is a note, a style or a header. Else only a number stands there; everything besides belongs
    to the cue before, whose text had an empty line in it. Blank lines between cues may be missing.
    """
    cues: list[tuple[float, list[str]]] = []
    for block in _BLANK_LINES.split(content.replace("\r\n", "\n").replace("\r", "\n")):
        rows = [row for row in block.split("\n") if row.strip()]
        timings = [(at, found) for at, row in enumerate(rows) if (found := _TIMING.match(row))]
        if cues and not notes:
            above = rows[: timings[0][0]] if timings else rows
            cues[-1][1].extend(above[:-1] if timings and above and above[-1].strip().isdigit() else above)
        ends = [at for at, _ in timings[1:]] + [len(rows)]
        for (at, timing), end in zip(timings, ends, strict=False):
            text = rows[at + 1 : end]
            if end < len(rows) and text and text[-1].strip().isdigit():
                text.pop()  # the number of the cue that follows without a blank line
            cues.append((_seconds(timing), text))
    return cues


def _seconds(timing: re.Match[str]) -> float:
    hours, minutes, seconds, fraction = timing.group(1, 2, 3, 4)
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _plain(line: str) -> str:
    """Strip a cue's line of its markup."""
    line = _OVERRIDE.sub("", _INLINE_STAMP.sub("", _TAG.sub("", line)))
    return " ".join(_INVISIBLE.sub("", html.unescape(line)).split())
