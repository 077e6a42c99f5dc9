"""A few threads that do pieces of work for one that only waits, and that Ctrl-C may interrupt at any time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Self, TypeVar

from taemi_runtime.closing import Closing
from taemi_runtime.interrupts import next_of, start_all

S = TypeVar("S")
T = TypeVar("T")

# How often a thread without work looks whether there is still a program.
_LOOK_S = 0.5


class Crew(Closing, Generic[T]):
    """Does pieces of work in threads, each as soon as a thread is free, within a ``with`` block.

    ``concurrent.futures`` is not used: a run that Ctrl-C interrupts within it may hang; see
    [taemi_runtime.interrupts][].

    Args:
        count: How many threads.
        name: What they are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self.pending = 0
        """How many pieces were given and their results not yet taken."""
        self._work: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}") for number in range(count)
        ]

    def give(self, work: Callable[[], T]) -> None:
        """Have a piece of work done."""
        self.pending += 1
        self._work.put(work)

    def take(self) -> T:
        """Wait for the next piece that is done, in whatever order.

        Returns:
            What it returned.

        Raises:
            BaseException: What it raised.
        """
        result, error = next_of(self._results)
        self.pending -= 1
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only where T allows it

    def close(self) -> None:
        """Do nothing more, and wait until what is being done has ended; closing twice does nothing."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __enter__(self) -> Self:
        try:
            start_all(self._threads)
        except BaseException:  # Ctrl-C was held back until they ran
            self.close()
            raise
        return self

    def _run(self) -> None:
        while (work := self._next()) is not None and not self._closed:
            try:
                done: tuple[T | None, BaseException | None] = (work(), None)
            except BaseException as error:  # told by whoever takes the result
                done = (None, error)
            self._results.put(done)

    def _next(self) -> Callable[[], T] | None:
        # Ctrl-C may come after the block and before closing begins: the end of the program is an end, too.
        while threading.main_thread().is_alive():
            with contextlib.suppress(queue.Empty):
                return self._work.get(timeout=_LOOK_S)
        return None


def map_all(work: Callable[[S], T], items: Iterable[S], count: int, name: str) -> list[T]:
    """Apply a function to every item in threads.

    Args:
        work: The function.
        items: Its arguments.
        count: How many threads.
        name: What they are called.

    Returns:
        What it returned for each, in the items' order.

    Raises:
        BaseException: What it raised for one of them; the others are no longer begun then.
    """
    given = list(items)
    found: dict[int, T] = {}
    with Crew[tuple[int, T]](min(count, len(given)), name) as crew:
        for place, item in enumerate(given):
            crew.give(lambda place=place, item=item: (place, work(item)))  # type: ignore[misc]
        found.update(crew.take() for _ in given)
    return [found[place] for place in range(len(given))]
