"""Decoders that kill the process that they read in; light, as every such process imports this."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from taemi.extract.decoding import CorpusDecoder


@dataclass
class KillingDecoder(CorpusDecoder):
    """Kills its process over one clip, every time."""

    def decode(self, row, /):
        if row.name == "00002":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(row)


@dataclass
class OnceKillingDecoder(CorpusDecoder):
    """Kills its process over each of two clips once: a file beside their media says that it did."""

    def decode(self, row, /):
        mark = row.media.with_suffix(".killed")
        if row.name in ("00002", "00007") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(row)
