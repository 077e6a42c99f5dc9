"""The Python interface as docs/python.md shows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import taemi
import taemi_runtime
from taemi_runtime.errors import MediaError, UsageError

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    code
    for page in ("python.md", "many-clips.md")
    for code in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_pages_runs(code, bundle, clips, tmp_path, monkeypatch, capsys):
    shutil.copytree(bundle.folder, tmp_path / "ckpt.taemi")
    shutil.copy(clips.both, tmp_path / "clip.mp4")
    shutil.copy(clips.broken, tmp_path / "broken.mp4")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "clip.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nI won\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "a page of docs", "exec"), {})
    shown = capsys.readouterr().out
    if "workers" in code:
        assert shown == "clip.mp4 True\nbroken.mp4 False\n"
    elif "broken.mp4" in code:
        assert re.match(r"clip\.mp4 \{'Admiration': .*\}\nbroken\.mp4 failed: cannot read broken", shown)


def test_there_are_examples():
    assert len(EXAMPLES) == 5


def test_predict_is_what_the_page_says(bundle, clips):
    with taemi.load(bundle.folder, device="cpu", asr="none") as scorer:
        result = scorer.predict(clips.both, transcript="I won")
        assert isinstance(result, taemi.ClipResult)
        expected = np.clip(bundle.expected(clips.both, "I won"), 0, 1)
        np.testing.assert_allclose(list(result.intensities.values()), expected, atol=2e-6)
        assert scorer.predict(clips.both).missing == ["text"]
        with pytest.raises(MediaError) as caught:
            scorer.predict(clips.broken)
    assert isinstance(caught.value, taemi.TaemiError)
    assert (caught.value.asked, bool(caught.value.fix)) == (f"cannot read {clips.broken} as media", True)
    assert taemi.ClipResult is taemi_runtime.ClipResult


def test_many_clips_give_one_outcome_each_and_in_order(bundle, clips, tmp_path, monkeypatch):
    (tmp_path / "second.txt").write_bytes(b"\x00")
    paths = [clips.both, tmp_path / "nowhere.mp4", clips.second, str(clips.broken), clips.silent]
    with taemi.load(bundle.folder, device="cpu", asr="none") as scorer:
        found = list(scorer.predict_many(paths, transcripts=tmp_path))
        monkeypatch.chdir(clips.folder)
        mapped = list(scorer.predict_many(iter(["./both.mp4"]), {"both.mp4": "I won"}))
    assert [outcome.clip for outcome in found] == [str(path) for path in paths]
    kinds = [taemi.ClipResult if index in (0, 4) else taemi.ClipFailure for index in range(5)]
    assert [type(outcome) for outcome in found] == kinds
    assert "cannot read transcript" in found[2].error
    assert mapped[0].text.transcript == "I won"


def test_a_defect_of_ours_is_an_outcome_too(bundle, clips, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("taemi_runtime.decoding.read_clip", fail)
    with taemi.load(bundle.folder, device="cpu", asr="none") as scorer:
        (outcome,) = scorer.predict_many([clips.both])
    assert outcome.error.startswith("ZeroDivisionError: oops (a defect of taemi")


def test_misuse_is_refused_at_the_call(bundle, clips):
    with taemi.load(bundle.folder, device="cpu", asr="none") as scorer:
        with pytest.raises(UsageError, match="it is one path"):
            scorer.predict_many(str(clips.both))
        with pytest.raises(UsageError, match="there is no such folder"):
            scorer.predict_many([clips.both], transcripts="nowhere")


def test_workers_give_the_same_outcomes_in_the_same_order(bundle, clips):
    paths = [clips.both, clips.broken, clips.second, "nowhere.mp4", clips.silent] * 2
    with taemi.load(bundle.folder, device="cpu", asr="none", clip_scores=False) as scorer:
        alone = list(scorer.predict_many(paths))
        found = list(scorer.predict_many(paths, workers=2, batch=3))
    assert [outcome.clip for outcome in found] == [outcome.clip for outcome in alone]
    for one, other in zip(found, alone, strict=True):
        if isinstance(other, taemi.ClipFailure):
            assert one == other
        else:
            scores = [list(item.intensities.values()) for item in (one, other)]
            np.testing.assert_allclose(*scores, atol=1e-5)


def test_outcomes_come_one_by_one(bundle, clips):
    def paths():
        yield clips.both
        raise AssertionError("the second path was asked for too early")

    with taemi.load(bundle.folder, device="cpu", asr="none") as scorer:
        assert next(scorer.predict_many(paths())).clip == str(clips.both)
