"""Extraction on one machine: processes read clips, this one encodes them and writes their files."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from taemi.corpus import ClipRow
from taemi.extract.decoding import CorpusDecoder, ReadClip
from taemi.extract.encoders import FeatureEncoders
from taemi.extract.making import ClipMaker, Made
from taemi.extract.planning import make_plan
from taemi.extract.transcripts import Transcriber
from taemi.store.layout import MadeWith
from taemi.store.writer import StoreWriter
from taemi_runtime.interrupts import next_of
from taemi_runtime.pool import DecodePool, Read, Task
from taemi_runtime.results import ClipFailure
from taemi_runtime.scale import choose_scale

_log = logging.getLogger(__name__)

# A worker that dies may have died of something else than its clip: memory that another program took.
_RETRIES = 1
# Clips that are read and wait; what is encoded of one is copied out of its slot at once.
_AHEAD = 4

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip.

    Args:
        row: The clip.
        error: Why it is not in the store; empty where it is.
        remarks: Parts of it that could not be read.
    """

    row: ClipRow
    error: str = ""
    remarks: tuple[str, ...] = ()


Work = Callable[[], Iterator[Outcome]]
"""Extracts clips, and yields each one's outcome once, in whatever order."""


class Engine(Protocol):
    """What extracts clips."""

    def ready(self, rows: Sequence[ClipRow], store: StoreWriter) -> AbstractContextManager[Work]:
        """Open what is needed, or refuse the work before any of it is begun.

        Args:
            rows: The clips to extract.
            store: Where to.
        """


@dataclass(frozen=True)
class Extracted:
    """What an extraction did.

    Args:
        clips: How many clips the corpus has.
        before: How many of them the store had already.
        failures: Why a clip is not in the store, by name.
        seconds: How long extracting the others took.
    """

    clips: int
    before: int
    failures: dict[str, str]
    seconds: float

    @property
    def done(self) -> int:
        """How many clips were extracted."""
        return self.clips - self.before - len(self.failures)


@dataclass
class LocalEngine:
    """Extracts on this machine.

    Args:
        encoders: The encoders.
        transcriber: What finds transcripts.
        decoder: What reads clips.
        workers: Processes that read; 0 reads in this one, ``None`` leaves it to the machine.
    """

    encoders: FeatureEncoders
    transcriber: Transcriber
    decoder: CorpusDecoder
    workers: int | None = 0

    @contextlib.contextmanager
    def ready(self, rows: Sequence[ClipRow], store: StoreWriter) -> Iterator[Work]:
        """Load the recogniser where clips need it, find the detector, and put encoders on their device.

        Raises:
            TaemiError: One of them cannot be opened.
        """
        self.transcriber.prepare(rows)
        _ = self.decoder.detector
        self.encoders.open()
        yield partial(self._run, rows, store)

    def _run(self, rows: Sequence[ClipRow], store: StoreWriter) -> Iterator[Outcome]:
        """Extract clips.

        Raises:
            TaemiError: Workers cannot be started, or features are of another width than the encoder's.
            WriteError: The disk is full, or the place cannot be written to.
        """
        maker = ClipMaker(self.encoders, self.transcriber)
        scale = choose_scale(
            len(rows), workers=self.workers, batch=None, threads=0, on_cpu=self.encoders.device.type == "cpu"
        )
        reads = self._read_in_processes(rows, scale.workers) if scale.workers else self._read_here(rows)
        with contextlib.closing(reads):
            for row, found in reads:
                if isinstance(found, str):
                    yield Outcome(row, found)
                    continue
                yield from self._write(maker.take(row, found), store)
        yield from self._write(maker.rest(), store)

    @staticmethod
    def _write(clips: Iterable[Made], store: StoreWriter) -> Iterator[Outcome]:
        for made in clips:
            if not made.error:
                store.add(made.row.name, made.arrays, made.facts)
            yield Outcome(made.row, made.error, made.facts.remarks)

    def _read_here(self, rows: Sequence[ClipRow]) -> Generator[tuple[ClipRow, ReadClip | str]]:
        for row in rows:
            try:
                clip, _ = self.decoder.decode(row)
            except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
                _log.debug("%s", row.name, exc_info=True)
                yield row, ClipFailure.from_error(row.name, error).error
            else:
                yield row, clip

    def _read_in_processes(
        self, rows: Sequence[ClipRow], workers: int
    ) -> Generator[tuple[ClipRow, ReadClip | str]]:
        finished: queue.SimpleQueue[Read | Exception | None] = queue.SimpleQueue()
        tasks = (Task(index, row.media, what=row) for index, row in enumerate(rows))
        with DecodePool(self.decoder, tasks, finished.put, workers=workers, ahead=_AHEAD, retries=_RETRIES):
            while (read := next_of(finished)) is not None:
                if isinstance(read, Exception):
                    raise read
                row = rows[read.task.index]
                if read.clip is None:
                    yield row, read.error
                    continue
                yield row, read.clip
                read.release()


def extract(
    folder: Path,
    splits: Mapping[str, Sequence[ClipRow]],
    made_with: MadeWith,
    transcriber: Transcriber,
    engine: Engine,
    *,
    corpus: str = "",
    synthetic: bool = False,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> Extracted:
    """Bring a store up to date with splits of a corpus.

    What the store has of unchanged files stays; a clip that failed before is tried again.

    Args:
        folder: The store; created where there is none.
        splits: The rows of each split; the split without a name is not listed in the store.
        made_with: What features are made with.
        transcriber: What finds transcripts.
        engine: What extracts clips.
        corpus: The name of the corpus.
        synthetic: Whether it is synthetic.
        progress: Called with (done, total) of the clips that are to be extracted.
        warn: Called with a sentence for each part of a clip that could not be read though the rest was.

    Raises:
        DataError: The store was made with something else.
        TaemiError: The engine or the recogniser cannot do its work.
        WriteError: The disk is full, or the place cannot be written to. What is in the store stays.
    """
    with StoreWriter(folder, made_with) as store:
        plan = make_plan(splits, store.index.clips, transcriber)
        named = {name: rows for name, rows in splits.items() if name}
        failures: dict[str, str] = {}
        with engine.ready(plan.pending, store) if plan.pending else nullcontext(_nothing) as work:
            store.begin(named, plan.stale, corpus=corpus, synthetic=synthetic)
            start = time.perf_counter()
            for done, outcome in enumerate(work(), 1):
                if outcome.error:
                    failures[outcome.row.name] = outcome.error
                elif warn is not None:
                    for remark in outcome.remarks:
                        warn(f"clip {outcome.row.name}: {remark}")
                if progress is not None:
                    progress(done, len(plan.pending))
            seconds = time.perf_counter() - start
        store.finish(failures, plan.refreshed)
    return Extracted(len(plan.rows), len(plan.rows) - len(plan.pending), failures, seconds)


def _nothing() -> Iterator[Outcome]:
    return iter(())
