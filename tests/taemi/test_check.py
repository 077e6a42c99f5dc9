"""``taemi check`` names every defect of a corpus with its file, and training goes on all the same."""

from __future__ import annotations

import json
import os
import pickle
import pty
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from taemi.check import check_corpus, format_report
from taemi.corpus import Layout, read_corpus
from taemi.recipe import Recipe
from taemi.train import train
from taemi_runtime.errors import DataError
from tests.taemi.broken_corpus import TRAIN, WIDTH, write_broken_corpus, write_clip, write_split
from tests.taemi.small_systems import small


def taemi(*arguments):
    command = [sys.executable, "-m", "taemi.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return write_broken_corpus(tmp_path_factory.mktemp("broken") / "data")


@pytest.fixture(scope="module")
def report(broken):
    return check_corpus(broken, jobs=2)


@pytest.fixture
def copy(broken, tmp_path):
    """A copy that a test may damage further."""
    return shutil.copytree(broken, tmp_path / "data", copy_function=os.link)


PLANTED = [
    ("numbers for names", "train_split.csv", "handled", "'0'"),
    ("repeated row", "train_split.csv", "handled", "00003 once more"),
    ("no face crop", "face_images/00000/Thumbs.db", "handled", "ignored"),
    ("very short", "audio/00001.mp3", "handled", "0."),
    ("very long", "audio/00002.mp3", "handled", "1,201."),
    ("no face folder", "face_images/00003", "counts as missing", "no such folder"),
    ("face folder empty", "face_images/00004", "counts as missing", "no face crop"),
    ("no transcript", "text/00005.txt", "counts as missing", "no such file"),
    ("transcript empty", "text/00006.txt", "counts as missing", "no word"),
    ("transcript damaged", "text/00007.txt", "a part is left out", "no UTF-8"),
    ("face crop broken", "face_images/00008/3.jpg", "a part is left out", "ends too soon"),
    ("face crop broken", "face_images/00008/4.jpg", "a part is left out", "0 bytes"),
    ("face crop broken", "face_images/00008/5.jpg", "a part is left out", "no JPEG or PNG"),
    ("media file broken", "audio/00009.mp3", "a part is left out", "no audio or video"),
    ("media file broken", "raw/00010.mp4", "a part is left out", "0 bytes"),
    ("media file broken", "raw/00011.mp4", "a part is left out", "index is missing"),
    ("clip cannot be read", "raw/00011.mp4", "clip is left out", "none of the clip's files"),
    ("feature file refused", "vit/00012.pkl", "handled", f"{os.system.__module__}.system"),
    ("feature file broken", "vit/00013.pkl", "handled", "damaged"),
    ("clip file missing", "raw/00014.mp4", "handled", "come from others"),
    ("clip without a row", "raw/00099.mp4", "handled", "00099"),
]


@pytest.mark.parametrize(("kind", "file", "effect", "words"), PLANTED)
def test_every_planted_defect_is_named_with_its_file(report, kind, file, effect, words):
    found = [item for item in report.findings if (item.kind, item.file) == (kind, file)]
    assert len(found) == 1
    assert found[0].effect == effect
    assert words in found[0].what
    assert f"  {file}: {found[0].what}" in format_report(report, everything=True)


def test_nothing_else_is_found_but_what_follows_from_it(report):
    others = {(item.kind, item.file) for item in report.findings} - {
        (kind, file) for kind, file, *_ in PLANTED
    }
    crops = {("face crop broken", f"face_images/00011/{number}.jpg") for number in range(12)}
    assert others == {
        *crops,
        ("face folder broken", "face_images/00011"),
        ("numbers for names", "valid_split.csv"),
        ("no split file", "test"),
        ("clip without a row", "audio/00099.mp3"),
        ("clip without a row", "face_images/00099"),
        *(("number of clips", name) for name in ("train_split.csv", "valid_split.csv", "test")),
        *(("constant label", name) for name in ("train_split.csv", "valid_split.csv")),
    }


def test_counts_add_up(report):
    train, valid, test = report.splits
    assert (train.rows, train.known, train.usable, train.left_out) == (15, 8072, 14, 1)
    assert (train.audio.there, train.audio.missing, train.audio.broken) == (14, 0, 1)
    assert (train.vision.there, train.vision.missing, train.vision.broken) == (12, 2, 1)
    assert (train.text.there, train.text.missing, train.text.broken) == (13, 2, 0)
    assert (valid.rows, valid.known, valid.usable) == (5, 4588, 5)
    # There is no test_split.csv: the clips that are there count, without labels.
    assert (test.rows, test.known, test.usable, test.listed, test.labels) == (3, 4586, 3, "test", None)
    assert report.test_folder == "test"
    for split in report.splits:
        assert split.usable + split.left_out == split.rows
        for counts in (split.audio, split.vision, split.text):
            assert counts.there + counts.missing + counts.broken == split.rows
        assert split.durations.clips + split.durations.unknown == split.rows
        assert split.features == {"vit": WIDTH}
    assert train.durations.max_s == pytest.approx(1200, abs=2)
    assert train.durations.min_s < 0.15


def test_label_statistics_are_numpys(broken, report):
    labels = np.array([row.labels for row in read_corpus(broken).split("train")])
    found = report.splits[0].labels
    np.testing.assert_allclose(found.nonzero_share, (labels > 0).mean(0))
    np.testing.assert_allclose(found.mean, labels.mean(0))
    changing = [0, 3, 5]
    expected = np.corrcoef(labels[:, changing], rowvar=False)
    np.testing.assert_allclose(
        [[found.correlation[a][b] for b in changing] for a in changing], expected, atol=1e-12
    )
    assert found.correlation[1] == (None,) * 6


def test_nothing_of_a_hostile_pickle_is_run(broken, report):
    assert report.trains
    check_corpus(broken, Layout(vision="vit"), decode=True)
    assert not (broken / "ran").exists()


def test_training_goes_on_with_all_of_it(broken, tmp_path):
    done = taemi(
        *("train", broken, "--out", tmp_path / "run", "--encoders", "tiny", "--epochs", 1),
        *("--batch-size", 20, "--pad", "longest", "--seed", 1, "--no-tensorboard"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.pt").is_file()
    for words in ("clip 00011 is left out", "face_images/00008/5.jpg is left out", "audio/00009.mp3"):
        assert words in done.stderr
    assert "with --faces auto" in done.stderr
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert np.isfinite(history[0]["loss"])

    def held(name):
        arrays = load_file(tmp_path / "run" / "features" / f"{name}.safetensors")
        return {key: value.shape[0] for key, value in arrays.items()}

    assert held("00000") == {"waveform": pytest.approx(16_000, abs=1200), "vision": 12}
    assert held("00001") == {"waveform": pytest.approx(1024, abs=1200), "vision": 12}
    assert held("00002") == {"waveform": 192_000, "vision": 12}
    assert "vision" not in held("00003")
    assert "vision" not in held("00004")
    assert held("00008")["vision"] == 9
    assert held("00009")["waveform"] > 9000
    assert held("00014")["vision"] == 12


def train_on(root, vision, out):
    """Train for one epoch in this process; return what was warned of."""
    warnings = []
    recipe = Recipe(epochs=1, batch_size=5, pad="longest", modalities=("vision", "text"))
    system = small()
    train(system, read_corpus(root, Layout(vision=vision)), out, recipe, warn=warnings.append)
    return "\n".join(warnings)


def test_training_on_ready_made_features(broken, tmp_path):
    warned = train_on(broken, "vit", tmp_path)
    name = f"{os.system.__module__}.system"
    assert f"names {name}, which is neither a numpy array nor a torch tensor" in warned
    assert "vit/00013.pkl: the file is damaged" in warned
    assert not (broken / "ran").exists()
    assert (tmp_path / "best.pt").is_file()
    store = load_file(tmp_path / "features" / "00004.safetensors")
    np.testing.assert_allclose(
        store["vision"], pickle.loads((broken / "vit/00004.pkl").read_bytes()), atol=2e-3
    )
    with pytest.raises(DataError, match="another vision_from"):
        train_on(broken, "face_images", tmp_path)


def test_features_of_another_width_are_refused_before_training(copy, tmp_path):
    (copy / "vit" / "00004.pkl").unlink()
    (copy / "vit" / "00004.pkl").write_bytes(pickle.dumps(np.ones((3, 384), "f4")))
    report = check_corpus(copy, Layout(vision="vit"))
    assert not report.trains
    stopping = [item for item in report.findings if item.effect == "stops training"]
    assert [(item.file, item.what) for item in stopping] == [
        ("vit/00004.pkl", f"it is 384 wide, 20 others are {WIDTH}")
    ]
    with pytest.raises(DataError, match="they are 384 wide, the vision encoder's 48"):
        train_on(copy, "vit", tmp_path)


def rewrite(path, text):
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "valid_split.csv").unlink(), "valid_split.csv: there is no such file"),
        (lambda root: rewrite(root / "valid_split.csv", "Filename,Joy\n"), "column 'Admiration' is missing"),
        (lambda root: rewrite(root / "valid_split.csv", "\0\xff\n"), "valid_split.csv: "),
        (
            lambda root: (root / "valid_split.csv").open("a").write("16,0,0,0,0,0,7\n"),
            "line 7 (00016) has labels",
        ),
        (
            lambda root: (root / "valid_split.csv").open("a").write("../x,0,0,0,0,0,0\n"),
            "line 7 names no clip",
        ),
        (lambda root: write_split(root / "valid_split.csv", [90, 91]), "none of its 2 clips can be used"),
    ],
)
def test_what_stops_training_gives_exit_code_1_and_stops_it(copy, tmp_path, damage, words):
    table = copy / "valid_split.csv"
    content = table.read_text()
    rewrite(table, content)
    damage(copy)
    done = taemi("check", copy)
    assert done.returncode == 1, done.stderr
    assert words in done.stdout
    assert "taemi train would fail on this corpus" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_command_prints_json_and_leaves_with_0(broken, tmp_path):
    done = taemi("check", broken, "--json", "--jobs", 3, "--decode")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [split["rows"] for split in found["splits"]] == [15, 5, 3]
    assert {(item["kind"], item["file"]) for item in found["findings"]} >= {
        (kind, file) for kind, file, *_ in PLANTED
    }
    assert "check: " in done.stderr
    text = taemi("check", broken, "--out", tmp_path / "report.txt", "--quiet")
    assert (text.returncode, text.stdout, text.stderr) == (0, "", "")
    assert "taemi train can use this corpus" in (tmp_path / "report.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--jobs", "0"), 2, "--jobs"),
        (("--vision-from", "dinov2"), 1, "there is no such folder"),
        (("--test-folder", "tests"), 1, "no folder tests"),
    ],
)
def test_wrong_arguments_get_one_clear_message(broken, arguments, code, words):
    done = taemi("check", broken, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_test_folder_is_found_or_named(copy):
    write_clip(copy / "test_data", "12700")
    report = check_corpus(copy)
    assert (report.test_folder, report.splits[2].rows) == ("test_data", 1)
    assert "two test folders" in {item.kind for item in report.findings}
    named = check_corpus(copy, Layout(test_folder="test"))
    assert (named.test_folder, named.splits[2].rows) == ("test", 3)


def test_ctrl_c_ends_it_within_a_second(broken, tmp_path):
    # Enough clips for many minutes.
    root = tmp_path / "data"
    (root / "audio").mkdir(parents=True)
    for number in range(3000):
        os.link(broken / "audio" / "00002.mp3", root / "audio" / f"{number:05d}.mp3")
    write_split(root / "train_split.csv", range(3000))
    own, theirs = pty.openpty()
    command = [sys.executable, "-m", "taemi.cli", "check", str(root), "--decode"]
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        while b"check train" not in shown:
            shown += os.read(own, 4096)
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=20)
        seconds = time.monotonic() - start
    os.close(own)
    assert code == 130
    assert seconds < 1.0


