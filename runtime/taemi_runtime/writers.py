"""Results as text: JSON, JSON lines, CSV and a table. One class a format, chosen by name."""

from __future__ import annotations

import abc
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from taemi_runtime.atomic import atomic_file, explain_write
from taemi_runtime.emotions import CSV_HEADER
from taemi_runtime.results import ClipFailure, ClipResult

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Outcome = ClipResult | ClipFailure

_BAR_WIDTH = 24
# A table that goes into a pipe or a file is not folded.
_PLAIN_WIDTH = 1000
# What is left of a name where the terminal is too narrow for all of them.
_SHORT_NAME = 6


class Writer(abc.ABC):
    """Writes outcomes to a stream, in the order in which they come.

    Args:
        stream: Where to.
        labels: Names of the scores in order.
        count: How many clips were asked for.
    """

    streams: ClassVar[bool] = False
    """Whether every outcome is written as soon as it comes."""

    appends: ClassVar[bool] = False
    """Whether a file may grow line by line, since each line stands for itself."""

    def __init__(self, stream: TextIO, labels: Sequence[str], count: int) -> None:
        self.stream = stream
        self.labels = tuple(labels)
        self.count = count

    @abc.abstractmethod
    def add(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of the clip at position ``index`` of the inputs."""

    def finish(self) -> None:
        """Write what is written last; called once, after an interruption, too."""
        self.stream.flush()


class JsonWriter(Writer):
    """One object for one clip, a list for several."""

    def __init__(self, stream: TextIO, labels: Sequence[str], count: int) -> None:
        super().__init__(stream, labels, count)
        self._objects: list[dict[str, Any]] = []

    def add(self, index: int, outcome: Outcome) -> None:
        """Keep the outcome's object."""
        self._objects.append(outcome.to_object(index))

    def finish(self) -> None:
        """Write everything."""
        single = self.count == 1 and len(self._objects) == 1
        self.stream.write(_to_json(self._objects[0] if single else self._objects, indent=2) + "\n")
        super().finish()


class JsonLinesWriter(Writer):
    """One line a clip, written on completion."""

    streams: ClassVar[bool] = True
    appends: ClassVar[bool] = True

    def add(self, index: int, outcome: Outcome) -> None:
        """Write the outcome's line."""
        self.stream.write(_to_json(outcome.to_object(index)) + "\n")
        self.stream.flush()


class CsvWriter(Writer):
    """The columns of a challenge submission first, then what the scores rest on.

    ``Filename`` is the clip's name without folder and suffix, as in the corpus; ``clip`` tells apart
    clips of one name. The modality columns say whether each was present; warnings are joined by ``; ``.
    """

    streams: ClassVar[bool] = True
    status: ClassVar[tuple[str, ...]] = (
        "clip",
        "clip_seconds",
        "audio",
        "vision",
        "text",
        "untrained",
        "warnings",
        "error",
    )

    def __init__(self, stream: TextIO, labels: Sequence[str], count: int) -> None:
        super().__init__(stream, labels, count)
        self._rows = csv.writer(stream, lineterminator="\n")
        self._rows.writerow([CSV_HEADER[0], *labels, *self.status])

    def add(self, index: int, outcome: Outcome) -> None:
        """Write the outcome's row."""
        del index
        name = Path(outcome.clip).stem
        if isinstance(outcome, ClipFailure):
            blanks = [""] * (len(self.labels) + len(self.status) - 2)
            blanks.insert(len(self.labels), outcome.clip)
            self._rows.writerow([name, *blanks, outcome.error])
        else:
            uses = (outcome.audio, outcome.vision, outcome.text)
            flags = [str(flag).lower() for flag in (*(use.present for use in uses), outcome.untrained)]
            scores = [outcome.intensities[label] for label in self.labels]
            notes = "; ".join(outcome.warnings)
            seconds = "" if outcome.clip_seconds is None else round(outcome.clip_seconds, 3)
            status = [outcome.clip, seconds, *flags, notes, ""]
            self._rows.writerow([name, *scores, *status])
        self.stream.flush()


class TableWriter(Writer):
    """A table for people: one clip with bars, several with a row each."""

    def __init__(self, stream: TextIO, labels: Sequence[str], count: int) -> None:
        super().__init__(stream, labels, count)
        self._outcomes: list[Outcome] = []

    def add(self, index: int, outcome: Outcome) -> None:
        """Keep the outcome."""
        del index
        self._outcomes.append(outcome)

    def finish(self) -> None:
        """Draw the table."""
        from rich.console import Console

        width = None if self.stream.isatty() else _PLAIN_WIDTH
        console = Console(file=self.stream, width=width, highlight=False, markup=False, emoji=False)
        results = [outcome for outcome in self._outcomes if isinstance(outcome, ClipResult)]
        if len(results) == 1 and self.count == 1:
            self._draw_one(console, results[0])
        elif results:
            table = self._draw_many(results, self.labels)
            unbounded = console.options.update(max_width=_PLAIN_WIDTH)
            if console.measure(table, options=unbounded).maximum > console.width:
                table = self._draw_many(results, [label[:_SHORT_NAME] for label in self.labels])
            console.print(table)
            for result in results:
                for warning in result.warnings:
                    console.print(f"note: {result.clip}: {warning}", soft_wrap=True)
        for outcome in self._outcomes:
            if isinstance(outcome, ClipFailure):
                console.print(f"error: {outcome.message}", soft_wrap=True)
        if any(result.untrained for result in results):
            console.print("untrained weights: the scores mean nothing", soft_wrap=True)
        super().finish()

    def _draw_one(self, console: Console, result: ClipResult) -> None:
        from rich.table import Table

        length = "" if result.clip_seconds is None else f"  {result.clip_seconds:.1f} s"
        console.print(f"{result.clip}{length}", soft_wrap=True)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label in self.labels:
            score = result.intensities[label]
            filled = round(min(max(score, 0.0), 1.0) * _BAR_WIDTH)
            table.add_row(label, f"{score:.3f}", "█" * filled + "·" * (_BAR_WIDTH - filled))
        console.print(table)
        for line in _describe_uses(result):
            console.print(line, soft_wrap=True)

    def _draw_many(self, results: list[ClipResult], heads: Sequence[str]) -> RenderableType:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("clip", overflow="fold")
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("missing")
        for result in results:
            scores = [f"{result.intensities[label]:.3f}" for label in self.labels]
            table.add_row(result.clip, *scores, ", ".join(result.missing))
        return table


def _describe_uses(result: ClipResult) -> Iterator[str]:
    audio, vision, text = result.audio, result.vision, result.text
    for name, use in (("audio", audio), ("vision", vision)):
        cut = ", the rest is not used" if use.truncated else ""
        left_out = getattr(use, "left_out", None)
        faces = "" if left_out is None else f" with a face, {left_out} without one left out"
        seconds = "" if use.seconds_used is None else f", {use.seconds_used:.1f} s"
        yield (
            f"{name}: {use.frames} frames{faces}{seconds}{cut}"
            if use.present
            else (f"{name}: missing, {use.why}")
        )
    tokens = "" if text.tokens is None else f"{text.tokens} tokens, "
    yield f"text: {tokens}{text.source}" if text.present else f"text: missing, {text.why}"
    for warning in result.warnings:
        yield f"note: {warning}"


FORMATS: dict[str, type[Writer]] = {
    "table": TableWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
}


@contextlib.contextmanager
def open_writer(
    name: str,
    out: Path | None,
    labels: Sequence[str],
    count: int,
    *,
    append: bool = False,
    stdout: TextIO | None = None,
) -> Iterator[Writer]:
    """Yield a writer of a format, and finish it when the block ends without an error.

    A file is replaced as a whole when everything is there, so that an older one survives a failure;
    JSON lines are appended one by one, so that what was done survives one.

    Args:
        name: A key of ``FORMATS``.
        out: The file; stdout when ``None``.
        labels: Names of the scores in order.
        count: How many clips were asked for.
        append: Whether lines are added to those that a file has; only for formats that append.
        stdout: What is written to where there is no file; ``sys.stdout`` when ``None``.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    kind = FORMATS[name]
    with contextlib.ExitStack() as stack:
        if out is None:
            stream = stdout or sys.stdout
        else:
            stack.enter_context(explain_write(out))
            path = out if kind.appends else stack.enter_context(atomic_file(out))
            mode = "a" if append and kind.appends else "w"
            stream = stack.enter_context(
                path.open(mode, encoding="utf-8", errors="backslashreplace", newline="")
            )
        writer = kind(stream, labels, count)
        yield writer
        writer.finish()


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
