"""An ablation's table as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from taemi.ablation.figures import Estimate, Report, RowFigures
from taemi_runtime.atomic import write_text
from taemi_runtime.strict import to_json

MARKDOWN_NAME = "ablation.md"
CSV_NAME = "ablation.csv"
JSON_NAME = "ablation.json"
PICTURE_NAME = "ablation.png"

_HEADER = ("row", "seeds", "rho", "difference to full", "the paper", "trained weights", "of the fusion")
_CSV_HEADER = (
    "row",
    "variant",
    "modalities",
    "state",
    "seeds",
    "rho_mean",
    "rho_sd",
    "difference_mean",
    "difference_sd",
    "difference_seeds",
    "trained_weights",
    "fusion_weights",
    "paper_rho",
    "paper_place",
)
_REASON_SHOWN = 200


def write_tables(out: Path, report: Report) -> None:
    """Write ``ablation.md``, ``ablation.csv`` and ``ablation.json``."""
    write_text(out / JSON_NAME, to_json(report))
    write_text(out / CSV_NAME, _csv(report))
    write_text(out / MARKDOWN_NAME, _markdown(report))


def main_table(report: Report) -> str:
    """Format a row for each row of the paper's tables as Markdown."""
    return _table(_HEADER, [_cells(row) for row in report.rows])


def corpus_mark(report: Report) -> str:
    """Name the corpus, and say so where its clips are synthetic."""
    return f"{report.corpus}{', synthetic clips' if report.synthetic else ''}"


def _markdown(report: Report) -> str:
    parts = [f"# Ablation on {corpus_mark(report)}", ""]
    if report.synthetic:
        parts += [
            "**The clips are synthetic: these figures say that the software works, and nothing about people. "
            "The paper's are of Hume-Vidmimic2.**",
            "",
        ]
    parts += [
        "Mean Pearson correlation on the validation split in the best epoch: mean over seeds ± sample "
        "standard deviation. Differences to `full` are taken seed by seed. The paper gives one figure a "
        "row, and two for `vision-anchored`, where its table and its text disagree; beside the baselines "
        "stands what the challenge's own models reach with those modalities.",
        "",
        main_table(report),
        "",
        "## Each output",
        "",
        _table(
            ("row", *report.outputs),
            [
                (row.row, *([f"{rho:+.3f}" for rho in row.rho_by_output] or [""] * len(report.outputs)))
                for row in report.rows
            ],
        ),
        "",
    ]
    failures = [failure for row in report.rows for failure in row.failures]
    if failures:
        parts += ["## Failed runs", ""]
        parts += [
            f"* {failure.row}, seed {failure.seed}: {failure.reason[:_REASON_SHOWN]}" for failure in failures
        ]
        parts.append("")
    return "\n".join([*parts, "## Protocol", "", *_protocol(report), ""])


def _protocol(report: Report) -> list[str]:
    clips = report.protocol.data["clips"]
    recipe = ", ".join(f"{name} {_plain(value)}" for name, value in report.protocol.recipe.items())
    encoders = ", ".join(
        f"{part}: {item['name']}{' (random weights)' if item['random_weights'] else ''}"
        for part, item in report.protocol.encoders.items()
    )
    lines = [
        f"* data: {corpus_mark(report)}, {clips['train']} clips for training, {clips['valid']} for "
        f"validation, vision from {report.protocol.data['vision']}",
        f"* encoders, the same in every run: {encoders}",
        f"* recipe: {recipe}",
        f"* seeds: {', '.join(map(str, report.seeds)) or 'none finished'}",
    ]
    if report.devices:
        versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in report.versions.items())
        lines.append(f"* made with: {versions}; on {' and '.join(report.devices)}")
    return lines


def _cells(row: RowFigures) -> tuple[str, ...]:
    rho = format_estimate(row.rho) if row.rho else row.state
    if row.rho and row.failures:
        rho += f"; {len(row.failures)} failed"
    return (
        row.row,
        str(row.rho.n) if row.rho else "",
        rho,
        format_estimate(row.difference, sign="+") if row.difference else "",
        ", ".join(f"{item.rho:.2f} ({item.place})" for item in row.printed),
        f"{row.trained_weights:,}" if row.trained_weights is not None else "",
        f"{row.fusion_weights:,}" if row.fusion_weights is not None else "",
    )


def format_estimate(estimate: Estimate, sign: str = "") -> str:
    """Format a mean and its spread, e.g. ``0.412 ± 0.013``."""
    spread = f" ± {estimate.spread:.3f}" if estimate.spread is not None else ""
    return f"{estimate.mean:{sign}.3f}{spread}"


def _csv(report: Report) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_CSV_HEADER, *report.outputs])
    for row in report.rows:
        rho, difference = row.rho, row.difference
        cells = [
            row.row,
            row.variant,
            "+".join(row.modalities),
            row.state,
            rho.n if rho else 0,
            rho.mean if rho else None,
            rho.spread if rho else None,
            difference.mean if difference else None,
            difference.spread if difference else None,
            difference.n if difference else None,
            row.trained_weights,
            row.fusion_weights,
            ";".join(str(item.rho) for item in row.printed),
            ";".join(item.place for item in row.printed),
        ]
        writer.writerow([*cells, *(row.rho_by_output or [None] * len(report.outputs))])
    return stream.getvalue()


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns stand below each other in plain text, too."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )
