"""Extraction: what stands in a store, what is done again, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from taemi.clip_content import read_content
from taemi.corpus import Layout, read_corpus
from taemi.extract.encoders import encoder_digest
from taemi.extract.frames import FrameBatches
from taemi.store.index import read_index
from taemi.store.writer import StoreWriter
from taemi_runtime.errors import DataError, WriteError
from taemi_runtime.tokens import Tokenizer
from tests.taemi.broken_corpus import WIDTH, write_broken_corpus, write_clip, write_split
from tests.taemi.extractions import (
    contents,
    facts_of,
    make_system,
    run_extract,
    times,
    write_small_corpus,
)
from tests.taemi.killing_decoders import KillingDecoder, OnceKillingDecoder

RAW = Layout(vision="raw")


@pytest.fixture(scope="module")
def system():
    return make_system()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture
def corpus(made, tmp_path):
    """A copy that may be changed: times are those of the files that it was made of."""
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture(scope="module")
def full(made, system, tmp_path_factory):
    store = tmp_path_factory.mktemp("full") / "store"
    done = run_extract(made, store, system, layout=RAW, audio=True, text=True)
    assert (done.clips, done.before, done.done, done.failures) == (11, 0, 11, {})
    return store


def test_features_are_those_of_the_encoders_applied_directly(made, full, system):
    for row in read_corpus(made, RAW).split("train"):
        stored = load_file(full / f"{row.name}.safetensors")
        content = read_content(row, system.preprocessing, None)
        np.testing.assert_array_equal(stored["waveform"], content.waveform)
        waveform = (content.waveform - content.waveform.mean()) / np.sqrt(content.waveform.var() + 1e-7)
        tokenizer = Tokenizer.from_bytes(
            system.text_encoder.tokenizer_json.encode(), system.preprocessing.text
        )
        tokens = tokenizer.encode([row.transcript])
        with torch.inference_mode():
            expected = {
                "vision": system.vision_encoder(torch.from_numpy(content.frames)),
                "audio": system.audio_encoder(
                    torch.from_numpy(waveform[None]), torch.tensor([waveform.size])
                )[0],
            }
            expected["text"], vectors = (
                found[0]
                for found in system.text_encoder(
                    torch.from_numpy(tokens["input_ids"]), torch.from_numpy(tokens["attention_mask"])
                )
            )
            expected["text_tokens"] = vectors
        for name, values in expected.items():
            assert stored[name].dtype == np.float16
            # Half of the last place of half precision, and a little for sums in another order.
            np.testing.assert_allclose(stored[name], values.numpy(), rtol=6e-4, atol=2e-6, err_msg=name)


def test_a_frame_s_features_do_not_depend_on_the_clips_beside_it(system):
    frames = np.random.default_rng(2).integers(0, 256, (23, 3, 224, 224)).astype(np.uint8)
    found = []
    for lengths in ((23,), (1, 5, 9, 8), (8, 15), (22, 1)):
        batches = FrameBatches(system.vision_encoder, torch.device("cpu"), 8)
        parts, start = {}, 0
        for clip, length in enumerate(lengths):
            parts |= batches.add(clip, frames[start : start + length])
            start += length
        parts |= batches.flush()
        found.append(np.concatenate([parts[clip] for clip in range(len(lengths))]))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_processes_give_the_same_bytes_as_none(made, full, system, tmp_path):
    run_extract(made, tmp_path / "store", system, layout=RAW, audio=True, text=True, workers=2)
    assert contents(tmp_path / "store") == contents(full)


def test_the_index_says_what_was_made_of_what(made, full, system):
    index = read_index(full)
    assert (index.corpus, index.synthetic) == ("data", False)
    assert index.made_with.vision_encoder.sha256 == encoder_digest(system.vision_encoder)
    assert index.made_with.text_encoder.sha256 == encoder_digest(system.text_encoder)
    assert index.made_with.preprocessing["vision"]["max_fps"] == 5.0
    corpus = read_corpus(made)
    for split, rows in corpus.splits.items():
        assert [row.name for row in index.splits[split]] == [row.name for row in rows]
        if split != "test":
            assert [row.labels for row in index.splits[split]] == [row.labels for row in rows]
    assert {row.labels for row in index.splits["test"]} == {None}
    facts = index.clips["00001"]
    assert (facts.transcript, facts.source) == ("this is clip 00001", "file")
    # Sound from its file, frames from the clip; crops were not looked at.
    assert set(facts.sha256) == {"audio", "media"}
    assert facts == facts_of(full, "00001")


def test_what_is_there_stays_and_touched_files_are_told_from_changed_ones(corpus, system, tmp_path):
    store = tmp_path / "store"
    run_extract(corpus, store, system, layout=RAW)
    before = times(store)
    again = run_extract(corpus, store, system, layout=RAW)
    assert (again.clips, again.before) == (11, 11)
    assert times(store) == before
    # Touched, as by a copy: the content is what counts, and it is compared once.
    os.utime(corpus / "raw" / "00000.mp4", (1, 1))
    assert run_extract(corpus, store, system, layout=RAW).before == 11
    assert read_index(store).clips["00000"].stamps["media"].endswith(" 1000000000")
    # Another clip, sound, transcript; crops, which are not looked at.
    shutil.copy(corpus / "raw" / "00000.mp4", corpus / "raw" / "00003.mp4")
    (corpus / "raw" / "00003.mp4").write_bytes((corpus / "test" / "raw" / "12660.mp4").read_bytes() + b"\0")
    (corpus / "audio" / "00004.mp3").unlink()
    (corpus / "text" / "00005.txt").write_text("other words")
    (corpus / "face_images" / "00007" / "0.jpg").write_bytes(b"changed")
    done = run_extract(corpus, store, system, layout=RAW)
    assert (done.before, done.done) == (8, 3)
    changed = {name for name, when in times(store).items() if when != before[name]}
    assert changed == {"00003", "00004", "00005"}
    assert facts_of(store, "00005").transcript == "other words"
    assert set(facts_of(store, "00004").sha256) == {"media"}
    # What was made in several steps is what is made in one.
    run_extract(corpus, tmp_path / "one", system, layout=RAW)
    for name in ("00003", "00004", "00005", "00008"):
        assert contents(store)[f"{name}.safetensors"] == contents(tmp_path / "one")[f"{name}.safetensors"]


def test_a_source_that_breaks_takes_its_old_features_with_it(corpus, system, tmp_path):
    store = tmp_path / "store"
    run_extract(corpus, store, system, layout=RAW)
    for folder, suffix in (("raw", "mp4"), ("audio", "mp3")):
        (corpus / folder / f"00001.{suffix}").write_bytes(b"no media")
    done = run_extract(corpus, store, system, layout=RAW)
    assert set(done.failures) == {"00001"}
    assert "00001" not in times(store)
    index = read_index(store)
    assert "00001" in index.failures
    assert "00001" not in index.clips
    shutil.copy(corpus / "raw" / "00000.mp4", corpus / "raw" / "00001.mp4")
    mended = run_extract(corpus, store, system, layout=RAW)
    assert (mended.before, mended.done) == (10, 1)
    assert read_index(store).failures == {}


def test_mixing_is_refused_with_both_values(made, full, system, tmp_path):
    store = shutil.copytree(full, tmp_path / "store")
    before = contents(store)
    other, every = make_system(seed=2), make_system(max_fps=None)
    kept = {"layout": RAW, "audio": True, "text": True}
    digests = [encoder_digest(one.vision_encoder) for one in (system, other)]
    with pytest.raises(DataError, match=f"another vision_encoder.*{digests[0]}.*here '{digests[1]}'"):
        run_extract(made, store, other, **kept)
    with pytest.raises(DataError, match=r"another preprocessing: .*max_fps 5\.0, here None"):
        run_extract(made, store, every, **kept)
    with pytest.raises(DataError, match="it keeps features of the audio encoder, and here none are kept"):
        run_extract(made, store, system, layout=RAW, text=True)
    with pytest.raises(DataError, match="another vision_from: vision_from 'raw', here 'face_images'"):
        run_extract(made, store, system, audio=True, text=True)
    assert contents(store) == before
    # Files without their index say it, too.
    (store / "index.json").unlink()
    with pytest.raises(DataError, match="another vision_encoder"):
        run_extract(made, store, other, **kept)


def test_a_lost_index_is_made_again_from_the_files(made, full, system, tmp_path):
    store = shutil.copytree(full, tmp_path / "store")
    (store / "index.json").unlink()
    before = times(store)
    done = run_extract(made, store, system, layout=RAW, audio=True, text=True)
    assert done.before == 11
    assert times(store) == before
    assert contents(store) == contents(full)


def test_a_damaged_file_is_made_again(made, full, system, tmp_path):
    store = shutil.copytree(full, tmp_path / "store")
    path = store / "00004.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    index = json.loads((store / "index.json").read_text())
    del index["clips"]["00004"]
    (store / "index.json").write_text(json.dumps(index))
    done = run_extract(made, store, system, layout=RAW, audio=True, text=True)
    assert (done.before, done.done) == (10, 1)
    assert contents(store) == contents(full)


def test_splits_are_added_one_by_one(made, full, system, tmp_path):
    kept = {"layout": RAW, "audio": True, "text": True}
    for split in ("valid", "test", "train"):
        run_extract(made, tmp_path / "store", system, splits=(split,), **kept)
    found, whole = read_index(tmp_path / "store"), read_index(full)
    assert found.splits == whole.splits
    assert found.clips == whole.clips


def test_two_clips_of_one_name_are_refused_and_one_in_two_splits_is_not(tmp_path, system):
    write_clip(tmp_path / "data", "00001")
    write_split(tmp_path / "data" / "train_split.csv", [1])
    write_split(tmp_path / "data" / "valid_split.csv", [1])
    assert run_extract(tmp_path / "data", tmp_path / "store", system, layout=RAW).clips == 1
    write_clip(tmp_path / "data" / "test", "00001")
    with pytest.raises(DataError, match="--splits train, --splits test"):
        run_extract(tmp_path / "data", tmp_path / "store", system, layout=RAW)


def test_one_process_at_a_time_adds_to_a_store(made, full, system, tmp_path):
    store = shutil.copytree(full, tmp_path / "store")
    with StoreWriter(store, read_index(store).made_with):
        with pytest.raises(DataError, match="another process is adding to it"):
            run_extract(made, store, system, layout=RAW, audio=True, text=True)
    assert run_extract(made, store, system, layout=RAW, audio=True, text=True).before == 11


def test_a_folder_with_other_things_is_no_store(made, system, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other things \(notes\.txt\)"):
        run_extract(made, tmp_path, system, layout=RAW)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    # What training wrote before stores had a format.
    old = {"vision_encoder": "0" * 64, "preprocessing": {}}
    (tmp_path / "index.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match="of format None, version None; this taemi reads 'taemi-training-"):
        run_extract(made, tmp_path, system, layout=RAW)


def test_a_full_disk_ends_it_and_what_is_there_stays_whole(made, full, system, tmp_path):
    store = tmp_path / "store"
    kept = {"layout": RAW, "audio": True, "text": True}
    run_extract(made, store, system, splits=("valid",), **kept)
    before = contents(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The index fits, a clip's file does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*store/0000\d\.safetensors: File too large"):
            run_extract(made, store, system, **kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    clips = {name for name in before if name != "index.json"}
    assert set(contents(store)) == {*clips, "index.json"}
    assert all(contents(store)[name] == before[name] for name in clips)
    assert run_extract(made, store, system, **kept).before == 3
    assert contents(store) == contents(full)


def test_a_killed_worker_costs_nothing_and_a_clip_that_kills_fails_alone(corpus, full, system, tmp_path):
    kept = {"layout": RAW, "audio": True, "text": True, "workers": 2}
    done = run_extract(corpus, tmp_path / "once", system, decoder=OnceKillingDecoder, **kept)
    assert done.failures == {}
    assert (corpus / "raw" / "00007.killed").exists()
    assert contents(tmp_path / "once") == contents(full)
    done = run_extract(corpus, tmp_path / "always", system, decoder=KillingDecoder, **kept)
    assert set(done.failures) == {"00002"}
    assert "the process that decoded it died (it was ended by signal 9)" in done.failures["00002"]
    assert done.done == 10


@pytest.mark.parametrize(("vision", "workers"), [("raw", 2), ("face_images", 0), ("vit", 0)])
def test_every_planted_defect_is_survived_and_counts_add_up(tmp_path, system, vision, workers):
    root = write_broken_corpus(tmp_path / "data")
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    done = run_extract(
        root,
        tmp_path / "store",
        system,
        layout=Layout(vision=vision),
        workers=workers,
        warn=said.append,
        progress=lambda at, of: seen.append((at, of)),
    )
    index = read_index(tmp_path / "store")
    rows = [row for rows in read_corpus(root).splits.values() for row in rows]
    assert done.clips == len(rows) == 23
    assert seen == [(at, 23) for at in range(1, 24)]
    assert set(index.clips) | set(index.failures) == {row.name for row in rows}
    assert not set(index.clips) & set(index.failures)
    # Nothing of clip 11 can be read; its official features can.
    assert set(done.failures) == ({"00011"} if vision != "vit" else set())
    assert not (root / "ran").exists()
    assert any(line.startswith("clip 00009: ") for line in said)
    has = {name: set(load_file(tmp_path / "store" / f"{name}.safetensors")) for name in index.clips}
    assert has["00001"] == {"waveform", "vision"}
    if vision == "face_images":
        assert [name for name, arrays in has.items() if "vision" not in arrays] == ["00003", "00004"]
    if vision == "vit":
        assert "vision" not in has["00012"]
        assert load_file(tmp_path / "store" / "00000.safetensors")["vision"].shape == (6, WIDTH)
    assert (index.clips["00005"].transcript, index.clips["00005"].source) == ("", "none")
    assert (index.clips["00006"].transcript, index.clips["00006"].source) == ("", "file")
    assert index.clips["00007"].transcript == "Gr\ufffd\ufffde"
