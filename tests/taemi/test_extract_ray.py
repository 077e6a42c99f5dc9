"""Extraction on a real cluster of this machine: processes are killed, and the store is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from taemi.corpus import Layout
from taemi.store.index import read_index
from tests.runtime.cluster_processes import finish, processes_of
from tests.taemi.extractions import contents, make_system, run_extract, write_small_corpus

pytest.importorskip("ray")

OPTIONS = ("--encoders", "tiny", "--vision-from", "raw", "--max-fps", "5", "--seed", "1")
KEPT = ("--audio-features", "--text-features")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("ray") / "data")


def start(corpus, store, *options):
    command = [sys.executable, "-m", "taemi.cli", "extract", corpus.name, str(store), *OPTIONS, *options]
    return subprocess.Popen(
        [*command, "--ray"],
        cwd=corpus.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def clips(store):
    return sum(1 for _ in store.glob("[0-9]*.safetensors"))


def test_a_store_made_on_a_cluster_is_the_plain_one_though_processes_and_the_command_are_killed(
    corpus, tmp_path
):
    plain = tmp_path / "plain"
    run_extract(corpus, plain, make_system(), layout=Layout(vision="raw"), audio=True, text=True)
    store = tmp_path / "store"
    process = start(corpus, store, *KEPT)
    wait_for(process, store, 1)
    # All that hold encoders or read: what they had begun is done again.
    for pid, name in processes_of(process.pid).items():
        if name.startswith("ray::"):
            os.kill(pid, signal.SIGKILL)
    wait_for(process, store, 5)
    process.kill()
    process.communicate()
    before = clips(store)
    stderr = finish(start(corpus, store, *KEPT), 0)
    if before < 11:
        assert "11 clips, " in stderr
    assert contents(store) == contents(plain)


@pytest.mark.slow
def test_failures_are_counted_and_a_recogniser_is_asked_for_on_the_cluster(corpus, tmp_path):
    root = write_small_corpus(tmp_path / "data")
    (root / "text" / "00004.txt").unlink()
    for folder, suffix in (("raw", "mp4"), ("audio", "mp3")):
        (root / folder / f"00002.{suffix}").write_bytes(b"no media")
    stderr = finish(start(root, tmp_path / "store", "--asr", "auto"), 1)
    assert "cannot transcribe 1 of 11 clips" in stderr
    stderr = finish(start(root, tmp_path / "store", "--asr", "none"), 1)
    assert "1 failed (00002): " in stderr
    assert set(read_index(tmp_path / "store").failures) == {"00002"}
    assert clips(tmp_path / "store") == 10


def wait_for(process, store, count):
    while process.poll() is None and clips(store) < count:
        time.sleep(0.01)
