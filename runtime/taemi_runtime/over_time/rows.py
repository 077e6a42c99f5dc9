"""Results over time as text, written row by row: JSON, JSON lines, CSV and a table, chosen by name."""

from __future__ import annotations

import abc
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from taemi_runtime.atomic import atomic_file, explain_write
from taemi_runtime.over_time.results import WindowResult
from taemi_runtime.results import AudioUse, ClipFailure, TextUse, VisionUse

# What is left of a score's name in a table.
_SHORT_NAME = 6


class RowWriter(abc.ABC):
    """Writes each result as soon as it comes; nothing is kept.

    Args:
        stream: Where to.
        labels: Names of the scores in order.
    """

    appends: ClassVar[bool] = False
    """Whether a file may grow row by row, since each row stands for itself."""

    def __init__(self, stream: TextIO, labels: Sequence[str]) -> None:
        self.stream = stream
        self.labels = tuple(labels)

    @abc.abstractmethod
    def add(self, result: WindowResult) -> None:
        """Write a window's row."""

    @abc.abstractmethod
    def fail(self, failure: ClipFailure) -> None:
        """Write that a source could not be read, or not to its end."""

    def finish(self) -> None:
        """Write what is written last; called once, after an interruption, too."""
        self.stream.flush()


class JsonRows(RowWriter):
    """A list of objects."""

    def __init__(self, stream: TextIO, labels: Sequence[str]) -> None:
        super().__init__(stream, labels)
        self._before = "[\n"

    def add(self, result: WindowResult) -> None:
        """Write the window's object."""
        self._write(result.to_object())

    def fail(self, failure: ClipFailure) -> None:
        """Write the failure's object."""
        self._write({"clip": failure.clip, "error": failure.error})

    def _write(self, found: dict[str, object]) -> None:
        self.stream.write(self._before + _to_json(found))
        self.stream.flush()
        self._before = ",\n"

    def finish(self) -> None:
        """Close the list."""
        self.stream.write("\n]\n" if self._before == ",\n" else "[]\n")
        super().finish()


class JsonLinesRows(RowWriter):
    """One object a line."""

    appends: ClassVar[bool] = True

    def add(self, result: WindowResult) -> None:
        """Write the window's line."""
        self._write(result.to_object())

    def fail(self, failure: ClipFailure) -> None:
        """Write the failure's line."""
        self._write({"clip": failure.clip, "error": failure.error})

    def _write(self, found: dict[str, object]) -> None:
        self.stream.write(_to_json(found) + "\n")
        self.stream.flush()


class CsvRows(RowWriter):
    """Time first, then the scores, then what they rest on.

    The modality columns say whether each was present, ``missing`` why the others were not; warnings are
    joined by ``; ``.
    """

    appends: ClassVar[bool] = True
    when: ClassVar[tuple[str, ...]] = ("clip", "index", "start_s", "end_s")
    status: ClassVar[tuple[str, ...]] = (
        *("partial", "audio", "vision", "text", "missing", "transcript"),
        *("skipped", "dropped_frames", "gap_s", "late_s", "total_ms", "untrained", "warnings", "error"),
    )

    def __init__(self, stream: TextIO, labels: Sequence[str]) -> None:
        super().__init__(stream, labels)
        self._rows = csv.writer(stream, lineterminator="\n")
        self._write([*self.when, *labels, *self.status])

    def add(self, result: WindowResult) -> None:
        """Write the window's row."""
        uses: dict[str, AudioUse | VisionUse | TextUse] = {
            "audio": result.audio,
            "vision": result.vision,
            "text": result.text,
        }
        missing = "; ".join(f"{name}: {use.why}" for name, use in uses.items() if not use.present)
        self._write(
            [
                *(result.clip, result.index, round(result.start_s, 3), round(result.end_s, 3)),
                *(result.intensities[label] for label in self.labels),
                _flag(result.partial),
                *(_flag(use.present) for use in uses.values()),
                *(missing, result.text.transcript, result.skipped, result.dropped_frames),
                *(_seconds(result.gap_s), _seconds(result.late_s), round(result.timings_ms.total, 3)),
                *(_flag(result.scores.untrained), "; ".join(result.warnings), ""),
            ]
        )

    def fail(self, failure: ClipFailure) -> None:
        """Write the failure's row."""
        blanks = [""] * (len(self.when) + len(self.labels) + len(self.status) - 2)
        self._write([failure.clip, *blanks, failure.error])

    def _write(self, row: list[object]) -> None:
        self._rows.writerow(row)
        self.stream.flush()


class TableRows(RowWriter):
    """Columns for people: when, the scores, what is missing, and remarks below the row that has them."""

    def __init__(self, stream: TextIO, labels: Sequence[str]) -> None:
        super().__init__(stream, labels)
        self._clip = ""

    def add(self, result: WindowResult) -> None:
        """Write the window's line."""
        if result.clip != self._clip:
            heads = "".join(f"{label[:_SHORT_NAME]:>8}" for label in self.labels)
            blank = "\n" if self._clip else ""
            self.stream.write(f"{blank}{result.clip}\n{'window':>17}{heads}  missing\n")
            self._clip = result.clip
        if result.gap_s is not None:
            self.stream.write(f"{'gap':>17}  {result.gap_s:.1f} s\n")
        when = f"{clock_time(result.start_s)} - {clock_time(result.end_s)}"
        scores = "".join(f"{result.intensities[label]:8.3f}" for label in self.labels)
        remarks = [
            ", ".join(result.missing),
            f"({result.skipped} skipped before)" if result.skipped else "",
            f"({result.dropped_frames} frames dropped)" if result.dropped_frames else "",
        ]
        self.stream.write(f"{when:>17}{scores}  {' '.join(filter(None, remarks))}".rstrip() + "\n")
        for warning in result.warnings:
            self.stream.write(f"note: {warning}\n")
        if result.scores.untrained and not result.index:
            self.stream.write("note: untrained weights: the scores mean nothing\n")
        self.stream.flush()

    def fail(self, failure: ClipFailure) -> None:
        """Write the failure."""
        self.stream.write(f"error: {failure.message}\n")
        self.stream.flush()


ROWS: dict[str, type[RowWriter]] = {
    "table": TableRows,
    "json": JsonRows,
    "jsonl": JsonLinesRows,
    "csv": CsvRows,
}


@contextlib.contextmanager
def open_rows(name: str, out: Path | None, labels: Sequence[str]) -> Iterator[RowWriter]:
    """Yield a writer of a format, and finish it when the block ends without an error.

    JSON lines and CSV grow row by row, so that what was done survives a failure; a file of another format is
    replaced as a whole when everything is there.

    Args:
        name: A key of ``ROWS``.
        out: The file; stdout when ``None``.
        labels: Names of the scores in order.

    Raises:
        WriteError: The file cannot be written, or its disk is full.
    """
    kind = ROWS[name]
    with contextlib.ExitStack() as stack:
        stream: TextIO = sys.stdout
        if out is not None:
            stack.enter_context(explain_write(out))
            path = out if kind.appends else stack.enter_context(atomic_file(out))
            stream = stack.enter_context(
                path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            )
        writer = kind(stream, labels)
        yield writer
        writer.finish()


def clock_time(seconds: float) -> str:
    """Return a time as m:ss, as h:mm:ss from an hour on; with tenths where it is no whole second."""
    tenths = round(seconds * 10)
    whole, rest = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{text}.{rest}" if rest else text


def _flag(value: bool) -> str:
    return str(value).lower()


def _seconds(value: float | None) -> object:
    return "" if value is None else round(value, 3)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
