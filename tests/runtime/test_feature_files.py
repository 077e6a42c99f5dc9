"""Feature files that nobody vouches for: each defect is named, and the other files are done."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from taemi_runtime.errors import DataError
from taemi_runtime.feature_files import layout
from taemi_runtime.feature_files.layout import EncoderId, FeatureFacts, Origin, from_metadata, to_metadata
from taemi_runtime.feature_files.reading import open_features, read_facts
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.feature_files.wanted import WantedInput
from taemi_runtime.feature_files.writing import write_features
from taemi_runtime.results import AudioUse, ClipFailure, TextUse, VisionUse
from tests.runtime.feature_stores import draw, expected, scores_of

WANTED = (
    WantedInput("audio", "audio", "audio_mask", 3, most=599),
    WantedInput("vision", "vision", "vision_mask", 3, most=400),
    WantedInput("text", "text", "", 2),
)
GOOD = {"audio": np.ones((4, 3), np.float16), "vision": np.ones((2, 3), np.float16)}
HALF = np.float16


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F16", shape=(4, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def nan_at(row: int, column: int, value: float, dtype=HALF) -> np.ndarray:
    values = np.ones((6, 3), dtype)
    values[row, column] = value
    return values


BROKEN_HEADERS = {
    "nothing": (b"", "it has 0 bytes and ends within its header's length"),
    "five bytes": (b"12345", "it has 5 bytes and ends within its header's length"),
    "a header of 2**63 bytes": (
        struct.pack("<Q", 1 << 63),
        "its header claims 9,223,372,036,854,775,808 bytes",
    ),
    "a header of 100 MB": (struct.pack("<Q", 10**8) + b"{}", "at most 1,048,576 are read"),
    "a header beyond the end": (
        struct.pack("<Q", 500) + b"{}",
        "it has 10 bytes, its header alone claims 508",
    ),
    "no JSON": (raw(b"not json"), "its header is no JSON"),
    "no text": (raw(b"\xff\xfe\x00\x01"), "its header is no JSON"),
    "brackets without end": (raw(b"[" * 100_000), "its header is no JSON"),
    "a list": (raw([1, 2]), "its header is no JSON object"),
    "metadata of numbers": (raw({"__metadata__": {"format": 1}}), "its metadata is no table of strings"),
    "a tensor that is a number": (raw({"audio": 5}), "its header describes tensor 'audio' wrongly"),
    "an unknown type": (raw({"audio": entry("F4")}, b"0" * 24), "type 'F4' is unknown"),
    "a negative length": (
        raw({"audio": entry(shape=(-4, -3))}, b"0" * 24),
        "describes tensor 'audio' wrongly",
    ),
    "a length that is no number": (raw({"audio": entry(shape=("4", 3))}, b"0" * 24), "wrongly"),
    "bools as lengths": (raw({"audio": entry(shape=(True, 12))}, b"0" * 24), "wrongly"),
    "a hundred axes": (raw({"audio": entry(shape=[1] * 100, offsets=(0, 2))}, b"00"), "wrongly"),
    "another length than its shape": (
        raw({"audio": entry(offsets=(0, 22))}, b"0" * 22),
        "F16 [4, 3] takes 24 bytes, it has 22",
    ),
    "a petabyte": (
        raw({"audio": entry(shape=(10**15, 3), offsets=(0, 6 * 10**15))}, b"0" * 24),
        "its tensors end at byte 6,000,000,000,",
    ),
    "a shape that overflows": (
        raw({"audio": entry(shape=(2**63, 2**63), offsets=(0, 0))}),
        "describes tensor 'audio' wrongly",
    ),
    "truncated": (save(GOOD)[:-1], "its tensors end at byte"),
    "longer than its tensors": (save(GOOD) + b"0", "its tensors end at byte"),
    "another format": (
        save(GOOD, metadata={"format": "pt"}),
        "its format is 'pt', expected 'taemi-features'",
    ),
    "a later version": (
        save(GOOD, metadata={"format": "taemi-features", "version": "2"}),
        "its version is '2', this taemi reads '1'",
    ),
    "unknown metadata": (
        save(GOOD, metadata={"format": "taemi-features", "version": "1", "speaker": "x"}),
        "unknown metadata speaker",
    ),
    "a length in words": (
        save(GOOD, metadata={"format": "taemi-features", "version": "1", "clip_seconds": "nan"}),
        "its clip_seconds is 'nan', expected a number from 0 up",
    ),
    "an origin of another shape": (
        save(GOOD, metadata={"format": "taemi-features", "version": "1", "origin": "[1]"}),
        "its origin cannot be read",
    ),
}

BROKEN_TENSORS = {
    "another width": (
        {"audio": np.ones((4, 5), HALF)},
        "audio is F16 [4, 5], this engine takes [rows, 3]. Score it with the model whose encoders made it",
    ),
    "one axis too few": ({"vision": np.ones(3, HALF)}, "vision is F16 [3], this engine takes [rows, 3]"),
    "one axis too many": ({"text": np.ones((1, 2), HALF)}, "text is F16 [1, 2], this engine takes [2]"),
    "whole numbers": (
        {"audio": np.ones((4, 3), np.int32)},
        "audio is I32 [4, 3], expected F16 or F32 [rows, 3]",
    ),
    "double precision": ({"text": np.ones(2)}, "text is F64 [2], expected F16 or F32 [2]"),
    "no rows": (
        {"audio": np.ones((0, 3), HALF), "text": np.ones(2, HALF)},
        "audio has no rows. Leave audio out of the file where it is missing",
    ),
    "too many rows": (
        {"vision": np.ones((401, 3), HALF)},
        "vision has 401 rows, this engine takes at most 400",
    ),
    "the other text": (
        {"text_tokens": np.ones((4, 2), HALF)},
        "it has text_tokens, this engine takes text",
    ),
    "sound that no encoder has seen": (
        {"waveform": np.ones(16_000, np.float32), "vision": np.ones((2, 3), HALF)},
        "it is of a training store: it has waveform, this engine takes audio and text features, too. "
        "Make one from the clips: taemi-infer CLIP... --engine BUNDLE --save-features STORE",
    ),
    "nothing at all": ({}, "it has no tensor, expected some of audio, vision, text, text_tokens"),
    "nothing of use": (
        {"labels": np.ones(6, np.float32)},
        "it has labels, expected some of audio, vision, text",
    ),
    "NaN": ({"audio": nan_at(5, 2, np.nan)}, "audio is not finite: nan in row 5, column 2"),
    "Inf": ({"vision": nan_at(3, 1, np.inf, np.float32)}, "vision is not finite: inf in row 3, column 1"),
    "NaN in a vector": ({"text": np.array([1, np.nan], HALF)}, "text is not finite: nan in column 1"),
}


@pytest.fixture(scope="module")
def scorer(bundle):
    with FeatureScorer(bundle.folder, clip_scores=False, batch=8) as opened:
        yield opened


def outcomes_of(scorer, *paths):
    found = dict(scorer.score(paths))
    return [found[place] for place in range(len(paths))]


@pytest.mark.parametrize("name", BROKEN_HEADERS | BROKEN_TENSORS)
def test_a_broken_file_is_its_own_failure_and_the_others_are_done(scorer, tmp_path, name):
    path = tmp_path / "broken.safetensors"
    if name in BROKEN_HEADERS:
        content, message = BROKEN_HEADERS[name]
        path.write_bytes(content)
    else:
        tensors, message = BROKEN_TENSORS[name]
        save_file(tensors, path)
    clips = [draw(1), draw(2)]
    beside = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for other, clip in zip(beside, clips, strict=True):
        save_file(clip, other)
    first, bad, last = outcomes_of(scorer, beside[0], path, beside[1])
    assert isinstance(bad, ClipFailure)
    assert bad.error.startswith(f"cannot read features from {path}: ")
    assert message in bad.error
    np.testing.assert_allclose(scores_of(first), expected(clips[0]), atol=5e-6)
    np.testing.assert_allclose(scores_of(last), expected(clips[1]), atol=5e-6)


def test_what_is_no_file_is_said(scorer, tmp_path):
    folder, link, pipe = (tmp_path / f"{name}.safetensors" for name in ("folder", "link", "pipe"))
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    missing = tmp_path / "missing.safetensors"
    whole = tmp_path / "whole.safetensors"
    save_file(draw(3), whole)
    no_link, no_pipe, nothing, good = outcomes_of(scorer, link, pipe, missing, whole)
    assert "there is no such file" in no_link.error
    assert "it is no ordinary file" in no_pipe.error
    assert "there is no such file" in nothing.error
    np.testing.assert_allclose(scores_of(good), expected(draw(3)), atol=5e-6)


@pytest.mark.parametrize("name", [name for name in BROKEN_HEADERS if name not in ("truncated",)])
def test_a_header_that_lies_allocates_nothing(tmp_path, name):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN_HEADERS[name][0])
    tracemalloc.start()
    try:
        with pytest.raises(DataError), open_features(path, WANTED):
            pass
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_shrinks_while_it_is_read_is_said(tmp_path):
    path = tmp_path / "shrinking.safetensors"
    save_file({"audio": np.ones((400, 3), HALF)}, path)
    with open_features(path, WANTED) as file:
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(DataError, match=r"it ended at byte .* while it was read"):
            file.read_into(WANTED[0], np.empty((400, 3), HALF))


def test_numbers_beyond_half_precision_are_refused_for_a_half_engine_only(tmp_path):
    path = tmp_path / "large.safetensors"
    save_file({"audio": nan_at(2, 1, 7e4, np.float32)}, path)
    with open_features(path, WANTED) as file:
        single = np.empty((6, 3), np.float32)
        file.read_into(WANTED[0], single)
        assert single[2, 1] == 7e4
        with pytest.raises(
            DataError, match=r"audio is 70000 in row 2, column 1, half precision.*ends at 65504"
        ):
            file.read_into(WANTED[0], np.empty((6, 3), HALF))


def test_whatever_is_written_is_read_back(tmp_path):
    origin = Origin("1" * 64, {"audio": EncoderId("2" * 64, "int8"), "text": EncoderId()})
    facts = FeatureFacts(
        clip="Größe 7.mp4",
        clip_seconds=3.75,
        clip_sha256="3" * 64,
        origin=origin,
        audio=AudioUse(True, 4, 0.08, truncated=True),
        vision=VisionUse(False, faces=0, left_out=7, why="no face was found"),
        text=TextUse(True, 5, 'she said "no"\n', "given"),
        warnings=("the video is a single picture",),
    )
    path = tmp_path / "clip.safetensors"
    values = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    write_features(path, {"audio": values, "text": values[0, :2]}, facts)
    assert read_facts(path) == (facts, {"audio": 4, "text": 1})
    assert from_metadata(to_metadata(facts)) == facts
    with open_features(path, WANTED) as file:
        assert [file.length(item) for item in WANTED] == [4, 0, 1]
        half, single = np.empty((4, 3), HALF), np.empty((4, 3), np.float32)
        file.read_into(WANTED[0], half)
        file.read_into(WANTED[0], single)
    np.testing.assert_array_equal(half, values.astype(HALF))
    np.testing.assert_array_equal(single, values.astype(HALF).astype(np.float32))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"sound": np.ones((2, 3))}, r"sound is float64 \[2, 3\]"),
        ({"audio": np.ones(3)}, r"audio is float64 \[3\]"),
        ({"audio": np.ones((0, 3))}, r"audio is float64 \[0, 3\]"),
        ({"audio": np.ones((2, 3), int)}, r"audio is int64"),
        ({"audio": np.full((2, 3), 1e6)}, "audio reaches 1e\\+06, half precision ends at 65504"),
        ({"text": np.array([1, np.nan])}, "text reaches nan"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_no_file(tmp_path, features, message):
    with pytest.raises(DataError, match=message):
        write_features(tmp_path / "x.safetensors", features, FeatureFacts("x.mp4", 1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_clip_of_which_nothing_could_be_used_is_a_result(scorer, tmp_path):
    path = tmp_path / "empty.safetensors"
    write_features(path, {}, FeatureFacts("empty.mp4", 1.0))
    (outcome,) = outcomes_of(scorer, path)
    assert outcome.missing == ["audio", "vision", "text"]
    assert "nothing of the clip could be used" in outcome.warnings[0]
    np.testing.assert_allclose(scores_of(outcome), expected({}), atol=5e-6)


def test_the_format_is_readable_by_the_safetensors_library(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "x.safetensors"
    write_features(path, GOOD, FeatureFacts("x.mp4", 1.5, "4" * 64))
    with safe_open(path, "np") as file:
        assert file.metadata() == {
            "format": layout.FORMAT,
            "version": "1",
            "clip": "x.mp4",
            "clip_seconds": "1.5",
            "clip_sha256": "4" * 64,
        }
        np.testing.assert_array_equal(file.get_tensor("audio"), GOOD["audio"])
