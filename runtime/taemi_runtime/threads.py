"""Ending threads that may be inside a library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

PREFIX = "taemi-"
"""What the names of the toolkit's threads begin with."""

_STEP_S = 0.02


def left_behind() -> list[str]:
    """Return the names of the toolkit's threads that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(PREFIX)]


def end_threads(
    threads: Iterable[threading.Thread], stop: Callable[[Collection[int]], None], patience_s: float
) -> None:
    """Wait until threads that were told to end have ended, stopping the calls that they are in.

    Args:
        threads: The threads.
        stop: Makes the calls of threads fail soon; see ``Engine.stop``. It is asked again and again, as a
            thread may be between looking whether to go on and the call.
        patience_s: How long all of them are waited for, in seconds.
    """
    end = time.monotonic() + patience_s
    busy = list(threads)
    while (busy := [thread for thread in busy if thread.is_alive()]) and time.monotonic() < end:
        stop([thread.ident for thread in busy if thread.ident is not None])
        busy[0].join(_STEP_S)
