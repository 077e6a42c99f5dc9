"""A build that shows how far it is and can be stopped.

The library calls the monitor from its own threads and holds the calling thread for as long as the build
takes, minutes at full size. The build therefore runs in a thread of its own while the main thread waits:
Ctrl-C reaches Python at once, the next step of the build is told to stop, and nothing was written yet.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from taemi_export.plans.library import Library
from taemi_runtime.console import Tick
from taemi_runtime.interrupts import next_of, start_all

if TYPE_CHECKING:
    import tensorrt

T = TypeVar("T")


class Cancel:
    """A request to stop, seen by every thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ask(self) -> None:
        """Ask for the build to stop at its next step."""
        self._event.set()

    @property
    def asked(self) -> bool:
        """Whether it was asked for."""
        return self._event.is_set()


class Phases:
    """Turns nested phases with steps into one bar for each phase that is worth showing.

    Args:
        label: What is built.
        tick: Draws (step, done, total).
    """

    def __init__(self, label: str, tick: Tick) -> None:
        self._label = label
        self._tick = tick
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}

    def start(self, phase: str, total: int) -> None:
        """Begin a phase."""
        with self._lock:
            self._totals[phase] = max(1, total)
            self._tick(self._name(phase), 0, self._totals[phase])

    def step(self, phase: str, index: int) -> None:
        """Complete step ``index``, counted from 0."""
        with self._lock:
            total = self._totals.get(phase, index + 1)
            self._tick(self._name(phase), min(index + 1, total), total)

    def finish(self, phase: str) -> None:
        """End a phase, whether or not all its steps were reported."""
        with self._lock:
            total = self._totals.pop(phase, 1)
            self._tick(self._name(phase), total, total)

    def _name(self, phase: str) -> str:
        return f"{self._label}: {phase}"


def make_monitor(library: Library, phases: Phases, cancel: Cancel) -> tensorrt.IProgressMonitor:
    """Return an ``IProgressMonitor`` that feeds ``phases`` and obeys ``cancel``."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guard(lambda: phases.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard(lambda: phases.step(phase_name, step))
            return not cancel.asked

        def phase_finish(self, phase_name: str) -> None:
            self._guard(lambda: phases.finish(phase_name))

        def _guard(self, call: Callable[[], None]) -> None:
            # An exception must never travel through the library's frames: it would abort the process.
            try:
                call()
            except BaseException:
                cancel.ask()

    return Monitor()


def run_cancellable(work: Callable[[], T], cancel: Cancel) -> T:
    """Run ``work`` in a thread and wait for it; Ctrl-C asks it to stop and waits for that.

    A second Ctrl-C no longer waits.

    Args:
        work: What blocks; it looks at ``cancel``.
        cancel: Is asked on Ctrl-C.

    Returns:
        What ``work`` returned.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; whatever ``work`` returned or raised is dropped.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((work(), None))
        except BaseException as error:  # raised where it is waited for
            ended.put((None, error))

    start_all([threading.Thread(target=run, name="taemi-build", daemon=True)])
    try:
        result, error = next_of(ended)
    except KeyboardInterrupt:
        cancel.ask()
        next_of(ended)
        raise
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T allows it