def test_every_clip_of_the_training_split_is_a_row_of_the_loader(broken):
    rows = read_corpus(broken).split("train")
    assert [row.name for row in rows] == [f"{number:05d}" for number in TRAIN]
    assert rows[3].pictures is None
    assert rows[3].vision == "face_images"
    assert rows[9].audio == broken / "audio" / "00009.mp3"
    assert rows[7].transcript.startswith("Gr")


def test_what_only_decoding_finds(copy):
    crop = copy / "face_images" / "00001" / "2.jpg"
    crop.unlink()
    crop.write_bytes(b"\xff\xd8\xff" + bytes(100) + b"\xff\xd9")
    clip = copy / "raw" / "00002.mp4"
    whole = clip.read_bytes()
    clip.unlink()
    media = whole.index(b"mdat")
    clip.write_bytes(whole[: media + 8] + bytes(2000) + whole[media + 2008 :])

    def found(**options):
        findings = check_corpus(copy, **options).findings
        return {(item.file, item.what) for item in findings if item.kind == "damage within"}

    assert not found()
    ((file, what),) = found(decode=True)
    assert file == "face_images/00001"
    assert "2.jpg is left out" in what
    ((file, what),) = found(decode=True, layout=Layout(vision="raw")) - found()
    assert file == "raw/00002.mp4"


