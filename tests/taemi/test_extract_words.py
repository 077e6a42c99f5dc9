"""Transcripts in a store: the corpus's own, a recogniser's where there is none, or a refusal."""

from __future__ import annotations

import hashlib
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from taemi.store.index import read_index
from taemi_runtime.errors import DataError, EngineError, MissingExtraError
from tests.runtime.fake_recognisers import RATE_HZ, hide_recognisers, install, speech_like, write_wave
from tests.taemi.broken_corpus import write_split
from tests.taemi.extractions import make_system, run_extract, times

SAYS = '[["I won the", 0.02, -0.2], ["race today", 0.02, -0.2], ["Thanks for watching!", 0.9, -0.3]]'
TURBO = "openai-whisper:large-v3-turbo"


@pytest.fixture(scope="module")
def system():
    return make_system()


@pytest.fixture
def corpus(tmp_path):
    """Five clips of sound alone: two have transcript files, one of them empty; one is silent, one broken."""
    root = tmp_path / "data"
    for folder in ("audio", "text"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        loud = 0.0 if number == 3 else 1.0
        write_wave(root / "audio" / f"{number:05d}.wav", loud * speech_like(2.0 + number, seed=number))
    (root / "audio" / "00004.wav").write_bytes(b"no sound")
    (root / "text" / "00000.txt").write_text("these are mine")
    (root / "text" / "00001.txt").write_text("")
    write_split(root / "train_split.csv", range(5))
    return root


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Whatever this machine has: no recogniser but the stand-in, and an empty cache."""
    with hide_recognisers(monkeypatch, tmp_path):
        yield


@pytest.fixture
def whisper(tmp_path, monkeypatch):
    """A stand-in for openai-whisper whose default model is on this machine."""
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", faster=False, openai=True)))
    cache = tmp_path / "cache-home" / "whisper"
    cache.mkdir(parents=True)
    for model in ("large-v3-turbo", "tiny"):
        (cache / f"{model}.pt").write_text(SAYS)
    return cache


def digest(root):
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        sha.update(f"{path} {path.stat().st_mtime_ns if path.is_file() else ''}".encode())
    return sha.hexdigest()


def test_clips_without_a_transcript_file_are_transcribed_and_the_corpus_stays_as_it_is(
    corpus, system, whisper, tmp_path
):
    before = digest(corpus)
    store = tmp_path / "store"
    done = run_extract(corpus, store, system, asr=TURBO, text=True)
    assert set(done.failures) == {"00004"}
    found = read_index(store).clips
    said = {name: (facts.source, facts.transcript) for name, facts in found.items()}
    assert said == {
        "00000": ("file", "these are mine"),
        "00001": ("file", ""),
        # What is probably no speech is left out, the rest is joined.
        "00002": ("openai-whisper", "I won the race today"),
        "00003": ("openai-whisper", ""),
    }
    assert "the sound is silent" in found["00003"].why
    has = {name: "text" in load_file(store / f"{name}.safetensors") for name in found}
    assert has == {"00000": True, "00001": False, "00002": True, "00003": False}
    assert digest(corpus) == before
    # The whole sound reached the recogniser, that of clips with a file and silence did not.
    lengths = [round(len(sound) / RATE_HZ) for sound, _ in sys.modules["whisper"].calls]
    assert lengths == [4]


def test_words_are_not_heard_twice_and_never_of_two_recognisers(corpus, system, whisper, tmp_path):
    store = tmp_path / "store"
    run_extract(corpus, store, system, asr=TURBO)
    (corpus / "audio" / "00004.wav").unlink()
    shutil.copy(corpus / "audio" / "00002.wav", corpus / "audio" / "00004.wav")
    before = times(store)
    assert run_extract(corpus, store, system, asr=TURBO).done == 1
    assert {name: when for name, when in times(store).items() if name in before} == before
    for other in ("openai-whisper:tiny", "none"):
        with pytest.raises(DataError, match=f"transcribed with --asr {TURBO}, here it is --asr {other}"):
            run_extract(corpus, store, system, asr=other)
    # A file that is there now counts.
    (corpus / "text" / "00002.txt").write_text("now in a file")
    assert run_extract(corpus, store, system, asr=TURBO).done == 1
    facts = read_index(store).clips["00002"]
    assert (facts.source, facts.transcript, facts.asr) == ("file", "now in a file", None)


def test_words_can_be_added_to_a_store_without(corpus, system, whisper, tmp_path):
    store = tmp_path / "store"
    run_extract(corpus, store, system)
    assert read_index(store).clips["00002"].source == "none"
    before = times(store)
    run_extract(corpus, store, system, asr=TURBO)
    changed = {name for name, when in times(store).items() if when != before[name]}
    assert changed == {"00002", "00003"}
    assert read_index(store).clips["00002"].transcript == "I won the race today"


def test_where_nobody_can_listen_nothing_is_begun(corpus, system, tmp_path):
    store = tmp_path / "store"
    with pytest.raises(MissingExtraError) as caught:
        run_extract(corpus, store, system, asr=TURBO)
    assert "cannot transcribe 3 of 5 clips, which have no transcript file" in str(caught.value)
    assert 'pip install "taemi[whisper]", or go on without their words: --asr none' in str(caught.value)
    assert times(store) == {}
    with pytest.raises(EngineError, match="finds no recogniser with a model on this machine"):
        run_extract(corpus, store, system, asr="auto")


def test_a_model_that_does_not_load_is_named(corpus, system, whisper, tmp_path):
    (whisper / "large-v3-turbo.pt").write_text("no model")
    with pytest.raises(EngineError, match=r"cannot transcribe 3 of 5 clips.*large-v3-turbo.*--asr none"):
        run_extract(corpus, tmp_path / "store", system, asr=TURBO)


def test_a_corpus_with_all_transcripts_needs_no_recogniser(corpus, system, tmp_path):
    for number in range(5):
        (corpus / "text" / f"{number:05d}.txt").write_text("said")
    store = tmp_path / "store"
    assert run_extract(corpus, store, system, asr=TURBO).done == 4
    sound = load_file(store / "00000.safetensors")["waveform"]
    np.testing.assert_allclose(sound, speech_like(2.0, seed=0), atol=1e-4)
