"""Reading split files as they really come."""

from __future__ import annotations

import pytest

from taemi.corpus import clip_name, read_corpus
from taemi_runtime.errors import DataError

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
    assert [clip_name(value) for value in ("7", "00007", " 12660 ", "7.mp4", "a")] == [
        "00007",
        "00007",
        "12660",
        "00007",
        "a",
    ]


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
