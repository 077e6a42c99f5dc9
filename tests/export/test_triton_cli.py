"""``taemi-export triton`` as a user runs it, and what it never replaces."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]


def one_error(capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err


def test_command_says_what_it_wrote_and_what_is_missing(
    exported: Path, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert run("triton", exported, out, "--max-batch", 8, "--preferred", 4, "--preferred", 8) == 0
    stdout, err = capfd.readouterr()
    assert stdout == ""
    lines = err.splitlines()
    assert lines[0].startswith("toy: tagger.onnx, onnxruntime, batches up to 8, ")
    assert f"taemi-export tensorrt {exported}" in lines[1]
    assert lines[2].startswith("triton: ")
    assert str(out / "README.md") in lines[3]
    assert "preferred_batch_size: [4, 8]" in (out / "toy/config.pbtxt").read_text()

    assert run("triton", exported, out, "--quiet") == 2
    assert "--force" in one_error(capfd)
    assert run("triton", exported, out, "--force", "--quiet", "--name", "other") == 0
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["other"]


def test_nothing_of_others_is_ever_replaced(
    exported: Path, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    (mine / "resnet/1").mkdir(parents=True)
    assert run("triton", exported, mine, "--force") == 2
    assert "taemi-repository.json" in one_error(capfd)
    (tmp_path / "file").write_text("text")
    assert run("triton", exported, tmp_path / "file", "--force") == 2
    assert "a file of that name" in one_error(capfd)
    assert (mine / "resnet/1").is_dir()
    assert (tmp_path / "file").read_text() == "text"
    (tmp_path / "empty").mkdir()
    assert run("triton", exported, tmp_path / "empty", "--force", "--quiet") == 0


@pytest.mark.parametrize("place", ["toy.taemi", "toy.taemi/models", "."])
def test_bundle_and_repository_never_lie_in_one_another(
    bundle: Path, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    before = sorted(bundle.rglob("*"))
    assert run("triton", bundle, tmp_path / place, "--force") == 2
    assert "in one another" in one_error(capfd)
    assert sorted(bundle.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--name", "a/b"], 2, "letters, digits"),
        (["--engine", "front.onnx"], 2, "no engine file of graph 'tagger'"),
        (["--engine", "absent.plan"], 2, "no engine file of graph 'tagger'"),
        (["--max-batch", "65"], 2, "at most 64"),
        (["--device", "tpu"], 2, "cuda:N"),
        (["--instances", "0"], 2, "--instances 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    exported: Path,
    tmp_path: Path,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert run("triton", exported, tmp_path / "m", *arguments) == code
    assert words in one_error(capfd)
    assert not any(tmp_path.iterdir())


def test_no_bundle_is_one_sentence(tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("triton", tmp_path / "absent", tmp_path / "m") == 1
    assert "there is no such folder" in one_error(capfd)


def test_a_changed_graph_is_refused_and_the_previous_repository_stays(
    bundle: Path, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert run("triton", bundle, out, "--quiet") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    content = bytearray((bundle / "tagger.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "tagger.onnx").write_bytes(bytes(content))
    assert run("triton", bundle, out, "--force") == 1
    assert "its SHA-256 is" in one_error(capfd)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "toy.taemi"]


def test_a_full_disk_leaves_the_previous_repository(
    exported: Path,
    tmp_path: Path,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "models"
    assert run("triton", exported, out, "--quiet") == 0

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert run("triton", exported, out, "--force", "--name", "new") == 1
    assert "Free some space" in one_error(capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert (out / "toy/1/model.onnx").is_file()


def test_links_share_the_bundles_bytes(bundle: Path, tmp_path: Path, run: Run) -> None:
    assert run("triton", bundle, tmp_path / "linked", "--link", "--quiet") == 0
    assert (tmp_path / "linked/toy/1/model.onnx").samefile(bundle / "tagger.onnx")
    assert run("triton", bundle, tmp_path / "copied", "--quiet") == 0
    assert not (tmp_path / "copied/toy/1/model.onnx").samefile(bundle / "tagger.onnx")
