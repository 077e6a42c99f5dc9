"""Split files: which clips a split has, and their labels, from a CSV as spreadsheets leave it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.emotions import CSV_HEADER, EMOTIONS
from taemi_runtime.errors import DataError

# What stands for the labels of a clip that has none.
UNLABELLED = (float("nan"),) * len(EMOTIONS)
_NAME = CSV_HEADER[0]
_PADDED = 5
_LONGEST = 100


@dataclass(frozen=True)
class LabelRow:
    """One row.

    Args:
        name: The clip's id, e.g. ``00042``.
        labels: Six intensities in [0, 1] in the order of ``EMOTIONS``, or ``UNLABELLED``.
        line: The file's line.
    """

    name: str
    labels: tuple[float, ...]
    line: int


@dataclass(frozen=True)
class SplitFile:
    """A split file that was read.

    Args:
        path: The file.
        rows: Its rows, each clip once.
        errors: What is wrong with rows that cannot be used.
        repeated: Rows whose clip had one before.
        shortened: The first row whose name had lost its leading zeros, and what was there instead.
    """

    path: Path
    rows: tuple[LabelRow, ...]
    errors: tuple[DataError, ...] = ()
    repeated: tuple[LabelRow, ...] = ()
    shortened: tuple[LabelRow, str] | None = None


def clip_name(value: str) -> str:
    """Return the five-digit id that files are called by, whatever a spreadsheet made of it."""
    value = value.strip().removesuffix(".mp4")
    # A column of numbers with a gap in it becomes one of floats.
    whole = value.removesuffix(".0")
    return whole.zfill(_PADDED) if whole.isascii() and whole.isdigit() else value


def read_split_file(path: Path, *, labelled: bool = True) -> SplitFile:
    """Read a split file.

    Args:
        path: A CSV file with the header of the challenge.
        labelled: Whether it must have labels; otherwise the column of names is enough.

    Raises:
        DataError: It is no such file as a whole; rows that cannot be used are among the result's errors.
    """
    asked = f"cannot read {path}"
    if not path.is_file():
        raise DataError(
            asked, "it is no file", f"Put the split file there; its header is {','.join(CSV_HEADER)}"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            # Read here: what is wrong with the header is met here, too.
            reader.fieldnames = [field.strip() for field in reader.fieldnames or ()]
            found = set(reader.fieldnames)
            has_labels = labelled or not found.isdisjoint(EMOTIONS)
            missing = [name for name in (CSV_HEADER if has_labels else (_NAME,)) if name not in found]
            if missing:
                raise DataError(
                    asked,
                    f"column {missing[0]!r} is missing; found {reader.fieldnames}",
                    f"The header must be: {','.join(CSV_HEADER)}",
                )
            return _read_rows(path, reader, has_labels)
    except OSError as error:
        raise DataError(asked, error.strerror or str(error)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(asked, f"it is no CSV in UTF-8 ({error})", "Save it again as CSV in UTF-8") from error


def _read_rows(path: Path, reader: csv.DictReader[str], labelled: bool) -> SplitFile:
    rows: dict[str, LabelRow] = {}
    errors: list[DataError] = []
    repeated: list[LabelRow] = []
    shortened: tuple[LabelRow, str] | None = None
    for cells in reader:
        written = (cells[_NAME] or "").strip()
        name = clip_name(written)
        labels = _labels(cells) if labelled else UNLABELLED
        row = LabelRow(name, labels or UNLABELLED, reader.line_num)
        place = f"line {row.line} ({name})"
        if not _is_file_name(name):
            found = f"line {row.line} names no clip: {written[:80]!r}"
            errors.append(DataError(f"cannot read {path}", found, "Mend the row, or take it out"))
        elif labels is None:
            found = f"{place} has labels {[cells[emotion] for emotion in EMOTIONS]}"
            errors.append(DataError(f"cannot read {path}", found, "Every label is a number from 0 to 1"))
        elif name in rows:
            repeated.append(row)
        else:
            rows[name] = row
            if shortened is None and name != written.removesuffix(".mp4"):
                shortened = (row, written)
    return SplitFile(path, tuple(rows.values()), tuple(errors), tuple(repeated), shortened)


def _labels(cells: dict[str, str]) -> tuple[float, ...] | None:
    try:
        labels = tuple(float(cells[emotion]) for emotion in EMOTIONS)
    except (TypeError, ValueError):
        return None
    return labels if all(0 <= label <= 1 for label in labels) else None


def _is_file_name(name: str) -> bool:
    """Return whether files can be called so: features are written under the clip's name, too."""
    plain = name.isprintable() and not set(name) & set("/\\")
    return plain and 0 < len(name) <= _LONGEST and bool(name.strip("."))
