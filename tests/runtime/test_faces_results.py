"""What scoring with face crops answers: results, warnings and the command line's option."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime import cli, load
from taemi_runtime.errors import BundleError
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import to_plain
from tests.runtime.drawn_faces import SKINS, Face, draw, wall, write_video
from tests.runtime.tiny_bundle import PREPROCESSING, save_manifest
from tests.runtime.tiny_bundle import make_bundle as build

FACE = Face(80, 96, 45)


def with_faces(faces: str) -> Preprocessing:
    return replace(PREPROCESSING, vision=replace(PREPROCESSING.vision, faces=faces))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    one = draw(wall(), FACE)
    two = draw(one, Face(200, 100, 30, skin=SKINS[2]))
    return {
        "one": write_video(folder / "one.mp4", [one] * 10),
        "two": write_video(folder / "two.mp4", [two] * 10),
        "part": write_video(folder / "part.mp4", [one] * 25 + [wall()] * 25),
        "wall": write_video(folder / "wall.mp4", [wall()] * 10),
    }


@pytest.fixture(scope="module")
def cropping(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bundles") / "faces.taemi", preprocessing=with_faces("auto"))


def infer(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["taemi-infer", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, *capsys.readouterr()


def test_a_model_trained_on_crops_gets_crops(cropping, videos):
    with load(cropping.folder, device="cpu") as scorer:
        result = scorer.score(videos["one"])
        assert scorer.faces_differ == ""
    assert (result.vision.frames, result.vision.faces, result.vision.left_out) == (10, 10, 0)
    assert result.warnings == ()
    with load(cropping.folder, device="cpu", clip_scores=False) as scorer:
        found = np.array(list(scorer.score(videos["one"]).intensities.values()))
        np.testing.assert_allclose(found, cropping.expected(videos["one"]), atol=2e-6)
    with load(cropping.folder, device="cpu", clip_scores=False, faces="none") as scorer:
        whole = scorer.score(videos["one"])
    assert np.abs(found - list(whole.intensities.values())).max() > 0.001
    assert (whole.vision.faces, whole.vision.left_out) == (None, None)


def test_no_face_at_all_is_missing_vision_with_its_reason(cropping, videos):
    with load(cropping.folder, device="cpu") as scorer:
        result = scorer.score(videos["wall"], "I won")
    assert not result.vision.present
    assert result.vision.why == "no face was found in any of 10 frames"
    found = result.to_object(0)["modalities"]["vision"]
    assert (found["frames"], found["faces"], found["left_out"]) == (0, 0, 10)
    assert result.text.present
    assert result.warnings == ()


def test_a_clip_that_has_nothing_at_all_says_so(cropping, videos):
    with load(cropping.folder, device="cpu") as scorer:
        result = scorer.score(videos["wall"])
    assert result.missing == ["audio", "vision", "text"]
    assert "the scores are the model's answer to no input" in result.warnings[-1]


def test_the_table_counts_what_was_left_out(monkeypatch, capsys, cropping, videos):
    _, out, _ = infer(monkeypatch, capsys, videos["part"], "--engine", cropping.folder, "--device", "cpu")
    assert re.search(r"vision: \d+ frames with a face, \d+ without one left out", " ".join(out.split()))


def test_frames_without_a_face_are_counted(cropping, videos):
    with load(cropping.folder, device="cpu") as scorer:
        vision = scorer.score(videos["part"]).vision
    assert vision.present
    assert vision.frames == vision.faces
    assert vision.faces + vision.left_out == 50
    assert vision.left_out == pytest.approx(25, abs=3)
    assert vision.seconds_used == pytest.approx(vision.frames / 25)


def test_two_faces_are_said(cropping, videos):
    with load(cropping.folder, device="cpu") as scorer:
        two, one = scorer.score(videos["two"]), scorer.score(videos["one"])
    assert two.warnings == ("more than one face in 10 of 10 frames; the largest is used",)
    # The larger face stands at the same place in both.
    difference = np.subtract(list(two.intensities.values()), list(one.intensities.values()))
    assert np.abs(difference).max() < 0.005


def test_the_option_crops_for_a_model_of_whole_frames_and_warns(monkeypatch, capsys, bundle, videos):
    command = (videos["one"], "--engine", bundle.folder, "--format", "json", "--device", "cpu")
    code, out, err = infer(monkeypatch, capsys, *command, "--faces", "auto")
    assert code == 0, err
    assert json.loads(out)["modalities"]["vision"]["faces"] == 10
    assert "the model was trained on whole frames and looks at face crops of OpenCV's cascade here" in err
    code, out, err = infer(monkeypatch, capsys, *command, "--quiet")
    assert json.loads(out)["modalities"]["vision"]["faces"] is None
    assert err == ""


def test_an_option_that_is_no_file_is_refused(monkeypatch, capsys, bundle, videos):
    code, _, err = infer(monkeypatch, capsys, videos["one"], "--engine", bundle.folder, "--faces", "all")
    assert code == 2
    assert "cannot look for faces with all: there is no such file. Give --faces auto" in err


def test_a_model_of_a_detector_file_needs_the_file(make_bundle, videos):
    made = make_bundle()
    save_manifest(made.folder, preprocessing=to_plain(with_faces("sha256:" + "1" * 64)))
    with pytest.raises(BundleError, match=r"from a file \(sha256:1+\), which is not given.*--faces FILE"):
        load(made.folder)
    with load(made.folder, device="cpu", faces="none") as scorer:
        assert "face crops of detector sha256:1" in scorer.faces_differ
        assert scorer.score(videos["one"]).vision.present
