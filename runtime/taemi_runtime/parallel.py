"""Many clips at full speed: decode workers read ahead, threads score in batches, outcomes come as they are.

requests -> decode workers (processes) -> batches -> scoring lanes (threads) -> outcomes
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.batching import DecodedClip
from taemi_runtime.contract import FUSION
from taemi_runtime.delivery import Scored
from taemi_runtime.interrupts import next_of, start_all
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.pool import DecodePool, Read, Task
from taemi_runtime.results import ClipFailure
from taemi_runtime.scale import Scale
from taemi_runtime.threads import end_threads
from taemi_runtime.transcripts import Transcript

# How long threads are waited for when a run is cut off.
_PATIENCE_S = 0.3


@dataclass(frozen=True)
class Request:
    """A clip to score.

    Args:
        index: Its place among the inputs.
        path: Where it is.
        transcribe: Returns its transcript, as it was given or is read from a file.
    """

    index: int
    path: str | os.PathLike[str]
    transcribe: Callable[[Path], Transcript]


def score_parallel(
    scorer: ClipScorer,
    requests: Iterable[Request],
    scale: Scale,
    *,
    text: bool = True,
    digests: bool = False,
) -> Generator[Scored]:
    """Score clips with decode workers.

    Args:
        scorer: The scorer; its engines take ``scale.lanes`` calls at a time.
        requests: The clips; they are taken from a thread, as workers become free.
        scale: How much is done at a time; at least one worker.
        text: Whether the text encoder is needed; engines are opened while workers start.
        digests: Whether the SHA-256 of each clip is wanted.

    Yields:
        Every outcome as soon as it is there, in whatever order.

    Raises:
        TaemiError: Workers cannot be started, or the fusion engine cannot be opened.
    """
    run = _Run(scorer, requests, scale, text, digests)
    try:
        yield from run.outcomes()
    finally:
        run.close()


class _Run:
    """The threads of one run, and the queues between them."""

    def __init__(
        self, scorer: ClipScorer, requests: Iterable[Request], scale: Scale, text: bool, digests: bool
    ) -> None:
        self._scorer = scorer
        self._scale = scale
        self._text = text
        self._ready: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Scored | Exception | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lanes = [
            threading.Thread(target=self._score, args=(number,), name=f"taemi-score-{number}", daemon=True)
            for number in range(scale.lanes)
        ]
        self._pool = DecodePool(
            scorer.decoder,
            self._tasks(requests),
            self._take,
            workers=scale.workers,
            ahead=scale.lanes * scale.batch,
            digests=digests,
        )
        # Who leaves without reading on must not take engines away under a lane.
        atexit.register(self.close)
        start_all(self._lanes)

    def outcomes(self) -> Iterator[Scored]:
        running = len(self._lanes)
        while running:
            found = next_of(self._finished)
            if isinstance(found, Exception):
                raise found
            if found is None:
                running -= 1
            else:
                yield found

    def close(self) -> None:
        """End everything, whatever it is doing; closing twice does nothing."""
        atexit.unregister(self.close)
        self._stopped.set()
        self._pool.close()
        for _ in self._lanes:
            self._ready.put(None)
        end_threads(self._lanes, self._scorer.model.stop, _PATIENCE_S)

    def _tasks(self, requests: Iterable[Request]) -> Iterator[Task]:
        for request in requests:
            try:
                said = request.transcribe(Path(request.path))
            except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
                failure = ClipFailure.from_error(str(request.path), error)
                self._finished.put(Scored(request.index, failure))
                continue
            yield Task(request.index, Path(request.path), (str(request.path), said))

    def _take(self, read: Read | Exception | None) -> None:
        """Take a result of the pool."""
        if isinstance(read, Exception):
            self._finished.put(read)
        elif read is None:
            for _ in self._lanes:
                self._ready.put(None)
        elif read.clip is None:
            name, said = read.task.context
            self._finished.put(Scored(read.task.index, ClipFailure(name, read.error), read.digest, said))
        else:
            self._ready.put(read)

    def _score(self, number: int) -> None:
        try:
            if number:
                # The first one opens the others, and says once what cannot be.
                self._scorer.model.engine(FUSION)
            else:
                self._scorer.try_prepare(text=self._text)
            while batch := self._next_batch():
                for scored in self._score_batch(batch):
                    self._finished.put(scored)
                if self._stopped.is_set():
                    break
        except Exception as error:  # a fusion engine that cannot be opened is no clip's failure but the run's
            self._finished.put(error)
        finally:
            self._finished.put(None)

    def _next_batch(self) -> list[Read]:
        """Wait for a clip and take a share of those that are there already; none when there are no more."""
        first = self._ready.get()
        batch = [first] if first is not None else []
        # No lane takes what would leave another one idle.
        share = -(-(self._ready.qsize() + 1) // self._scale.lanes)
        while batch and len(batch) < min(share, self._scale.batch):
            try:
                further = self._ready.get_nowait()
            except queue.Empty:
                break
            if further is None:
                # The end is another lane's, too: this lane finds it again.
                self._ready.put(None)
                break
            batch.append(further)
        return batch

    def _score_batch(self, batch: list[Read]) -> Iterator[Scored]:
        clips = []
        for read in batch:
            name, said = read.task.context
            if read.clip is not None:
                clips.append(DecodedClip(read.clip, said, name, read.decode_ms))
        outcomes = self._scorer.score_batch(clips)
        del clips
        for read, outcome in zip(batch, outcomes, strict=True):
            # Nothing of the outcome lies in the clip's memory.
            read.release()
            yield Scored(read.task.index, outcome, read.digest, read.task.context[1])
