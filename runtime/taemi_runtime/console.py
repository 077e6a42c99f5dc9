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

    Nothing is drawn when stderr is no terminal or with ``quiet``.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda step, done, total: None
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
