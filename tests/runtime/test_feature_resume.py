"""A run over features that goes on where it was cut off."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.runtime.feature_stores import draw, draw_many, expected, scores_of, write_store

TOLERANCE = 5e-6


class TestResume:
    """``--resume`` keeps lines of the same file, engine and options, and scores the rest."""

    @pytest.fixture
    def mine(self, bundle, tmp_path):
        return write_store(tmp_path / "mine", bundle, draw_many(12, longest=0.1))

    def lines(self, out):
        return [json.loads(line) for line in out.read_text().splitlines()]

    def test_what_is_there_is_kept_and_the_rest_is_scored(self, infer, bundle, mine, tmp_path):
        out = tmp_path / "scores.jsonl"
        common = (mine, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--batch", 4)
        infer(*common)
        whole = sorted(self.lines(out), key=lambda line: line["index"])
        kept = out.read_text().splitlines()[:5]
        # As a kill leaves it: the last line is torn.
        out.write_text("\n".join(kept) + '\n{"clip": "000')
        code, _, err = infer(*common, "--resume", "--ordered")
        assert code == 0, err
        found = self.lines(out)
        assert [line["index"] for line in found] == list(range(12))
        for line, before in zip(found, whole, strict=True):
            again = json.dumps(before) not in map(json.dumps, map(json.loads, kept))
            assert line["clip"] == before["clip"]
            np.testing.assert_allclose(scores_of(line), scores_of(before), atol=1e-6)
            assert again or line["timings_ms"] == before["timings_ms"]

    def test_a_file_that_changed_and_a_failure_are_done_again(self, infer, bundle, mine, tmp_path):
        out = tmp_path / "scores.jsonl"
        common = (mine, "--engine", bundle.folder, "--format", "jsonl", "--out", out, "--raw")
        (mine / "00003.safetensors").write_bytes(b"damaged")
        assert infer(*common)[0] == 1
        clips = draw_many(12, longest=0.1)
        clips[3], clips[5] = draw(77), draw(78)
        write_store(mine, bundle, clips)
        code, _, err = infer(*common, "--resume", "--ordered")
        assert code == 0, err
        found = self.lines(out)
        assert [line["index"] for line in found] == list(range(12))
        np.testing.assert_allclose(
            [scores_of(line) for line in found], [expected(clip) for clip in clips], atol=TOLERANCE
        )

    def test_files_without_an_index_are_known_by_their_bytes(self, infer, bundle, mine, tmp_path):
        out = tmp_path / "scores.jsonl"
        (mine / "index.json").unlink()
        common = (f"{mine}/*.safetensors", "--engine", bundle.folder, "--format", "jsonl", "--out", out)
        infer(*common)
        before = {line["clip"]: line["timings_ms"] for line in self.lines(out)}
        (mine / "00000.safetensors").unlink()
        code, _, _ = infer(*common, "--resume")
        assert code == 0
        found = self.lines(out)
        # The line of the file that is gone stays.
        assert {line["clip"]: line["timings_ms"] for line in found} == before

    def test_other_settings_are_refused(self, infer, bundle, make_bundle, mine, tmp_path):
        out = tmp_path / "scores.jsonl"
        common = (mine, "--format", "jsonl", "--out", out)
        infer(*common, "--engine", bundle.folder)
        before = out.read_bytes()
        code, _, err = infer(*common, "--engine", bundle.folder, "--raw", "--resume")
        assert (code, "was scored with raw false, this run has true" in err) == (2, True)
        other = make_bundle(bias=[0, 0, 0, 0, 0, 9])
        code, _, err = infer(*common, "--engine", other.folder, "--resume")
        assert (code, "was scored with engine" in err) == (2, True)
        code, _, err = infer(mine, "--engine", bundle.folder, "--resume")
        assert (code, "only a file of JSON lines says what is done" in err) == (2, True)
        assert out.read_bytes() == before
