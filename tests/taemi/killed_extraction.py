"""Extracts again and again in processes that are killed at random moments; run by test_extract_kill.

Modules are imported once and then shared by forks, each of which does no more of PyTorch than it would by
itself: nothing of it has run before the fork.

    python -m tests.taemi.killed_extraction CORPUS STORES KILLS SEED
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.taemi.extractions import make_system, run_extract


def extract_in_fork(corpus: Path, store: Path) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            done = run_extract(corpus, store, make_system(), workers=2, batch=8, audio=True, text=True)
            code = 3 if done.failures else 0
        finally:
            os._exit(code)
    return pid


def main(corpus: Path, stores: Path, kills: int, seed: int) -> None:
    """Fill the store ``whole`` undisturbed, and others that are killed until they are whole."""
    moments = random.Random(seed)
    start = time.monotonic()
    os.waitpid(extract_in_fork(corpus, stores / "whole"), 0)
    seconds = time.monotonic() - start
    clips = len(list((stores / "whole").glob("*.safetensors")))
    number = 0
    for kill in range(kills):
        store = stores / f"killed{number}"
        pid = extract_in_fork(corpus, store)
        # Most of it is starting: all the rest is worth being hit.
        time.sleep(moments.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        there = len(list(store.glob("[0-9]*.safetensors")))
        print(number, there, flush=True)
        if there == clips or kill == kills - 1:
            _, status = os.waitpid(extract_in_fork(corpus, store), 0)
            assert status == 0
            number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