def test_whatever_lies_where_a_file_should_is_no_crash(copy):
    (copy / "raw" / "00000.mp4").unlink()
    (copy / "raw" / "00000.mp4").mkdir()
    (copy / "audio" / "00001.mp3").unlink()
    os.mkfifo(copy / "audio" / "00001.mp3")
    (copy / "raw" / "00002.mp4").unlink()
    (copy / "raw" / "00002.mp4").symlink_to("00002.mp4")
    (copy / "face_images" / "00003").symlink_to("00003")
    (copy / "face_images" / "00004" / "1.jpg").symlink_to("1.jpg")
    (copy / "face_images" / "00004").joinpath(os.fsdecode(b"Th\xffmbs\n.db")).touch()
    (copy / "text" / "00005.txt").mkdir()
    (copy / "vit" / "00006.pkl").unlink()
    (copy / "vit" / "00006.pkl").symlink_to("/dev/zero")
    for path in (copy / "face_images" / "00007").iterdir():
        path.unlink()
    (copy / "face_images" / "00007").rmdir()
    (copy / "face_images" / "00007").write_text("a file")
    done = taemi("check", copy, "--json", "--decode")
    assert done.returncode == 0, done.stderr
    named = {item["file"] for item in json.loads(done.stdout)["findings"]}
    assert named >= {
        *("raw/00000.mp4", "audio/00001.mp3", "raw/00002.mp4", "face_images/00003", "face_images/00004"),
        *(
            "face_images/00004/1.jpg",
            "face_images/00004/Th\ufffdmbs\ufffd.db",
            "text/00005.txt",
            "vit/00006.pkl",
        ),
        "face_images/00007",
    }
    text = taemi("check", copy)
    assert text.returncode == 0, text.stderr
    (copy / "train_split.csv").unlink()
    (copy / "train_split.csv").mkdir()
    assert taemi("check", copy).returncode == 1
