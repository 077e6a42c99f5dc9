"""Decode workers: processes that read clips ahead of the one that scores them.

FFmpeg takes whatever file it is given. A worker that dies of one (a defect, the kernel's memory killer) or
hangs gives that clip its failure and is replaced; all others go on.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taemi_runtime.closing import Closing
from taemi_runtime.decoding import Decoder
from taemi_runtime.errors import EngineError, TaemiError
from taemi_runtime.interrupts import start_all
from taemi_runtime.messages import Closed, Layout, Packed, open_memory, unpack
from taemi_runtime.opening import refusal
from taemi_runtime.worker import Worker

_log = logging.getLogger(__name__)

# How much longer than the limit for reading a clip nothing is heard of a worker until it counts as stuck: it
# looks at its limit itself, but only between two packets. A digest takes time of its own.
_GRACE_S = 10.0
_DIGEST_BYTES_PER_S = 20e6
# How long the threads that talk to workers are waited for when these are ended.
_PATIENCE_S = 0.3
# A worker that cannot start is tried so often.
_STARTS = 2


@dataclass(frozen=True)
class Task:
    """A clip to read.

    Args:
        index: Its place among the inputs.
        path: Where it is.
        context: What comes back with the result.
        what: What the decoder is given; ``path`` when ``None``.
    """

    index: int
    path: Path
    context: Any = None
    what: Any = None


@dataclass
class Read:
    """What became of a task.

    Args:
        task: The task.
        clip: What the decoder gave, whose arrays hold until ``release``; ``None`` where reading failed.
        decode_ms: How long reading took, in milliseconds.
        digest: The SHA-256 of the clip's bytes, where digests were asked for.
        error: Why there is no clip, as results say it.
        release: Gives the clip's memory back.
    """

    task: Task
    clip: Any = None
    decode_ms: float = 0.0
    digest: str = ""
    error: str = ""
    release: Callable[[], None] = lambda: None


class DecodePool(Closing):
    """Reads clips in other processes.

    Args:
        decoder: What reads them.
        tasks: The clips; each is taken when a worker is free and there is room for it.
        deliver: Is given every result, from a thread of the pool, and ``None`` when there are no more. An
            error ends everything: workers cannot be started, or ``tasks`` raised it.
        workers: How many processes.
        ahead: How many clips may be read and not yet released.
        digests: Whether the SHA-256 of each clip is wanted.
        retries: How often a clip whose worker died is read again.
    """

    def __init__(
        self,
        decoder: Decoder,
        tasks: Iterator[Task],
        deliver: Callable[[Read | Exception | None], None],
        *,
        workers: int,
        ahead: int,
        digests: bool = False,
        retries: int = 0,
    ) -> None:
        self._decoder = decoder
        self._tasks = tasks
        self._deliver = deliver
        self._digests = digests
        self._retries = retries
        self._layout = Layout.of(decoder.preprocessing, workers + ahead)
        self._descriptor = open_memory(self._layout.total_bytes)
        self._memory = mmap.mmap(self._descriptor, self._layout.total_bytes)
        self._free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for slot in range(self._layout.slots):
            self._free.put(slot)
        self._taking = threading.Lock()
        self._closed = False
        self._processes: list[Worker | None] = [None] * workers
        self._left = workers
        self._threads = [
            threading.Thread(target=self._drive, args=(number,), name=f"taemi-decode-{number}", daemon=True)
            for number in range(workers)
        ]
        start_all(self._threads)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that run."""
        return [process.pid for process in self._processes if process is not None]

    def _drive(self, number: int) -> None:
        """Keep one worker busy until there are no more clips."""
        try:
            self._start(number)
            while (slot := self._free.get()) is not None:
                with self._taking:
                    task = None if self._closed else next(self._tasks, None)
                if task is None:
                    break
                self._deliver(self._read(number, task, slot))
        except Exception as error:  # the clips' source may be anybody's code
            if not self._closed:
                self._deliver(error)
        finally:
            self._stop(number)
            with self._taking:
                self._left -= 1
                last = not self._left
            if last and not self._closed:
                self._deliver(None)

    def _read(self, number: int, task: Task, slot: int) -> Read:
        """Have a clip read by the worker of this number, in whose place a new one comes if it dies."""
        process = self._processes[number]
        limit_s = self._limit_s(task.path)
        starts, retries = _STARTS, self._retries
        while True:
            if process is None:
                process = self._start(number)
            try:
                process.ask((task.path if task.what is None else task.what, slot))
                answer = process.answer(limit_s)
            except Closed as closed:
                why = process.end()
                process = self._processes[number] = None
                starts -= closed.unasked
                retries -= not closed.unasked
                if not self._closed and starts > 0 and retries >= 0:
                    continue  # It was gone before it heard of the clip, or may have died of something else.
                self._free.put(slot)
                return Read(task, error=str(_died(task.path, why)))
            except TimeoutError:
                process.end()
                self._processes[number] = None
                self._free.put(slot)
                return Read(task, error=str(_hung(task.path, limit_s)))
            break
        if isinstance(answer[0], Packed):
            packed, decode_ms, digest = answer
            clip = unpack(packed, self._memory, self._layout, slot)
            return Read(task, clip, decode_ms, digest, release=lambda: self._free.put(slot))
        error, trace = answer
        _log.debug("%s\n%s", task.path, trace)
        self._free.put(slot)
        return Read(task, error=error)

    def _limit_s(self, path: Path) -> float:
        size = 0
        if self._digests:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
        limits = self._decoder.limits
        return limits.max_decode_seconds + limits.max_stall_seconds + _GRACE_S + size / _DIGEST_BYTES_PER_S

    def _start(self, number: int) -> Worker:
        why = ""
        for _ in range(_STARTS):
            # Where close finds it: it may be ended before it has started.
            process = self._processes[number] = Worker(self._descriptor)
            if self._closed:
                process.kill()
            try:
                process.ask((self._decoder, self._layout, self._digests))
                answer = process.answer(None)
            except Closed:
                why = process.end()
            else:
                if answer is None:
                    return process
                why = answer[0]
                process.end()
            if self._closed:
                break
        raise EngineError(
            "cannot start a process that decodes clips", why, "Decode in the scoring process: --workers 0"
        )

    def _stop(self, number: int) -> None:
        process = self._processes[number]
        self._processes[number] = None
        if process is not None:
            process.kill()
            process.end()

    def close(self) -> None:
        """End the workers, whatever they are doing; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        for process in list(self._processes):
            if process is not None:
                process.kill()
        for _ in self._threads:
            self._free.put(None)
        end = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        os.close(self._descriptor)


def _died(path: Path, why: str) -> TaemiError:
    return refusal(
        path,
        f"the process that decoded it died ({why})",
        "The file may break FFmpeg, or memory is short: try it alone, and fewer --workers",
    )


def _hung(path: Path, limit_s: float) -> TaemiError:
    return refusal(
        path,
        f"the process that decoded it gave no sign of life for {limit_s:.0f} s and was ended",
        "If you trust the file, raise the limit: --max-decode-seconds",
    )
