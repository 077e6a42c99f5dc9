"""Options that mean nothing to a kind of run are refused, never ignored."""

from __future__ import annotations

import sys

import pytest

from taemi_runtime import cli


@pytest.fixture
def refused(monkeypatch, capsys, bundle, clips):
    """Run the console script on a clip and return what it says where it refuses."""

    def run(*options):
        arguments = ["taemi-infer", clips.both, "--engine", bundle.folder, *options]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert caught.value.code == 2, captured.err
        assert captured.out == ""
        return captured.err

    return run


@pytest.mark.parametrize(
    "option",
    [
        ("--workers", "2"),
        ("--batch", "4"),
        ("--ordered",),
        ("--resume",),
        ("--ray=auto",),
        ("--save-features", "store"),
        ("--attention", "--format", "json"),
    ],
    ids=lambda option: option[0],
)
def test_windows_over_time_take_no_option_of_many_clips(refused, tmp_path, option):
    name = option[0].partition("=")[0]
    said = refused("--hop", "2", *option)
    assert f"error: cannot score windows over time with {name}: clips are taken one after" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "option",
    [("--save-features", "store"), ("--attention", "--format", "json")],
    ids=lambda option: option[0],
)
def test_a_cluster_gives_scores_only(refused, option):
    assert f"error: cannot score clips on a cluster with {option[0]}: " in refused("--ray", *option)


def test_several_are_named_together(refused):
    assert "over time with --workers, --ordered: " in refused("--hop", "2", "--ordered", "--workers", "0")
