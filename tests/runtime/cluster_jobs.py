"""What the tests send to the processes of a cluster: readers and workers that say where they ran."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class SlowReader:
    """Says which process read; one input kills it."""

    killer: int = -1

    def read(self, source):
        time.sleep(0.02)
        if source.index == self.killer:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), bytes(1_000_000)


@dataclass(frozen=True)
class SlowWorker:
    killer: int = -1

    def work(self, items):
        if any(source.index == self.killer for source, _ in items):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 * len(items))
        return [(source.index, content[0], os.getpid()) for source, content in items]


@dataclass(frozen=True)
class SlowRecipe:
    killer: int = -1

    def open(self):
        return SlowWorker(self.killer)
