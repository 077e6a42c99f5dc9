"""Findings that concern no single clip: split files, folders, and what clips have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from taemi.check.clip import ClipLook, Place
from taemi.check.published import NONZERO_SHARE
from taemi.check.report import Effect, Finding, SplitReport
from taemi.clip_files import clip_files, clip_folders
from taemi.corpus import (
    AUDIO,
    FACES,
    FEATURE_SUFFIXES,
    RAW,
    SOUND_SUFFIXES,
    TEST_FOLDERS,
    TEXT,
    VIDEO_SUFFIXES,
    ClipRow,
    Scan,
)
from taemi_runtime.emotions import EMOTIONS

_TRAINED_ON = ("train", "valid")
# The known shares have three digits.
_OFF = 0.002


def stopping(asked: str, found: str, root: Path) -> Finding:
    """Make a finding of an error in reading the split files."""
    file = asked.removeprefix("cannot read ").removeprefix("corpus ")
    path = Path(file)
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else file
    return Finding(Effect.STOPS, "split file", name, found)


def of_split_files(scan: Scan) -> list[Finding]:
    """Say what is odd in the split files."""
    found: list[Finding] = []
    root = scan.corpus.root
    seen: dict[str, str] = {}
    for split, file in scan.files.items():
        name = file.path.relative_to(root).as_posix()
        if file.shortened is not None:
            row, written = file.shortened
            what = f"line {row.line} calls clip {row.name} {written!r}: leading zeros are put back"
            found.append(Finding(Effect.NOTE, "numbers for names", name, what, split))
        for row in file.repeated:
            what = f"line {row.line} has clip {row.name} once more; its first row counts"
            found.append(Finding(Effect.NOTE, "repeated row", name, what, split, row.name))
        for row in file.rows:
            if row.name in seen:
                what = f"line {row.line}: clip {row.name} is in {seen[row.name]}, too"
                found.append(Finding(Effect.NOTE, "clip in two splits", name, what, split, row.name))
            seen.setdefault(row.name, split)
    folders = [name for name in TEST_FOLDERS if (root / name).is_dir()]
    if len(folders) > 1 and scan.corpus.test_folder is not None:
        used = scan.corpus.test_folder.name
        what = f"{' and '.join(folders)} are both there; {used} is used (--test-folder chooses)"
        found.append(Finding(Effect.NOTE, "two test folders", used, what, "test"))
    return found


def of_folders(place: Place, rows: Sequence[ClipRow], vision: str) -> list[Finding]:
    """Say which folders are not there: once, and not for each clip."""
    found = []
    if rows and place.texts is None:
        what = f"there is no such folder: {len(rows)} clips have no transcript"
        found.append(Finding(Effect.MISSING, "no folder", place.name(place.folder / TEXT), what, place.split))
    if rows and vision != RAW and not (place.folder / vision).is_dir():
        what = f"there is no such folder: {len(rows)} clips have no vision"
        found.append(
            Finding(Effect.MISSING, "no folder", place.name(place.folder / vision), what, place.split)
        )
    return found


def of_known_figures(report: SplitReport) -> list[Finding]:
    """Say where a split is not as it is handed out."""
    found = []
    if report.known not in (None, report.rows):
        what = f"it lists {report.rows:,} clips; {report.known:,} are handed out"
        found.append(Finding(Effect.NOTE, "number of clips", report.listed, what, report.split))
    elif report.known is not None and report.split == "train" and report.labels is not None:
        pairs = zip(EMOTIONS, report.labels.nonzero_share, NONZERO_SHARE, strict=True)
        off = [
            f"{name} {share:.3f} for {known:.3f}" for name, share, known in pairs if abs(share - known) > _OFF
        ]
        if off:
            what = f"the shares of clips above 0 are not the known ones: {', '.join(off)}"
            found.append(Finding(Effect.NOTE, "labels differ", report.listed, what, report.split))
    return found


def of_strays(scan: Scan) -> list[Finding]:
    """Say which clips stand in no split file, and what lies among the clips that is none."""
    corpus = scan.corpus
    found: list[Finding] = []
    folders: dict[Path, set[str]] = {}
    for split, rows in corpus.splits.items():
        folders.setdefault(corpus.folder(split), set()).update(row.name for row in rows)
    for folder, names in folders.items():
        listings = {
            RAW: clip_files(folder / RAW, VIDEO_SUFFIXES),
            AUDIO: clip_files(folder / AUDIO, SOUND_SUFFIXES),
            FACES: clip_folders(folder / FACES),
        }
        for kind, files in listings.items():
            extra = sorted(set(files) - names)
            if extra:
                path = files[extra[0]].relative_to(corpus.root).as_posix()
                more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
                what = f"no split file lists clip {extra[0]}{more} of {kind}/"
                found.append(Finding(Effect.NOTE, "clip without a row", path, what))
    return found


def of_widths(looks: dict[str, list[ClipLook]], vision: str) -> list[Finding]:
    """Say which features are not as wide as the others of their folder."""
    found = []
    every = [(split, look) for split, items in looks.items() for look in items]
    for folder in sorted({folder for _, look in every for folder in look.widths}):
        widths = Counter(look.widths[folder] for _, look in every if folder in look.widths)
        usual = widths.most_common(1)[0][0]
        for split, look in every:
            width = look.widths.get(folder, usual)
            if width != usual:
                stops = folder == vision and split in _TRAINED_ON
                name = f"{folder}/{look.row.name}{FEATURE_SUFFIXES[0]}"
                what = f"it is {width} wide, {widths[usual]} others are {usual}"
                effect = Effect.STOPS if stops else Effect.NOTE
                found.append(Finding(effect, "width of features", name, what, split, look.row.name))
    return found


def of_splits(scan: Scan, reports: Sequence[SplitReport]) -> list[Finding]:
    """Say why there is nothing to train on or to validate with."""
    found = []
    by_name = {report.split: report for report in reports}
    if "test" in by_name and "test" not in scan.files:
        test = by_name["test"]
        what = f"there is no test_split.csv: the {test.rows:,} clips that are there are the split"
        found.append(Finding(Effect.NOTE, "no split file", test.listed, what, "test"))
    for split in _TRAINED_ON:
        name = f"{split}_split.csv"
        report = by_name.get(split)
        if report is None and split not in scan.files and not (scan.corpus.root / name).exists():
            found.append(Finding(Effect.STOPS, "no split file", name, "there is no such file", split))
        elif report is not None and not report.usable:
            what = f"none of its {report.rows} clips can be used" if report.rows else "it lists no clip"
            found.append(Finding(Effect.STOPS, "no clip of a split", report.listed, what, split))
        elif report is not None and report.labels is not None:
            flat = [
                emotion
                for emotion, row in zip(EMOTIONS, report.labels.correlation, strict=True)
                if all(value is None for value in row)
            ]
            if flat:
                what = f"{', '.join(flat)} never changes: its rho counts as 0"
                found.append(Finding(Effect.NOTE, "constant label", report.listed, what, split))
    return found
