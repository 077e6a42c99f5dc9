"""Transcripts beside the clips: subtitles, encodings, and which of several files counts."""

from __future__ import annotations

import pytest

from taemi_runtime.errors import MediaError
from taemi_runtime.subtitles import text_of_subrip, text_of_webvtt
from taemi_runtime.transcripts import Transcripts, read_transcript

VTT = """\ufeffWEBVTT - a title
Kind: captions

NOTE this is --no cue
and neither is this

STYLE
::cue(b) { color: red }

intro
00:01.500 --> 00:03.000 align:start position:0%
<v Mary><b>Hello</b>, I &amp; you</v>

2
00:00:03.200 --> 00:00:04.000
are <i>3 &lt; 4</i>,<00:00:03.500> {\\an8}so
to say&nbsp;!
"""
SRT = """1\r
00:00:04,000 --> 00:00:05,000\r
and <font color="#fff">went</font>\r
\r
2\r
00:00:01,000 --> 00:00:02,000 X1:10 X2:20\r
{\\an8}I came\r
\r
in 1999 at 3 < 4\r
3\r
00:00:06,000 --> 00:00:07,000\r
again\r
"""
ROLLING = """WEBVTT

00:00:00.000 --> 00:00:01.000
\x20
what<00:00:00.500><c> a</c>

00:00:01.000 --> 00:00:01.010
what a
\x20

00:00:01.010 --> 00:00:02.000
what a
lovely<00:00:01.500><c> day</c>
"""


def test_webvtt_leaves_what_is_said():
    assert text_of_webvtt(VTT.lstrip("\ufeff")) == "Hello, I & you are 3 < 4, so to say !"


def test_rolling_captions_say_each_line_once():
    assert text_of_webvtt(ROLLING) == "what a lovely day"
    twice = "WEBVTT\n\n00:01.000 --> 00:02.000\nNo.\n\n00:02.000 --> 00:03.000\nNo.\n"
    assert text_of_webvtt(twice) == "No. No."


def test_subrip_is_joined_in_time_and_survives_missing_blank_lines():
    assert text_of_subrip(SRT.replace("\r\n", "\n")) == text_of_subrip(SRT)
    assert text_of_subrip(SRT) == "I came in 1999 at 3 < 4 and went again"


@pytest.mark.parametrize(
    ("read", "content"), [(text_of_webvtt, "hello\n"), (text_of_subrip, "just a line\n")]
)
def test_text_that_is_no_subtitles_is_refused_and_an_empty_file_is_not(read, content):
    with pytest.raises(ValueError, match="it has no cue"):
        read(content)
    assert read("") == ""
    assert text_of_webvtt("WEBVTT\n\nNOTE nobody speaks\n") == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_marked_encodings_and_utf8_are_read_without_a_word(tmp_path, encoding):
    file = tmp_path / "a.txt"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    file.write_bytes(mark + "Où est le café ?\n".encode(encoding))
    found = read_transcript(file)
    assert (found.text, found.source, found.warnings) == ("Où est le café ?", "file", ())


def test_other_text_is_read_as_windows_1252_and_said(tmp_path):
    file = tmp_path / "a.vtt"
    file.write_bytes("WEBVTT\n\n00:01.000 --> 00:02.000\nMon café – “noir”\n".encode("cp1252"))
    found = read_transcript(file)
    assert found.text == "Mon café – “noir”"
    assert found.warnings == (
        f"transcript {file} is not UTF-8 and is read as Windows-1252; save it as UTF-8",
    )


@pytest.mark.parametrize(
    "content", [b"\x00\x01\x02binary", b"\xff\xfea", b"caf\xe9 \x81\x8d", b"\x89PNG\x1a\n"]
)
def test_what_is_no_text_is_an_error(tmp_path, content):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(MediaError, match="it is no text"):
        read_transcript(file)


def test_a_huge_file_is_read_in_part_and_said(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("é" * 600_000, encoding="utf-8")
    found = read_transcript(file)
    assert found.text == "é" * 500_000
    assert found.warnings == (f"of transcript {file} only the first 1,000,000 bytes are read",)


def test_one_of_several_files_counts_and_the_result_says_which(tmp_path):
    texts = Transcripts(folder=tmp_path)
    clip = tmp_path / "elsewhere" / "a.mp4"
    assert not texts.has(clip)
    assert texts.read(clip).source == "none"
    (tmp_path / "a.SRT").write_text("1\n00:00:01,000 --> 00:00:02,000\nfrom subrip\n")
    assert texts.read(clip).text == "from subrip"
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nfrom webvtt\n")
    found = texts.read(clip)
    assert found.text == "from webvtt"
    assert found.warnings == ("of several transcripts a.vtt is used, not a.SRT",)
    (tmp_path / "a.txt").write_text("")
    found = texts.read(clip)
    assert (found.text, found.warnings) == ("", ("of several transcripts a.txt is used, not a.vtt, a.SRT",))
