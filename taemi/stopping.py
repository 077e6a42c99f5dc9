"""Ending a training between two steps: Ctrl-C, and the signal with which clusters end jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequests:
    """Whether somebody asked for the end.

    Args:
        tell: Called with a sentence when the first signal comes.

    Attributes:
        signal: The signal that asked for it.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.signal: int | None = None
        self._tell = tell

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one is noted, a second one interrupts at once."""
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._tell is not None:
            self._tell("the training stops after this step and keeps its state (again: at once, without)")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM instead of being interrupted by them."""
        if threading.current_thread() is not threading.main_thread():
            # Only the main thread may have handlers; elsewhere nobody sends signals.
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self) -> None:
        """End the program as the signal would have.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After a request to terminate, with 128 and the signal's number.
        """
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
