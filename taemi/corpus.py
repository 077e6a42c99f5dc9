"""Reading a corpus in the Hume-Vidmimic2 layout.

    train_split.csv  valid_split.csv      Filename and six label columns
    raw/NNNNN.mp4                         clips of train and validation
    text/NNNNN.txt                        transcripts, where there are any
    test_data/ or test/  raw/ text/       the test clips; test_split.csv beside or inside

docs/data.md describes the layout. Only what a clip row needs is read here; media are opened later.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.emotions import CSV_HEADER, EMOTIONS
from taemi_runtime.errors import DataError

SPLITS: tuple[str, ...] = ("train", "valid", "test")
_TEST_FOLDERS = ("test_data", "test")


@dataclass(frozen=True)
class ClipRow:
    """One clip of a corpus.

    Args:
        name: Its id, e.g. ``00042``.
        media: The clip's file.
        transcript: The transcript, stripped; empty when there is none.
        labels: Six intensities in [0, 1] in the order of ``EMOTIONS``.
    """

    name: str
    media: Path
    transcript: str
    labels: tuple[float, ...]


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk.

    Args:
        root: Its folder.
        splits: Rows by split name; a split without a CSV file is absent.
        synthetic: Whether the corpus says of itself that it is synthetic.
    """

    root: Path
    splits: dict[str, tuple[ClipRow, ...]]
    synthetic: bool

    def split(self, name: str) -> tuple[ClipRow, ...]:
        """Return the rows of a split.

        Raises:
            DataError: The corpus has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"corpus {self.root} has no {name} split",
                f"there is no {name}_split.csv; found: {', '.join(self.splits) or 'none'}",
                "Name the folder that holds the split files",
            )
        return self.splits[name]


def read_corpus(root: Path) -> Corpus:
    """Read every split of a corpus.

    Args:
        root: The corpus folder.

    Raises:
        DataError: The folder holds no split file, or a row is malformed (file and line are named).
    """
    if not root.is_dir():
        found = "it is a file" if root.exists() else "there is no such folder"
        raise DataError(f"cannot read corpus {root}", found, "Name the folder that holds the split files")
    splits: dict[str, tuple[ClipRow, ...]] = {}
    for split in SPLITS:
        folder = root
        if split == "test":
            folder = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), root)
        table = next(
            (path for path in (root / f"{split}_split.csv", folder / f"{split}_split.csv") if path.is_file()),
            None,
        )
        if table is not None:
            splits[split] = tuple(_read_rows(table, folder))
    if not splits:
        raise DataError(
            f"cannot read corpus {root}",
            "there is no train_split.csv, valid_split.csv or test_split.csv",
            "Name a folder in the Hume-Vidmimic2 layout, or make a synthetic one: taemi synth OUT",
        )
    return Corpus(root, splits, synthetic=(root / "corpus.json").is_file())


def clip_name(value: str) -> str:
    """Return the five-digit id that files are called by, whatever a spreadsheet made of it."""
    value = value.strip().removesuffix(".mp4")
    return value.zfill(5) if value.isdigit() else value


def _read_rows(table: Path, folder: Path) -> list[ClipRow]:
    rows = []
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in CSV_HEADER if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"cannot read {table}",
                f"column {missing[0]!r} is missing; found {reader.fieldnames}",
                f"The header must be: {','.join(CSV_HEADER)}",
            )
        for line in reader:
            name = clip_name(line["Filename"])
            try:
                labels = tuple(float(line[emotion]) for emotion in EMOTIONS)
            except (TypeError, ValueError):
                labels = ()
            if len(labels) != len(EMOTIONS) or not all(0 <= label <= 1 for label in labels):
                raise DataError(
                    f"cannot read {table}",
                    f"line {reader.line_num} ({name}) has labels {[line[emotion] for emotion in EMOTIONS]}",
                    "Every label is a number from 0 to 1",
                )
            text = folder / "text" / f"{name}.txt"
            transcript = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
            rows.append(ClipRow(name, folder / "raw" / f"{name}.mp4", transcript, labels))
    return rows
