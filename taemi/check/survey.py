"""Looking at a whole corpus, many clips at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from taemi.check import whole
from taemi.check.clip import ClipLook, Place, look_at_clip
from taemi.check.published import COUNTS
from taemi.check.report import CorpusReport, Counts, Effect, Finding, SplitReport, State
from taemi.check.statistics import duration_statistics, label_statistics
from taemi.clip_files import clip_files, list_folder
from taemi.corpus import (
    AUDIO,
    FACES,
    FEATURE_SUFFIXES,
    RAW,
    TEST_FOLDERS,
    TEXT,
    TEXT_SUFFIXES,
    ClipRow,
    Layout,
    Scan,
    scan_corpus,
)
from taemi_runtime.crew import Crew

Tick = Callable[[str, int, int], None]
_KNOWN_FOLDERS = (RAW, AUDIO, FACES, TEXT, *TEST_FOLDERS)
_ORDER = list(Effect)


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
    findings = [whole.stopping(error.asked, error.found, root) for error in scan.errors]
    findings += whole.of_split_files(scan)
    reports = []
    looks: dict[str, list[ClipLook]] = {}
    for split, rows in corpus.splits.items():
        place = _place(scan, split)
        findings += whole.of_folders(place, rows, corpus.vision)
        looks[split] = _look(rows, place, jobs, decode, tick)
        findings += [finding for look in looks[split] for finding in look.findings]
        reports.append(_report(scan, place, rows, looks[split]))
    findings += whole.of_strays(scan) + whole.of_widths(looks, corpus.vision) + whole.of_splits(scan, reports)
    findings += [finding for report in reports for finding in whole.of_known_figures(report)]
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
