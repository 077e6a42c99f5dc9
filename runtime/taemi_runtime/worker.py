"""A decode worker: a process that reads clips for another one and ends when that one does.

It is started with ``python -c`` and not by ``multiprocessing``, which would import the main program a second
time, shows through a traceback where that has no guard, and keeps a further process for its shared memory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from taemi_runtime.messages import Closed, pack, receive, send

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from taemi_runtime.worker import main; main(int(sys.argv[2]))"
)


def command(memory: int) -> list[str]:
    """Return what starts a worker.

    Args:
        memory: The descriptor of the shared memory, which it inherits.
    """
    return [sys.executable, "-c", START, json.dumps(sys.path), str(memory)]


class Worker:
    """A worker as the process sees it that started it: both ends of the talk with it.

    Args:
        memory: The descriptor of the shared memory, which it inherits.
    """

    def __init__(self, memory: int) -> None:
        # A session of its own: Ctrl-C in the terminal is for the process that waits for the results.
        self._process = subprocess.Popen(
            command(memory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(memory,),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, message: Any) -> None:
        """Send a request.

        Raises:
            Closed: It ended before that; ``unasked`` is true then.
        """
        try:
            send(self._requests, message)
        except Closed as closed:
            closed.unasked = True
            raise

    def answer(self, limit_s: float | None) -> Any:
        """Wait for an answer.

        Args:
            limit_s: Seconds to wait; ``None`` waits as long as it runs.

        Raises:
            TimeoutError: There was none in time.
            Closed: The process has ended.
        """
        if limit_s is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._answers, selectors.EVENT_READ)
                if not selector.select(limit_s):
                    raise TimeoutError
        return receive(self._answers)

    def kill(self) -> None:
        """End the process now; ``end`` still has to be called."""
        self._process.kill()

    def end(self) -> str:
        """End the process if it still runs, and return how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its pipes close a little before it has ended by itself.
            self._process.wait(0.2)
        self._process.kill()
        status = self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()
        return f"it was ended by signal {-status}" if status < 0 else f"it ended with exit code {status}"


def main(descriptor: int) -> None:
    """Answer requests from stdin on stdout until stdin ends.

    Args:
        descriptor: Of the shared memory.
    """
    # Ctrl-C is for the process that waits for the results.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # What libraries print must not get between the answers.
    os.dup2(2, 1)
    # What libraries ask must not take requests away.
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with contextlib.suppress(Closed):
        decoder, layout, digests = receive(requests)
        memory = mmap.mmap(descriptor, layout.total_bytes)
        try:
            _warm_up(decoder)
        except Exception as error:  # whatever it is, whoever started this shows it
            send(answers, _failure(error))
            return
        send(answers, None)
        for what, slot in _requests(requests):
            send(
                answers, _answer(decoder, what, digests, lambda clip, at=slot: pack(clip, memory, layout, at))
            )


def _requests(stream: IO[bytes]) -> Any:
    """Yield requests; the process ends with the stream, whatever it is busy with."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(Closed):
            while True:
                waiting.put(receive(stream))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def _warm_up(decoder: Any) -> None:
    """Import what decoding needs, and use one core: there are as many workers as are to be used."""
    if decoder.detector is not None:
        from taemi_runtime.faces.opencv import import_opencv

        import_opencv().setNumThreads(1)


def _answer(decoder: Any, what: Any, digests: bool, keep: Any) -> tuple[Any, ...]:
    from taemi_runtime.resume import clip_digest

    try:
        digest = clip_digest(what) if digests else ""
        clip, decode_ms = decoder.decode(what)
        return (keep(clip), decode_ms, digest)
    except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
        return _failure(error)


def _failure(error: Exception) -> tuple[str, str]:
    from taemi_runtime.results import ClipFailure

    return ClipFailure.from_error("", error).error, traceback.format_exc()
