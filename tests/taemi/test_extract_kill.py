"""kill -9 at random moments of an extraction: the store ends as if nothing had happened."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from tests.taemi.extractions import contents, write_small_corpus


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
