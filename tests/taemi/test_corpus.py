"""Reading split files as they really come."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from taemi.corpus import Layout, clip_name, read_corpus
from taemi.crops import list_crops, read_crops
from taemi.evaluate import evaluate_split, format_table, write_figures, write_submission
from taemi_runtime.errors import DataError
from taemi_runtime.preprocessing import VisionPreprocessing
from tests.runtime.tiny_clips import make_clip

HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"


def write_split(root, name, *rows):
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}_split.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def test_rows_keep_order_labels_and_transcripts(tmp_path):
    write_split(tmp_path, "train", "00007,0.333333,0,0,0.5,1,0", "00002,0,0,0,0,0,0")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "00007.txt").write_text("  well, hello \n")
    first, second = read_corpus(tmp_path).split("train")
    assert first.name == "00007"
    assert first.labels == (0.333333, 0, 0, 0.5, 1, 0)
    assert first.transcript == "well, hello"
    assert first.media == tmp_path / "raw" / "00007.mp4"
    assert second.transcript == ""


def test_integer_file_names_are_padded_again():
    written = ("7", "00007", " 12660 ", "7.mp4", "7.0", "a")
    assert [clip_name(value) for value in written] == ["00007", "00007", "12660", "00007", "00007", "a"]


@pytest.mark.parametrize("folder", ["test_data", "test"])
def test_the_test_split_lives_in_its_own_folder(tmp_path, folder):
    write_split(tmp_path / folder, "test", "12660,0,0,0,0,0,0")
    (row,) = read_corpus(tmp_path).split("test")
    assert row.media == tmp_path / folder / "raw" / "12660.mp4"


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train_split\.csv"):
        read_corpus(tmp_path)
    write_split(tmp_path, "valid", "00001,0,0,0,0,0,0", "00002,0,0,x,0,0,0")
    with pytest.raises(DataError, match=r"line 3 \(00002\)"):
        read_corpus(tmp_path)
    write_split(tmp_path, "valid", "00001,0,0,0,0,0,1.5")
    with pytest.raises(DataError, match="from 0 to 1"):
        read_corpus(tmp_path)
    (tmp_path / "valid_split.csv").write_text(HEADER.replace("Empathic Pain", "EmpathicPain") + "\n")
    with pytest.raises(DataError, match="Empathic Pain"):
        read_corpus(tmp_path)


def test_a_split_that_is_not_there_is_an_error_only_when_asked_for(tmp_path):
    write_split(tmp_path, "train", "00001,0,0,0,0,0,0")
    corpus = read_corpus(tmp_path)
    assert not corpus.synthetic
    with pytest.raises(DataError, match=r"valid_split.csv; found: train"):
        corpus.split("valid")


def test_what_spreadsheets_leave_behind_is_read(tmp_path):
    # A byte order mark, blanks after commas, a blank line, Windows line ends, floats for names.
    text = "\ufeff" + HEADER.replace(",", ", ") + "\r\n\r\n1.0, 0, 0, 0, 0.25, 0, 1\r\n"
    (tmp_path / "train_split.csv").write_text(text, newline="")
    (row,) = read_corpus(tmp_path).split("train")
    assert (row.name, row.labels) == ("00001", (0, 0, 0, 0.25, 0, 1))


def test_a_clip_that_is_listed_twice_counts_once(tmp_path):
    write_split(tmp_path, "train", "00001,0,0,0,0,0,1", "1,0,0,0,0,0,0", "00002,0,0,0,0,0,0")
    assert [row.labels[5] for row in read_corpus(tmp_path).split("train")] == [1, 0]


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\\b", "..", "", " ", "a\tb", "x" * 101])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    write_split(tmp_path, "train", f"{name},0,0,0,0,0,0")
    with pytest.raises(DataError, match="line 2 names no clip"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00F", b"Filename\0,", b"", b"\x89PNG\r\n", b"Filename;Joy\n"]
)
def test_a_split_file_that_is_no_table_is_an_error(tmp_path, content):
    (tmp_path / "train_split.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"train_split\.csv"):
        read_corpus(tmp_path)


def write_crop(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), grey, np.uint8)).save(path)


def greys(frames):
    return [round(float(frame.mean()) / 10) for frame in frames]


def test_crops_come_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        write_crop(tmp_path / f"{number}.jpg", 10 * number)
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (tmp_path / "13.jpg").mkdir()
    listed = list_crops(tmp_path)
    assert [number for number, _ in listed.crops] == list(range(12))
    assert [path.name for path in listed.others] == ["13.jpg", "Thumbs.db"]
    size = {"height": 16, "width": 16}
    frames, broken = read_crops(tmp_path, VisionPreprocessing(**size))
    assert (frames.shape, greys(frames), broken) == ((12, 3, 16, 16), list(range(12)), [])
    assert greys(read_crops(tmp_path, VisionPreprocessing(**size, max_frames=3))[0]) == [0, 1, 2]
    # Thirty a second: the first of every tenth of a second, and of every fifth.
    assert greys(read_crops(tmp_path, VisionPreprocessing(**size, max_fps=10.0))[0]) == [0, 3, 6, 9]
    assert greys(read_crops(tmp_path, VisionPreprocessing(**size, max_fps=5.0))[0]) == [0, 6]
    assert len(read_crops(tmp_path, VisionPreprocessing(**size, max_fps=60.0))[0]) == 12


def test_vision_comes_from_face_crops_where_there_are_any(tmp_path):
    write_split(tmp_path, "train", "00001,0,0,0,0,0,0", "00002,0,0,0,0,0,0")
    (tmp_path / "raw").mkdir()
    assert read_corpus(tmp_path).vision == "raw"
    (tmp_path / "face_images").mkdir()
    assert read_corpus(tmp_path).vision == "raw"
    write_crop(tmp_path / "face_images" / "1" / "0.jpg", 5)
    corpus = read_corpus(tmp_path)
    assert corpus.vision == "face_images"
    assert [row.pictures for row in corpus.split("train")] == [tmp_path / "face_images" / "1", None]
    assert read_corpus(tmp_path, Layout(vision="raw")).vision == "raw"
    with pytest.raises(DataError, match=r"Choose --vision-from raw"):
        read_corpus(tmp_path, Layout(vision="googlevit"))


def test_files_are_found_by_their_number_whatever_their_suffix(tmp_path):
    write_split(tmp_path, "train", "00001,0,0,0,0,0,0", "00002,0,0,0,0,0,0")
    for name in ("raw/1.MP4", "raw/00002.webm", "raw/00002.mp4", "audio/00001.wav", "audio/00001.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    first, second = read_corpus(tmp_path).split("train")
    assert (first.media.name, first.audio.name) == ("1.MP4", "00001.mp3")
    assert (second.media.name, second.audio) == ("00002.mp4", None)


def test_test_clips_without_a_split_file_are_scored_and_not_correlated(tmp_path, demo_bundle):
    for name in ("12661", "12660"):
        (tmp_path / "test" / "raw").mkdir(parents=True, exist_ok=True)
        make_clip(tmp_path / "test" / "raw" / f"{name}.mp4")
    corpus = read_corpus(tmp_path)
    warnings = []
    evaluation = evaluate_split(demo_bundle, corpus, "test", warn=warnings.append)
    assert warnings == ["the test split has no labels: there are scores, and no correlation with anything"]
    assert np.isfinite(evaluation.predicted).all()
    assert "nan" not in format_table(evaluation)
    write_figures(tmp_path / "figures.json", evaluation)
    assert json.loads((tmp_path / "figures.json").read_text())["mean_rho"] is None
    write_submission(tmp_path / "submission.csv", evaluation)
    lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["Filename", "12660", "12661"]
    (tmp_path / "test" / "test_split.csv").write_text("Filename\n12661\n")
    assert [row.name for row in read_corpus(tmp_path).split("test")] == ["12661"]
