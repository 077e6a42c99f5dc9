"""Reading a corpus in the Hume-Vidmimic2 layout.

    train_split.csv  valid_split.csv      Filename and six label columns
    raw/NNNNN.mp4                         clips of train and validation
    audio/NNNNN.mp3                       their sound, where it was taken out
    face_images/NNNNN/{0,1,2,...}.jpg     face crops, where they were cut out
    vit/ wav2vec2/ ... NNNNN.pkl          features
    text/NNNNN.txt                        transcripts, where there are any
    test_data/ or test/                   the same of the test clips; test_split.csv beside or inside, if any

docs/data.md describes the layout. Only what a clip row needs is read here; media are opened later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taemi.clip_files import clip_files, clip_folders
from taemi.split_files import UNLABELLED, LabelRow, SplitFile, clip_name, read_split_file
from taemi_runtime.errors import DataError

__all__ = ["SPLITS", "ClipRow", "Corpus", "Layout", "Scan", "clip_name", "read_corpus", "scan_corpus"]

SPLITS: tuple[str, ...] = ("train", "valid", "test")
TEST_FOLDERS = ("test_data", "test")
RAW, AUDIO, FACES, TEXT = "raw", "audio", "face_images", "text"
# The first one counts where a clip has several files.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
SOUND_SUFFIXES = (".mp3", ".wav", ".flac", ".m4a", ".ogg", ".opus", ".aac")
FEATURE_SUFFIXES = (".pkl", ".pickle", ".pt")
TEXT_SUFFIXES = (".txt",)


@dataclass(frozen=True)
class Layout:
    """Where things are, where copies of the corpus differ.

    Args:
        test_folder: The folder of the test clips; ``None`` looks for ``test_data/``, then ``test/``.
        vision: Where vision comes from: ``raw`` (frames of the clips), ``face_images`` (face crops), or the
            name of a folder of feature pickles. ``None`` takes the face crops where there are any.
    """

    test_folder: str | None = None
    vision: str | None = None


@dataclass(frozen=True)
class ClipRow:
    """One clip of a corpus.

    Args:
        name: Its id, e.g. ``00042``.
        media: The clip's file, which may be missing.
        transcript: The transcript, stripped; empty when there is none.
        labels: Six intensities in [0, 1] in the order of ``EMOTIONS``; NaN where there are none.
        audio: The file of its sound alone; ``None`` where there is none and ``media`` has it.
        vision: Where its vision comes from, as in ``Layout``.
        pictures: The folder of its face crops, or the pickle of its features, as ``vision`` says; ``None``
            where that is missing, and with ``raw``.
        text: The file of its transcript; ``None`` where there is none.
    """

    name: str
    media: Path
    transcript: str
    labels: tuple[float, ...]
    audio: Path | None = None
    vision: str = RAW
    pictures: Path | None = None
    text: Path | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk.

    Args:
        root: Its folder.
        splits: Rows by split name; a split without a CSV file is absent, but for test, whose rows are the
            clips that are there.
        synthetic: Whether the corpus says of itself that it is synthetic.
        vision: Where vision comes from, as in ``Layout``.
        test_folder: Where the test clips are.
    """

    root: Path
    splits: dict[str, tuple[ClipRow, ...]]
    synthetic: bool
    vision: str = RAW
    test_folder: Path | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.root.name

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

    def folder(self, split: str) -> Path:
        """Return the folder that holds the clips of a split."""
        return self.test_folder if split == "test" and self.test_folder is not None else self.root


@dataclass(frozen=True)
class Scan:
    """A corpus and what was wrong with it.

    Args:
        corpus: What can be used of it.
        files: The split files by split.
        errors: Why it cannot be used as it is.
        unread: Transcripts that could not be read as they should, and why.
    """

    corpus: Corpus
    files: dict[str, SplitFile] = field(default_factory=dict)
    errors: tuple[DataError, ...] = ()
    unread: dict[Path, str] = field(default_factory=dict)


def read_corpus(root: Path, layout: Layout | None = None) -> Corpus:
    """Read every split of a corpus.

    Args:
        root: The corpus folder.
        layout: Where things are; found by itself when ``None``.

    Raises:
        DataError: The folder holds no split file, or a row is malformed (file and line are named).
    """
    scan = scan_corpus(root, layout)
    if scan.errors:
        raise scan.errors[0]
    return scan.corpus


