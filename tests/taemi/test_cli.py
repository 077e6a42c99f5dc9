"""``taemi`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"


def taemi(*arguments, cwd=None):
    command = [sys.executable, "-m", "taemi.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_help_names_every_command():
    done = taemi("--help")
    assert done.returncode == 0
    for command in ("demo", "init", "synth", "check", "extract", "train", "ablate", "evaluate"):
        assert command in done.stdout


def test_heavy_packages_are_imported_by_the_commands_that_need_them_only():
    code = "import sys, taemi.cli; print(*({'numpy', 'av', 'torch', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_init_writes_an_untrained_checkpoint_and_keeps_an_existing_one(tmp_path):
    ckpt = tmp_path / "a.pt"
    done = taemi("init", ckpt, "--encoders", "tiny", "--preset", "released")
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stderr
    assert f"next: taemi-export onnx {ckpt}" in done.stderr
    before = ckpt.read_bytes()
    again = taemi("init", ckpt, "--encoders", "tiny")
    assert again.returncode == 1
    assert "it exists already" in again.stderr
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("init", "x.pt", "--preset", "papr", "--encoders", "tiny"), 1, "there is no variant 'papr'"),
        (("init", "x.pt", "--encoders", "huge"), 2, "Choose --encoders paper or tiny"),
        (("train", "nowhere", "--out", "run", "--encoders", "tiny"), 1, "cannot read corpus nowhere"),
        (("train", "nowhere", "--out", "run", "--epochs", "0"), 2, "epochs is 0"),
        (("train", "nowhere", "--out", "run", "--freeze", "vision"), 2, "cannot freeze ['vision']"),
        (("train", "nowhere", "--out", "run", "--pad", "some"), 2, "--pad max or longest"),
        (("train", "nowhere"), 2, "--out"),
        (
            ("train", "x", "--out", "r", "--variant", "audio", "--modalities", "text"),
            2,
            "sees audio and nothing",
        ),
        (("check", "nowhere"), 1, "cannot read corpus nowhere"),
        (("evaluate", "none.taemi", "nowhere"), 1, "cannot read corpus nowhere"),
        (("evaluate", "none.taemi", "nowhere", "--snr", "loud"), 2, "cannot take levels from 'loud'"),
        (("evaluate", "none.taemi", "nowhere", "--occlude", "0.5,2"), 2, "Give shares above 0, at most 1"),
    ],
)
def test_wrong_arguments_get_one_clear_message(tmp_path, arguments, code, words):
    done = taemi(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.pt").exists()


def test_a_missing_hub_model_is_named_with_the_way_out(tmp_path):
    done = taemi("init", tmp_path / "x.pt")
    assert done.returncode == 1
    assert "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_prints_every_condition_and_writes_a_submission(tmp_path, demo_bundle, demo_corpus):
    done = taemi(
        "evaluate",
        demo_bundle,
        demo_corpus,
        "--split",
        "test",
        "--csv",
        tmp_path / "s.csv",
        "--json",
        tmp_path / "f.json",
    )
    assert done.returncode == 0, done.stderr
    assert "synthetic clips, untrained" in done.stdout
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures["rho"]) == {
        "audio+vision+text",
        "audio+vision",
        "audio+text",
        "vision+text",
        "audio",
        "vision",
        "text",
        "none",
    }
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert len(lines) == 1 + figures["clips"]
    assert all(0 <= float(cell) <= 1 for line in lines[1:] for cell in line.split(",")[1:])


def test_init_says_how_faces_are_cropped_and_the_runtime_follows(tmp_path):
    from taemi.exportable import open_source
    from taemi_runtime import load

    ckpt = tmp_path / "faces.pt"
    done = taemi("init", ckpt, "--encoders", "tiny", "--faces", "auto")
    assert done.returncode == 0, done.stderr
    assert open_source(ckpt).preprocessing["vision"]["faces"] == "auto"
    with load(ckpt, device="cpu") as scorer:
        assert scorer.preprocessing.vision.faces == "auto"
    wrong = taemi("init", tmp_path / "b.pt", "--encoders", "tiny", "--faces", "yes")
    assert wrong.returncode == 1
    assert "cannot look for faces with yes: there is no such file" in wrong.stderr
