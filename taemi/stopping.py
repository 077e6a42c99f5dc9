"""Ending a training between two steps: Ctrl-C, and the signal with which clusters end jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequests:
    """Whether somebody asked for the end."""

    def __init__(self, heard: Callable[[str], None] | None = None) -> None:
        self.signal: int | None = None
        self._heard = heard

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one is noted, a second one interrupts at once."""
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._heard is not None:
            self._heard("the training stops after this step and keeps its state (again: at once, without)")

    def leave(self) -> None:
        """End the program as the signal would have.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After a request to terminate, with 128 and the signal's number.
        """
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextmanager
def stop_requests(heard: Callable[[str], None] | None = None) -> Iterator[StopRequests]:
    """Note SIGINT and SIGTERM instead of being interrupted by them.

    Args:
        heard: Called with a sentence when the first one comes.
    """
    requests = StopRequests(heard)
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may have handlers; elsewhere nobody sends signals.
        yield requests
        return
    before = {number: signal.signal(number, requests) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
