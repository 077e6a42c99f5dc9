"""The two kinds of stages: one that reads inputs, and one that holds a model and works on what was read.

Neither knows what is read or computed, nor Ray: both take and give [Parcel][]s. An input that fails, or
that kills the process that works on it, becomes its own [ClipFailure][] and never ends the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from taemi_runtime.cluster.attempts import MOST_DEATHS, Ledger
from taemi_runtime.errors import EngineError, TaemiError
from taemi_runtime.results import ClipFailure

_READING, _WORKING, _OPENING = "read", "work", "open"
_FIX = "Try it alone on a machine with more memory, without --ray"


@dataclass(frozen=True)
class Source:
    """An input.

    Args:
        index: Its position among all inputs, from 0.
        name: Its path as named.
    """

    index: int
    name: str


@dataclass(frozen=True)
class Note:
    """A line of a worker's log.

    Args:
        level: As in ``logging``.
        text: What it says.
    """

    level: int
    text: str


@dataclass(frozen=True)
class Parcel:
    """What goes from stage to stage.

    Args:
        source: The input; ``None`` with a refusal.
        content: What was read, or when ``done`` the outcome: a result or a failure.
        done: Whether nothing is left to do.
        notes: What the stages have to say.
    """

    source: Source | None
    content: object
    done: bool = False
    notes: tuple[Note, ...] = ()


class Reader(Protocol):
    """Reads inputs; it is sent to other processes."""

    def read(self, source: Source) -> object:
        """Return what a worker takes, which is sent to another process; a [Finished][] ends the way here."""


class Worker(Protocol):
    """Computes with a model that it holds."""

    def work(self, items: Sequence[tuple[Source, object]]) -> list[object]:
        """Return the outcome of each item, which is sent to the driver.

        Raises:
            Exception: One item alone cannot be worked on. Of several each is then tried alone.
        """


class Recipe(Protocol):
    """Opens a worker; it is sent to other processes."""

    def open(self) -> Worker:
        """Open it in this process.

        Raises:
            TaemiError: It cannot be opened here.
        """


@dataclass(frozen=True)
class Finished:
    """What a reader gives for an input that needs no work.

    Args:
        outcome: Its outcome.
    """

    outcome: object


@dataclass(frozen=True)
class Place:
    """Where stages work.

    Args:
        folder: The folder that relative paths start from; it is entered where it is there.
        debug: Whether the log goes into detail.
        models: How many processes hold a model.
    """

    folder: str
    debug: bool = False
    models: int = 1

    def enter(self) -> None:
        """Make relative paths mean what they mean to the driver."""
        with contextlib.suppress(OSError):
            os.chdir(self.folder)


class ReadStage:
    """Reads inputs one by one.

    Args:
        reader: What reads them.
        ledger: Where attempts are counted.
        place: Where it works.
    """

    def __init__(self, reader: Reader, ledger: Ledger, place: Place) -> None:
        self._reader = reader
        self._ledger = ledger
        self._place = place

    def __call__(self, sources: Sequence[Source]) -> Iterator[Parcel]:
        """Read inputs, each when the one before was taken."""
        self._place.enter()
        with _listening(debug=self._place.debug) as log:
            for source in sources:
                yield self._read(source, log)

    def _read(self, source: Source, log: _NoteHandler) -> Parcel:
        (deaths,) = self._ledger.begin(_READING, [source.index])
        found: object
        if deaths >= MOST_DEATHS:
            found = Finished(_killer(source, "reads", deaths))
        else:
            try:
                found = self._reader.read(source)
            except Exception as error:  # one input, whatever is wrong with it, must not stop the others
                found = Finished(_failure(source, error))
        self._ledger.end(_READING, [source.index])
        if isinstance(found, Finished):
            return Parcel(source, found.outcome, done=True, notes=log.take())
        return Parcel(source, found, notes=log.take())


class WorkStage:
    """Holds a model, opened when the first parcel comes, and works on batches.

    Args:
        recipe: What opens the model.
        ledger: Where attempts are counted.
        place: Where it works.
        node: The machine, for messages.
    """

    def __init__(self, recipe: Recipe, ledger: Ledger, place: Place, node: str) -> None:
        self._recipe = recipe
        self._ledger = ledger
        self._place = place
        self._node = node
        self._worker: Worker | None = None
        self._refusal: TaemiError | None = None

    def __call__(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Work on a batch; where the model cannot be opened, the only parcel holds the error."""
        found = [parcel for parcel in parcels if parcel.done]
        batch = [parcel for parcel in parcels if not parcel.done]
        if not batch:
            return found
        self._place.enter()
        with _listening(debug=self._place.debug) as log:
            try:
                worker = self._open()
            except TaemiError as error:
                return [*found, Parcel(None, error, done=True, notes=log.take())]
            items = [(parcel.source, parcel.content) for parcel in batch if parcel.source is not None]
            outcomes = self._work(worker, items)
            notes = log.take()
        for parcel, outcome in zip(batch, outcomes, strict=True):
            found.append(Parcel(parcel.source, outcome, done=True, notes=parcel.notes + notes))
            notes = ()
        return found

    def _open(self) -> Worker:
        if self._refusal is not None:
            raise self._refusal
        if self._worker is not None:
            return self._worker
        # As many as there are models may be opening one at this moment; more than that are dead.
        dead = self._ledger.enter(_OPENING, self._node) - self._place.models
        try:
            if dead >= MOST_DEATHS:
                raise EngineError(
                    "cannot open the engine",
                    f"{dead} processes died over it",
                    "Try it there: taemi-infer CLIP --engine PATH",
                )
            self._worker = self._recipe.open()
        except TaemiError as error:
            # The machine is what tells this one from the same error here.
            self._refusal = type(error)(f"{error.asked} on node {self._node}", error.found, error.fix)
            self._ledger.leave(_OPENING, self._node)
            raise self._refusal from error
        self._ledger.leave(_OPENING, self._node)
        return self._worker

    def _work(self, worker: Worker, items: Sequence[tuple[Source, object]]) -> list[object]:
        keys = [source.index for source, _ in items]
        together = not any(self._ledger.begin(_WORKING, keys)) and len(items) > 1
        outcomes: list[object] | None = None
        if together:
            with contextlib.suppress(Exception):  # then each is tried alone, which tells whose error it is
                outcomes = worker.work(items)
        self._ledger.end(_WORKING, keys)
        return outcomes if outcomes is not None else [self._work_alone(worker, item) for item in items]

    def _work_alone(self, worker: Worker, item: tuple[Source, object]) -> object:
        source, _ = item
        (deaths,) = self._ledger.begin(_WORKING, [source.index])
        outcome: object
        if deaths >= MOST_DEATHS:
            outcome = _killer(source, "works on", deaths)
        else:
            try:
                (outcome,) = worker.work([item])
            except Exception as error:  # one input, whatever is wrong with it, must not stop the others
                outcome = _failure(source, error)
        self._ledger.end(_WORKING, [source.index])
        return outcome


def _killer(source: Source, does: str, deaths: int) -> ClipFailure:
    error = EngineError(
        f"cannot finish {source.name}", f"the process that {does} it died {deaths} times", _FIX
    )
    return ClipFailure(source.name, str(error))


def _failure(source: Source, error: Exception) -> ClipFailure:
    logging.getLogger(__name__).debug("%s", source.name, exc_info=True)
    return ClipFailure.from_error(source.name, error)


class _NoteHandler(logging.Handler):
    """Keeps a worker's log, which the driver tells."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[Note] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(Note(record.levelno, self.format(record)))

    def take(self) -> tuple[Note, ...]:
        """Return what was said since this was asked last."""
        notes, self._notes = tuple(self._notes), []
        return notes


@contextlib.contextmanager
def _listening(*, debug: bool) -> Iterator[_NoteHandler]:
    log = logging.getLogger("taemi_runtime")
    handler = _NoteHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
