"""How long what a thread does takes: on the device where its engines can tell, else by the clock.

Work on a device is queued and waited for: the clock around it also counts the wait for other threads' work,
for the interpreter, and the copies into pinned memory. Engines that record events on their stream say how
long their own work took there; what a block reports is the sum of it over the block's calls.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

_mine = threading.local()


@dataclass(frozen=True)
class SplitMs:
    """Where one call on a device spent its time, in milliseconds; by the device's events but the first.

    Args:
        enqueue: Time of the host until everything was queued; ``None`` where the library waits within each
            part. Queueing is then part of ``compute``, and all parts are by the host's clock.
        host_to_device: Copies to the device.
        compute: The graph itself.
        device_to_host: Copies back.
    """

    enqueue: float | None
    host_to_device: float
    compute: float
    device_to_host: float


class Stopwatch:
    """What was measured in a block; there when it has ended."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._device_ms: float | None = None
        self.wall_ms = 0.0

    @property
    def ms(self) -> float:
        """Milliseconds on the device where a call of the block was timed there, else by the clock."""
        return self.wall_ms if self._device_ms is None else self._device_ms

    def add_device(self, ms: float) -> None:
        """Count a call that took so long on the device."""
        self._device_ms = (self._device_ms or 0.0) + ms

    def stop(self) -> None:
        """Note the end of the block."""
        self.wall_ms = (time.perf_counter() - self._start) * 1e3


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time what this thread does within the block; blocks may lie in one another."""
    before = getattr(_mine, "running", None)
    _mine.running = found = Stopwatch()
    try:
        yield found
    finally:
        found.stop()
        _mine.running = before


def count_device_ms(ms: float) -> None:
    """Count a call of this thread that took so long on its device, where somebody times it."""
    running: Stopwatch | None = getattr(_mine, "running", None)
    if running is not None:
        running.add_device(ms)
