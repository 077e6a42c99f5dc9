"""The report of ``taemi check`` as a person reads it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table

from taemi.check import published
from taemi.check.report import CorpusReport, Counts, LabelStatistics, SplitReport
from taemi_runtime.emotions import EMOTIONS

_WIDTH = 120
_SHOWN = 20


def format_report(report: CorpusReport, *, everything: bool = False) -> str:
    """Format a report.

    Args:
        report: The report.
        everything: Whether all findings are listed; else the first twenty of a kind.
    """
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, highlight=False)
    marked = ", synthetic clips" if report.synthetic else ""
    console.print(f"corpus {report.corpus}{marked}; vision comes from {report.vision}/", markup=False)
    if report.splits:
        console.print(_clips(report))
        console.print(_lengths(report))
    if any(split.labels is not None for split in report.splits):
        console.print(_labels(report))
    for split in report.splits:
        if split.labels is not None:
            console.print(_correlations(split.split, split.labels))
    for line in _findings(report, None if everything else _SHOWN):
        # Not through the console: a path must never be broken in two.
        stream.write(line + "\n")
    return stream.getvalue().rstrip()


def _clips(report: CorpusReport) -> Table:
    table = Table(title="Clips: there / missing / broken")
    table.add_column("split")
    for name in ("clips", "known", "usable", "left out", "audio", "vision", "text", "features (width)"):
        table.add_column(name, justify="right")
    for split in report.splits:
        table.add_row(
            split.split,
            f"{split.rows:,}",
            _known(split),
            f"{split.usable:,}",
            f"{split.left_out:,}",
            *(_three(counts) for counts in (split.audio, split.vision, split.text)),
            ", ".join(f"{name} ({width})" for name, width in split.features.items()) or "-",
        )
    return table


def _known(split: SplitReport) -> str:
    if split.known is None:
        return "-"
    differs = split.rows - split.known
    return f"{split.known:,}" + (f" ({differs:+,})" if differs else "")


def _three(counts: Counts) -> str:
    return f"{counts.there:,} / {counts.missing:,} / {counts.broken:,}"


def _lengths(report: CorpusReport) -> Table:
    table = Table(title="Lengths in seconds, as containers say")
    table.add_column("split")
    for name in ("total", "mean", "95 %", "shortest", "longest", "unknown"):
        table.add_column(name, justify="right")
    for split in report.splits:
        lengths = split.durations
        if lengths is None:
            table.add_row(split.split, *["-"] * 6)
            continue
        known = "" if report.synthetic else f" ({_hours(published.TOTAL_S[split.split])})"
        table.add_row(
            split.split,
            _hours(lengths.total_s) + known,
            f"{lengths.mean_s:.2f}",
            f"{lengths.p95_s:.2f}",
            f"{lengths.min_s:.3f}",
            f"{lengths.max_s:.1f}",
            str(lengths.unknown),
        )
    table.add_row(
        "known, train and valid",
        _hours(published.TOTAL_S["train"] + published.TOTAL_S["valid"]),
        f"{published.MEAN_S:.2f}",
        f"{published.P95_S:.2f}",
        f"{published.MIN_S:.3f}",
        f"{published.MAX_S:.1f}",
        "",
        style="dim",
    )
    return table


def _hours(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _labels(report: CorpusReport) -> Table:
    table = Table(title="Labels: share of clips above 0, and mean")
    table.add_column("emotion")
    table.add_column("known share, train", justify="right", style="dim")
    splits = [(split.split, split.labels) for split in report.splits if split.labels is not None]
    for name, _ in splits:
        table.add_column(f"{name} share", justify="right")
        table.add_column("mean", justify="right")
    for place, emotion in enumerate(EMOTIONS):
        cells = [
            f"{value:.3f}"
            for _, labels in splits
            for value in (labels.nonzero_share[place], labels.mean[place])
        ]
        table.add_row(emotion, f"{published.NONZERO_SHARE[place]:.3f}", *cells)
    return table


def _correlations(split: str, labels: LabelStatistics) -> Table:
    table = Table(title=f"Correlations of the labels of {split}; known ones in brackets")
    table.add_column("", no_wrap=True)
    for emotion in EMOTIONS[1:]:
        table.add_column(emotion, justify="right", no_wrap=True)
    for row, emotion in enumerate(EMOTIONS[:-1]):
        cells = [""] * row
        for column in range(row + 1, len(EMOTIONS)):
            value = labels.correlation[row][column]
            known = published.CORRELATIONS.get((emotion, EMOTIONS[column]))
            cells.append("-" if value is None else f"{value:+.3f}")
            if known is not None:
                cells[-1] += f" ({known:+.3f})"
        table.add_row(emotion, *cells)
    return table


def _findings(report: CorpusReport, shown: int | None) -> Iterator[str]:
    if not report.findings:
        yield "nothing is wrong"
    for (effect, kind), group in groupby(report.findings, key=lambda item: (item.effect, item.kind)):
        items = list(group)
        yield ""
        yield f"{kind}: {len(items):,} ({effect})"
        for item in items[:shown]:
            yield f"  {item.file}: {item.what}"
        if shown is not None and len(items) > shown:
            yield f"  ... and {len(items) - shown:,} more (--all lists them)"
    yield ""
    yield "taemi train can use this corpus" if report.trains else "taemi train would fail on this corpus"
