"""A session in a thread of its own, so that whoever waits for its results can stop waiting at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from taemi_runtime.interrupts import next_of, start_all
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.over_time.session import Session

# Results that wait for whoever reads them: a reader that stands still must not make them pile up.
_MOST_WAITING = 8
_POLL_S = 0.1


class Worker:
    """Runs a session; iterate over it once.

    Args:
        session: What to run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._results: queue.SimpleQueue[WindowResult | Exception | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_MOST_WAITING):
            self._room.put(None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="taemi-windows", daemon=True)

    def __iter__(self) -> Iterator[WindowResult | Exception]:
        """Yield the session's results, and last of all the error that ended it, if one did."""
        start_all([self._thread])
        while (found := next_of(self._results)) is not None:
            self._room.put(None)
            yield found

    def stop(self, patience_s: float | None = None) -> bool:
        """Stop; return whether everything came to rest.

        Args:
            patience_s: How long to wait for that; ``None`` waits for as long as a call of an engine takes.
        """
        self._stop.set()
        at_rest = self._session.close(0.0)
        if self._thread.is_alive():
            self._thread.join(patience_s)
        return not self._thread.is_alive() and (at_rest or self._session.close(_POLL_S))

    def _work(self) -> None:
        try:
            for result in self._session:
                if not self._put(result):
                    return
        except Exception as error:  # whoever waits for results is told
            self._put(error)
        finally:
            self._put(None)

    def _put(self, item: WindowResult | Exception | None) -> bool:
        while not self._stop.is_set():
            try:
                self._room.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            self._results.put(item)
            return True
        return False