def scan_corpus(root: Path, layout: Layout | None = None) -> Scan:
    """Read every split of a corpus as far as it can be read.

    Args:
        root: The corpus folder.
        layout: Where things are; found by itself when ``None``.

    Raises:
        DataError: There is no such folder, or it lacks one that ``layout`` names.
    """
    layout = layout or Layout()
    asked = f"cannot read corpus {root}"
    if not root.is_dir():
        found = "it is a file" if root.exists() else "there is no such folder"
        raise DataError(asked, found, "Name the folder that holds the split files")
    test_folder = _test_folder(root, layout)
    vision = _vision(root, test_folder, layout)
    files: dict[str, SplitFile] = {}
    errors: list[DataError] = []
    unread: dict[Path, str] = {}
    splits: dict[str, tuple[ClipRow, ...]] = {}
    for split in SPLITS:
        folder = test_folder if split == "test" and test_folder is not None else root
        places = (root / f"{split}_split.csv", folder / f"{split}_split.csv")
        table = next((path for path in places if path.exists()), None)
        finder = _Finder(folder, vision)
        try:
            if table is not None:
                files[split] = read_split_file(table, labelled=split != "test")
                errors += files[split].errors
                rows = files[split].rows
            elif split == "test" and test_folder is not None:
                rows = tuple(LabelRow(name, UNLABELLED, 0) for name in finder.names())
            else:
                continue
        except DataError as error:
            errors.append(error)
            continue
        if table is not None or rows:
            splits[split] = tuple(finder.row(row, unread) for row in rows)
    if not (splits or errors):
        errors.append(
            DataError(
                asked,
                "there is no train_split.csv, valid_split.csv or test_split.csv",
                "Name a folder in the Hume-Vidmimic2 layout, or make a synthetic one: taemi synth OUT",
            )
        )
    synthetic = (root / "corpus.json").is_file()
    return Scan(Corpus(root, splits, synthetic, vision, test_folder), files, tuple(errors), unread)


class _Finder:
    """Finds the files of a split's clips: each folder is listed once."""

    def __init__(self, folder: Path, vision: str) -> None:
        self._folder = folder
        self._vision = vision
        self._raw = clip_files(folder / RAW, VIDEO_SUFFIXES)
        self._audio = clip_files(folder / AUDIO, SOUND_SUFFIXES)
        self._text = clip_files(folder / TEXT, TEXT_SUFFIXES)
        self._pictures: dict[str, Path] = {}
        if vision == FACES:
            self._pictures = clip_folders(folder / FACES)
        elif vision != RAW:
            self._pictures = clip_files(folder / vision, FEATURE_SUFFIXES)

    def names(self) -> list[str]:
        """Return the clips of which there is anything but words."""
        return sorted({*self._raw, *self._audio, *self._pictures})

    def row(self, row: LabelRow, unread: dict[Path, str]) -> ClipRow:
        """Return a clip with its files; what cannot be read of its transcript is put into ``unread``."""
        text = self._text.get(row.name)
        return ClipRow(
            row.name,
            self._raw.get(row.name, self._folder / RAW / f"{row.name}{VIDEO_SUFFIXES[0]}"),
            _read_text(text, unread) if text is not None else "",
            row.labels,
            self._audio.get(row.name),
            self._vision,
            self._pictures.get(row.name),
            text,
        )


def _read_text(path: Path, unread: dict[Path, str]) -> str:
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        unread[path] = error.strerror or str(error)
        return ""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        unread[path] = f"it is no UTF-8 ({error.reason} at byte {error.start}); odd characters are replaced"
        text = content.decode("utf-8-sig", errors="replace")
    return text.replace("\0", "").strip()


def _test_folder(root: Path, layout: Layout) -> Path | None:
    if layout.test_folder is not None:
        folder = root / layout.test_folder
        if not folder.is_dir():
            raise DataError(
                f"cannot read corpus {root}",
                f"it has no folder {layout.test_folder} for test clips",
                "Name another with --test-folder, or leave that out",
            )
        return folder
    folders = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    # A folder that is called test need not be the corpus's.
    return next(filter(_holds_clips, folders), folders[0] if folders else None)


def _holds_clips(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RAW, AUDIO, FACES, "test_split.csv"))


def _vision(root: Path, test_folder: Path | None, layout: Layout) -> str:
    folders = [folder for folder in (root, test_folder) if folder is not None]
    if layout.vision is None:
        # What the clips to train on have counts for those of the test, too.
        crops = {folder: bool(clip_folders(folder / FACES)) for folder in folders}
        decides = next((folder for folder in folders if crops[folder] or (folder / RAW).is_dir()), root)
        return FACES if crops[decides] else RAW
    if not any((folder / layout.vision).is_dir() for folder in folders) and layout.vision != RAW:
        raise DataError(
            f"cannot read corpus {root}",
            f"vision is to come from {layout.vision}, and there is no such folder",
            f"Choose --vision-from {RAW}, {FACES}, or a folder of feature pickles",
        )
    return layout.vision
