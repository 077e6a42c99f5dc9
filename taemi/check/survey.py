"""Looking at a whole corpus, many clips at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from taemi.check.clip import ClipLook, Place, look_at_clip
from taemi.check.published import COUNTS, NONZERO_SHARE
from taemi.check.report import CorpusReport, Counts, Effect, Finding, SplitReport, State
from taemi.check.statistics import duration_statistics, label_statistics
from taemi.corpus import (
    AUDIO,
    FACES,
    FEATURE_SUFFIXES,
    RAW,
    SOUND_SUFFIXES,
    TEST_FOLDERS,
    TEXT,
    TEXT_SUFFIXES,
    VIDEO_SUFFIXES,
    ClipRow,
    Layout,
    Scan,
    clip_files,
    clip_folders,
    list_folder,
    scan_corpus,
)
from taemi_runtime.crew import Crew
from taemi_runtime.emotions import EMOTIONS

Tick = Callable[[str, int, int], None]
_TRAINED_ON = ("train", "valid")
_KNOWN_FOLDERS = (RAW, AUDIO, FACES, TEXT, *TEST_FOLDERS)
_ORDER = list(Effect)
# The known shares have three digits.
_OFF = 0.002


class _Stopped(Exception):  # noqa: N818 - no error: nobody waits for the result any more
    """Ends the reading of a clip."""


def check_corpus(
    root: Path,
    layout: Layout | None = None,
    *,
    jobs: int = 2,
    decode: bool = False,
    tick: Tick | None = None,
) -> CorpusReport:
    """Look at everything that there is of a corpus.

    Args:
        root: The corpus's folder.
        layout: Where things are; found by itself when ``None``.
        jobs: How many clips are looked at at a time.
        decode: Whether clips are decoded, too, as training does; else the headers of media are read.
        tick: Called with (step, done, total) after each clip.

    Returns:
        What was found; defects of the corpus are findings, whatever they are.

    Raises:
        DataError: There is no such folder, or it lacks one that ``layout`` names.
    """
    scan = scan_corpus(root, layout)
    corpus = scan.corpus
    findings = [_stopping(error.asked, error.found, root) for error in scan.errors]
    findings += _file_findings(scan)
    reports = []
    looks: dict[str, list[ClipLook]] = {}
    for split, rows in corpus.splits.items():
        place = _place(scan, split)
        findings += _folder_findings(place, rows, corpus.vision)
        looks[split] = _look(rows, place, jobs, decode, tick)
        findings += [finding for look in looks[split] for finding in look.findings]
        reports.append(_report(scan, place, rows, looks[split]))
    findings += _strays(scan) + _widths(looks, corpus.vision) + _splits_missing(scan, reports)
    findings += [finding for report in reports for finding in _unlike_the_known(report)]
    findings = [replace(item, file=_plain(item.file), what=_plain(item.what)) for item in findings]
    findings.sort(key=lambda item: (_ORDER.index(item.effect), item.kind, item.file))
    return CorpusReport(
        corpus=_plain(str(root)),
        synthetic=corpus.synthetic,
        vision=corpus.vision,
        test_folder=corpus.test_folder.name if corpus.test_folder is not None else "",
        trains=not any(finding.effect is Effect.STOPS for finding in findings),
        splits=tuple(reports),
        findings=tuple(findings),
    )


def _look(
    rows: Sequence[ClipRow], place: Place, jobs: int, decode: bool, tick: Tick | None
) -> list[ClipLook]:
    """Look at the clips of a split, ``jobs`` at a time; Ctrl-C ends at the next picture or packet."""
    stopping = False

    def stopped() -> bool:
        return stopping

    def watch(*_: object) -> None:
        if stopping:
            raise _Stopped

    def look(index: int, row: ClipRow) -> tuple[int, ClipLook]:
        try:
            return index, look_at_clip(row, place, decode=watch if decode else None, stopped=stopped)
        except _Stopped:
            raise
        except Exception as error:  # whatever a file does to a library, the others are looked at
            found = ClipLook(row)
            what = f"looking at it failed: {type(error).__name__}: {error}"
            found.findings.append(
                Finding(
                    Effect.LEFT_OUT, "clip cannot be read", place.name(row.media), what, place.split, row.name
                )
            )
            return index, found

    looks: dict[int, ClipLook] = {}
    with Crew[tuple[int, ClipLook]](max(1, min(jobs, len(rows))), "check") as crew:
        try:
            for index, row in enumerate(rows):
                crew.give(lambda index=index, row=row: look(index, row))  # type: ignore[misc]
            for done in range(1, len(rows) + 1):
                index, found = crew.take()
                looks[index] = found
                if tick is not None:
                    tick(f"check {place.split}", done, len(rows))
        except BaseException:
            stopping = True
            raise
    return [looks[index] for index in range(len(rows))]


def _place(scan: Scan, split: str) -> Place:
    corpus = scan.corpus
    folder = corpus.folder(split)
    features = {
        path.name: files
        for path in (Path(entry.path) for entry in list_folder(folder))
        if path.is_dir() and path.name not in _KNOWN_FOLDERS and path != corpus.test_folder
        if (files := clip_files(path, FEATURE_SUFFIXES)) or path.name == corpus.vision
    }
    texts = clip_files(folder / TEXT, TEXT_SUFFIXES) if (folder / TEXT).is_dir() else None
    return Place(
        corpus.root, folder, split, texts, scan.unread, features, has_crops=(folder / FACES).is_dir()
    )


def _report(scan: Scan, place: Place, rows: Sequence[ClipRow], looks: Sequence[ClipLook]) -> SplitReport:
    split, file = place.split, scan.files.get(place.split)
    usable = sum(look.readable for look in looks)
    widths = {
        folder: Counter(look.widths[folder] for look in looks if folder in look.widths)
        for folder in place.features
    }
    return SplitReport(
        split=split,
        listed=place.name(file.path if file is not None else place.folder),
        rows=len(rows),
        known=None if scan.corpus.synthetic else COUNTS[split],
        usable=usable,
        left_out=len(looks) - usable,
        audio=_count(look.audio for look in looks),
        vision=_count(look.vision for look in looks),
        text=_count(look.text for look in looks),
        durations=duration_statistics([look.seconds for look in looks]),
        labels=label_statistics(rows),
        features={folder: counts.most_common(1)[0][0] for folder, counts in widths.items() if counts},
    )


def _count(states: Iterable[State]) -> Counts:
    counts = Counter(states)
    return Counts(counts[State.THERE], counts[State.MISSING], counts[State.BROKEN])


def _plain(text: str) -> str:
    """Replace what no terminal and no JSON takes: file names can be any bytes."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _stopping(asked: str, found: str, root: Path) -> Finding:
    file = asked.removeprefix("cannot read ").removeprefix("corpus ")
    path = Path(file)
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else file
    return Finding(Effect.STOPS, "split file", name, found)


def _file_findings(scan: Scan) -> list[Finding]:
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


def _folder_findings(place: Place, rows: Sequence[ClipRow], vision: str) -> list[Finding]:
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


def _unlike_the_known(report: SplitReport) -> list[Finding]:
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


def _strays(scan: Scan) -> list[Finding]:
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


def _widths(looks: dict[str, list[ClipLook]], vision: str) -> list[Finding]:
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


def _splits_missing(scan: Scan, reports: Sequence[SplitReport]) -> list[Finding]:
    """Say why there is nothing to train on or to validate with."""
    found = []
    by_name = {report.split: report for report in reports}
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
