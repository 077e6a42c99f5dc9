"""A comparison for people."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from taemi.sheets import Sheet, format_sheets
from taemi_bench.change import Change
from taemi_bench.compare import Comparison, RowChange
from taemi_bench.tables import LEAST_WIDTH, PIPE_WIDTH, format_ms

COLUMNS = ("scope", "row", "before, ms", "after, ms", "after / before", "against PyTorch", "verdict")


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison on stdout."""
    width = max(shutil.get_terminal_size((PIPE_WIDTH, 0)).columns, LEAST_WIDTH)
    rows = tuple(_cells(row) for row in comparison.rows)
    title = f"{comparison.before}, then {comparison.after}: medians"
    print(format_sheets([Sheet(title, COLUMNS, rows, names=2)], width=width), end="\n\n")
    for note in notes(comparison):
        print(note)


def notes(comparison: Comparison) -> Iterator[str]:
    """Yield what stands below the table; the last line says what came out of it."""
    yield (
        "after / before: above 1 is slower; in brackets where 95 % of the changes from a part of one run to "
        "a part of the other lie"
    )
    yield "against PyTorch: the same of the ratio to PyTorch eager fp32; judged wherever there is one"
    yield from (f"warning: {warning}" for warning in comparison.warnings)
    yield from (f"only before: {row}" for row in comparison.only_before)
    yield from (f"only after: {row}" for row in comparison.only_after)
    for row in comparison.regressions:
        slower = [f"slower by {_percent(row)}"] if row.verdict == "slower" else []
        yield f"REGRESSION: {row.scope}, {row.name}: {'; '.join([*slower, *row.worse])}"
    threshold = f"{100 * comparison.threshold:g} %"
    count = len(comparison.regressions)
    yield (
        f"{count} of {len(comparison.rows)} rows regressed"
        if count
        else f"none of {len(comparison.rows)} rows regressed beyond noise and {threshold}"
    )


def _cells(row: RowChange) -> tuple[str, ...]:
    verdict = row.verdict.upper() if row.verdict == "slower" else row.verdict
    return (
        row.scope,
        row.name,
        format_ms(row.before_ms),
        format_ms(row.after_ms),
        _format(row.milliseconds),
        _format(row.against_baseline),
        f"{verdict}, WORSE" if row.worse else verdict,
    )


def _format(change: Change | None) -> str:
    if change is None:
        return "-"
    if change.low is None or change.high is None:
        return f"{change.ratio:.2f}"
    return f"{change.ratio:.2f} ({change.low:.2f} to {change.high:.2f})"


def _percent(row: RowChange) -> str:
    share = (row.against_baseline or row.milliseconds).ratio - 1
    return f"{100 * share:.0f} % ({row.after_ms - row.before_ms:+.3g} ms)"
