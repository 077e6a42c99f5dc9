"""An ablation's table as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from taemi.ablation.figures import Estimate, Report, RowFigures
from taemi.sheets import Sheet, format_markdown
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


def main_sheet(report: Report) -> Sheet:
    """Return a table with a line for each row of the paper's tables."""
    return Sheet(f"Ablation on {corpus_mark(report)}", _HEADER, tuple(map(_cells, report.rows)))


def corpus_mark(report: Report) -> str:
    """Name the corpus, and say so where its clips are synthetic."""
    return f"{report.corpus}{', synthetic clips' if report.synthetic else ''}"


def _markdown(report: Report) -> str:
    parts = [f"# Ablation on {corpus_mark(report)}"]
    if report.synthetic:
        parts.append(
            "**The clips are synthetic: these figures say that the software works, and nothing about people. "
            "The paper's are of Hume-Vidmimic2.**"
        )
    parts.append(
        "Mean Pearson correlation on the validation split in the best epoch: mean over seeds ± sample "
        "standard deviation. Differences to `full` are taken seed by seed. The paper gives one figure a "
        "row, and two for `vision-anchored`, where its table and its text disagree; beside the baselines "
        "stands what the challenge's own models reach with those modalities."
    )
    nothing = ("",) * len(report.outputs)
    each = tuple(
        (row.row, *(tuple(map("{:+.3f}".format, row.rho_by_output)) or nothing)) for row in report.rows
    )
    tables = [
        replace(main_sheet(report), title="Rows"),
        Sheet("Each output", ("row", *report.outputs), each),
    ]
    parts.append(format_markdown(tables).rstrip())
    failures = [failure for row in report.rows for failure in row.failures]
    if failures:
        lines = [
            f"* {failure.row}, seed {failure.seed}: {failure.reason[:_REASON_SHOWN]}" for failure in failures
        ]
        parts += ["## Failed runs", "\n".join(lines)]
    parts += ["## Protocol", "\n".join(_protocol(report))]
    return "\n\n".join(parts) + "\n"


def _protocol(report: Report) -> list[str]:
    clips = report.protocol.data["clips"]
    settled = {name: value for name, value in report.protocol.recipe.items() if value is not None}
    recipe = ", ".join(f"{name} {_plain(value)}" for name, value in settled.items())
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
    failed = f"{len(row.failures)} failed" if row.failures else ""
    return (
        row.row,
        ", ".join(filter(None, (str(row.rho.n) if row.rho else "", failed))),
        format_estimate(row.rho) if row.rho else row.state,
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
