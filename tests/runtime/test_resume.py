"""What a file of JSON lines says about what is done."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from taemi_runtime import load
from taemi_runtime.errors import UsageError
from taemi_runtime.inputs import ClipInput
from taemi_runtime.resume import Settings, clip_digest, read_done, rewrite, sort_lines, take_up
from taemi_runtime.transcripts import Transcript, Transcripts

SETTINGS = Settings("e" * 64, 12.0, "none", False, "none")
ELSEWHERE = "write to another file: --out FILE, or start over without --resume"


def line(clip, digest, index=0, said=None, settings=SETTINGS, **more):
    key = settings.key(digest, Transcript.given(said))
    return {"clip": str(clip), "index": index, "intensities": {}, "key": key, **more}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "scores.jsonl"


def lines_of(out):
    return [json.loads(raw) for raw in out.read_text().splitlines()]


def refused(out, settings=SETTINGS):
    with pytest.raises(UsageError) as caught:
        read_done(out, settings)
    assert caught.value.asked == f"cannot resume {out}"
    return caught.value.found, caught.value.fix


def test_what_was_done_is_found_by_content_and_transcript(out):
    rewrite(out, [line("a.mp4", "a" * 64), line("b.mp4", "b" * 64, said="I won")])
    done = read_done(out, SETTINGS)
    find = lambda digest, said=None: done.find(SETTINGS.key(digest * 64, Transcript.given(said)))  # noqa: E731
    assert find("a")["clip"] == "a.mp4"
    assert find("b", "I won")["clip"] == "b.mp4"
    assert find("b") is find("b", "I lost") is find("a", "") is find("c") is None
    assert not done.torn


def test_a_file_that_is_not_there_or_empty_has_nothing(out):
    assert read_done(out, SETTINGS).lines == []
    out.touch()
    assert read_done(out, SETTINGS).lines == []


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(out, cut):
    rewrite(out, [line("a.mp4", "a" * 64), line("b.mp4", "b" * 64)])
    out.write_bytes(out.read_bytes()[:-cut])
    done = read_done(out, SETTINGS)
    assert [one["clip"] for one in done.lines] == ["a.mp4"]
    assert done.torn


def test_failures_are_to_be_tried_again(out):
    rewrite(out, [{"clip": "a.mp4", "index": 0, "error": "no media"}, line("b.mp4", "b" * 64)])
    assert [one["clip"] for one in read_done(out, SETTINGS).lines] == ["b.mp4"]


@pytest.mark.parametrize(
    ("change", "found", "option"),
    [
        ({"engine": "f" * 64}, "engine eeeeeeeeeeee..., this run has ffffffffffff...", "--engine"),
        ({"max_fps": 5.0}, "max_fps 12.0, this run has 5.0", "--max-fps"),
        ({"max_fps": None}, "max_fps 12.0, this run has null", "--max-fps"),
        ({"faces": "auto"}, "faces none, this run has auto", "--faces"),
        ({"raw": True}, "raw false, this run has true", "--raw"),
        ({"asr": "faster-whisper base 60 s"}, "asr none, this run has faster-whisper base 60 s", "--asr"),
    ],
)
def test_other_settings_are_refused_with_both_values_and_what_to_do(out, change, found, option):
    rewrite(out, [line("a.mp4", "a" * 64, said="I won"), line("b.mp4", "b" * 64)])
    said, fix = refused(out, replace(SETTINGS, **change))
    number = 2 if option == "--asr" else 1
    assert said == f"its line {number} was scored with {found}"
    assert fix.startswith(f"Give the same {option}")
    assert fix.endswith(f" as then, or {ELSEWHERE}")


def test_a_recogniser_matters_only_to_clips_that_it_listened_to(out):
    rewrite(out, [line("a.mp4", "a" * 64, said="I won")])
    assert len(read_done(out, replace(SETTINGS, asr="faster-whisper base 60 s")).lines) == 1
    rewrite(out, [line("a.mp4", "a" * 64)])
    assert len(read_done(out, replace(SETTINGS, asr=None)).lines) == 1


@pytest.mark.parametrize(
    "content", ["not json\n", '{"a": 1}\n', "[1]\n", "{\n", '{"clip": "a.mp4"\n', "\n", "\x00\n"]
)
def test_files_of_something_else_are_refused(out, content):
    out.write_text(content)
    found, fix = refused(out)
    assert found == "its line 1 is no result of taemi-infer"
    assert fix == f"Check the file, or {ELSEWHERE}"


def test_a_damaged_line_in_the_middle_is_refused(out):
    rewrite(out, [line("a.mp4", "a" * 64), line("b.mp4", "b" * 64), line("c.mp4", "c" * 64)])
    raw = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(raw[0] + raw[1][:50] + b"\n" + raw[2])
    assert refused(out)[0] == "its line 2 is no result of taemi-infer"


@pytest.mark.parametrize("key", [None, 3, {}, {"clip": "a", "transcript": None, "settings": {"engine": "e"}}])
def test_lines_without_a_key_are_refused(out, key):
    rewrite(out, [{**line("a.mp4", "a" * 64), "key": key}])
    assert refused(out)[0] == "its line 1 has no key that says what was scored, and with what"


@pytest.fixture
def folder(tmp_path):
    """Files that only their bytes tell apart; nothing of them is decoded here."""
    for name in "abcd":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 10)
    return tmp_path


def inputs(folder, names):
    return [ClipInput(folder / f"{name}.mp4") for name in names]


def done_line(folder, name, index=0, **more):
    path = folder / f"{name}.mp4"
    return line(path, clip_digest(path), index, **more)


def test_what_is_left_to_do_keeps_its_place_among_the_inputs(folder, out):
    rewrite(out, [done_line(folder, "c", 9), done_line(folder, "a", 4)])
    todo = take_up(out, SETTINGS, inputs(folder, "abcd"), Transcripts())
    assert [(index, clip.path.name) for index, clip in todo] == [(1, "b.mp4"), (3, "d.mp4")]
    assert [(one["clip"], one["index"]) for one in lines_of(out)] == [
        (str(folder / "a.mp4"), 0),
        (str(folder / "c.mp4"), 2),
    ]


def test_a_clip_that_was_changed_is_done_again_and_its_old_line_goes(folder, out):
    rewrite(out, [done_line(folder, "a"), done_line(folder, "b")])
    (folder / "a.mp4").write_bytes(b"other")
    todo = take_up(out, SETTINGS, inputs(folder, "ab"), Transcripts())
    assert [clip.path.name for _, clip in todo] == ["a.mp4"]
    assert [one["clip"] for one in lines_of(out)] == [str(folder / "b.mp4")]


def test_a_transcript_that_was_changed_has_its_clip_done_again(folder, out):
    rewrite(out, [done_line(folder, "a", said="I won"), done_line(folder, "b", said="I won")])
    (folder / "a.txt").write_text("I won")
    (folder / "b.txt").write_text("I lost")
    todo = take_up(out, SETTINGS, inputs(folder, "ab"), Transcripts(None, folder))
    assert [clip.path.name for _, clip in todo] == ["b.mp4"]


def test_a_clip_under_another_name_is_not_done_again(folder, out):
    rewrite(out, [done_line(folder, "a", 5)])
    (folder / "a.mp4").rename(folder / "new.mp4")
    (folder / "copy.mp4").write_bytes((folder / "new.mp4").read_bytes())
    assert take_up(out, SETTINGS, inputs(folder, ["new", "copy"]), Transcripts()) == []
    assert [(one["clip"], one["index"]) for one in lines_of(out)] == [
        (str(folder / "new.mp4"), 0),
        (str(folder / "copy.mp4"), 1),
    ]


def test_lines_of_clips_that_are_not_among_the_inputs_stay(folder, out, caplog):
    rewrite(out, [done_line(folder, "d", 7), done_line(folder, "a", 0)])
    take_up(out, SETTINGS, inputs(folder, "ab"), Transcripts())
    assert [(one["clip"], one["index"]) for one in lines_of(out)] == [
        (str(folder / "d.mp4"), 7),
        (str(folder / "a.mp4"), 0),
    ]
    assert "holds 1 line of clips that are not among the inputs; kept as they are" in caplog.text


def test_nothing_is_touched_where_settings_differ(folder, out):
    rewrite(out, [done_line(folder, "a")])
    before = out.read_bytes()
    with pytest.raises(UsageError):
        take_up(out, replace(SETTINGS, raw=True), inputs(folder, "ab"), Transcripts())
    assert out.read_bytes() == before


def test_inputs_that_lead_nowhere_stay_to_be_told(folder, out):
    rewrite(out, [done_line(folder, "a")])
    clips = [*inputs(folder, ["a", "gone"]), ClipInput(folder, "the folder holds no clip")]
    assert take_up(out, SETTINGS, clips, Transcripts()) == [(1, clips[1]), (2, clips[2])]


def test_names_that_are_no_text_survive(folder, out):
    name = "caf\udce9.mp4"
    rewrite(out, [line(name, "a" * 64)])
    assert read_done(out, SETTINGS).lines[0]["clip"] == name


def test_lines_are_sorted_by_their_place(out):
    rewrite(out, [line(f"{index}.mp4", "a" * 64, index) for index in (3, 0, 2, 1)])
    sort_lines(out)
    assert [one["index"] for one in lines_of(out)] == [0, 1, 2, 3]


def test_the_settings_of_a_scorer_follow_whatever_changes_scores(bundle, make_bundle):
    def settings(folder=bundle.folder, **options):
        with load(folder, device="cpu", asr="none", **options) as scorer:
            found = Settings.of(scorer, listens=True)
            # Which file runs a graph is known without opening it.
            assert not scorer.model.is_open("fusion")
        return found

    usual = settings()
    assert usual == settings() == settings(bundle.folder / "fusion.onnx") == settings(threads=1)
    assert (usual.max_fps, usual.faces, usual.raw, usual.asr) == (None, "none", False, "none")
    assert replace(usual, max_fps=5.0) == settings(max_fps=5.0)
    assert replace(usual, faces="auto") == settings(faces="auto")
    assert replace(usual, raw=True) == settings(clip_scores=False)
    assert settings(make_bundle(bias=[0.0] * 6).folder).engine != usual.engine


def test_pipes_and_what_is_not_there_have_no_digest(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    assert clip_digest(tmp_path / "pipe.mp4") == clip_digest(tmp_path / "none") == clip_digest(tmp_path) == ""
