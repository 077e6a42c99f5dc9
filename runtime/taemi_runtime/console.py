"""What all four console scripts share: exit codes, error messages, progress on stderr.

Results go to stdout or a file; everything else goes to stderr. Exit codes: 0 all done, 1 something
could not be done, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_runtime.errors import TaemiError, UsageError

if TYPE_CHECKING:
    import typer

Tick = Callable[[str, int, int], None]

# Where there is no terminal a log is read later: seldom enough not to fill it.
_LINE_EVERY_S = 30.0


def run_app(app: typer.Typer) -> None:
    """Run a console script and leave with its exit code.

    A [TaemiError][] becomes its one message; the traceback is shown only when ``--debug`` was given.
    Anything else is a defect of ours and keeps its traceback.

    Args:
        app: The command line.
    """
    try:
        app()
    except TaemiError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as leaving:
        # typer turns Ctrl-C into exit code 130 without a word, and keeps the cause.
        if isinstance(getattr(leaving.__context__, "__cause__", None), KeyboardInterrupt):
            say("interrupted: finished files are kept, unfinished ones are removed")
        raise


def say(message: str, *, quiet: bool = False) -> None:
    """Print a line on stderr."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Tick]:
    """Yield a callable (step name, done, total) that draws one bar for each step on stderr.

    Where stderr is no terminal it says a line now and then instead. Nothing is said with ``quiet``.
    """
    if quiet:
        yield lambda step, done, total: None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """How many a second of late."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f}/s")

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tick(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for old in tasks.values():
                    bars.update(old, visible=False)
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield tick


class _Lines:
    """Says how far a step is, how fast, and how long it still takes."""

    def __init__(self) -> None:
        self._step: str | None = None
        self._said_s = time.monotonic()

    def __call__(self, step: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if step != self._step:
            self._step, self._from, self._since_s = step, done, now_s
        if now_s - self._said_s < _LINE_EVERY_S:
            return
        self._said_s = now_s
        parts = [f"{step}: {done} of {total}"]
        if done > self._from:
            speed = (done - self._from) / (now_s - self._since_s)
            parts += [f"{speed:.1f}/s", f"about {format_duration((total - done) / speed)} left"]
        say(", ".join(parts))


class Step:
    """Times a step and says its result in one line: name, seconds, size, path."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start = time.perf_counter()

    def done(self, path: Path | None = None, detail: str = "") -> str:
        """Return the closing line."""
        parts = [f"{self.name}: {time.perf_counter() - self._start:.1f} s"]
        if detail:
            parts.append(detail)
        if path is not None:
            parts += [format_size(size_on_disk(path)), str(path)]
        return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Format a duration in the two units that matter, e.g. ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size


def format_size(size: float) -> str:
    """Format a number of bytes with a decimal unit, e.g. ``25.5 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
