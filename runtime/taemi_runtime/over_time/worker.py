"""A session in a thread of its own, so that whoever waits for its results can stop waiting at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

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
        self._results: queue.Queue[WindowResult | BaseException | None] = queue.Queue(_MOST_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="taemi-windows", daemon=True)

    def __iter__(self) -> Iterator[WindowResult]:
        """Yield the session's results.

        Raises:
            BaseException: What the session raised.
        """
        self._thread.start()
        while (found := self._results.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def stop(self, patience_s: float) -> bool:
        """Stop; return whether all came to rest within so many seconds, which a running call may not."""
        self._stop.set()
        at_rest = self._session.close(patience_s / 2)
        if self._thread.is_alive():
            self._thread.join(patience_s / 2)
        return at_rest and not self._thread.is_alive()

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            for result in self._session:
                if not self._put(result):
                    return
        except BaseException as error:  # it is raised where the results are waited for
            last = error
        self._put(last)

    def _put(self, item: WindowResult | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._results.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
