"""kill -9 at random moments of an extraction: the store ends as if nothing had happened."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.taemi.extractions import contents, write_small_corpus

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_store_ends_as_an_undisturbed_one_whenever_it_is_killed(tmp_path, kills):
    corpus = write_small_corpus(tmp_path / "data")
    stores = tmp_path / "stores"
    command = [sys.executable, "-m", "tests.taemi.killed_extraction"]
    done = subprocess.run(
        [*command, *map(str, (corpus, stores, kills, kills))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(said) == kills
    # Clips that are there stay, so that every process has less to do.
    for (store, before), (same, after) in itertools.pairwise(said):
        assert store != same or after >= before
    whole = contents(stores / "whole")
    assert len(whole) == 12
    for store in {f"killed{number}" for number, _ in said}:
        assert contents(stores / store) == whole


@pytest.mark.slow
def test_an_interrupted_extraction_ends_at_once_and_leaves_whole_files(tmp_path):
    corpus = write_small_corpus(tmp_path / "data")
    store = tmp_path / "store"
    options = ("--encoders", "tiny", "--vision-from", "raw", "--workers", "2")
    command = [sys.executable, "-m", "taemi.cli", "extract", str(corpus), str(store), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The index is written when work begins.
    while not (store / "index.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert "interrupted: finished files are kept" in stderr
    assert [path.name for path in store.iterdir() if path.name.startswith(".")] == []
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(contents(store)) == 12
