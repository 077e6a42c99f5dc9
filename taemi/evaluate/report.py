"""A folder with everything that an evaluation found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taemi.evaluate.files import write_curves, write_figures, write_submission
from taemi.evaluate.pictures import draw_conditions, draw_curves
from taemi.evaluate.results import Difference, Evaluation
from taemi.evaluate.tables import sheets
from taemi.pictures import pictures_fault
from taemi.sheets import format_markdown
from taemi_runtime.atomic import write_bytes, write_text

FIGURES, TABLES, SUBMISSION = "evaluation.json", "evaluation.md", "scores.csv"
CURVES, CURVES_PICTURE, CONDITIONS_PICTURE = "robustness.csv", "robustness.png", "conditions.png"


def write_report(
    folder: Path, evaluations: Sequence[Evaluation], differences: Sequence[Difference]
) -> list[str]:
    """Write everything that an evaluation found.

    Args:
        folder: Where to; it is made where it is not there, and other files in it stay.
        evaluations: The models; the first one is the one that was asked for.
        differences: How each differs from the first.

    Returns:
        What is worth knowing, a sentence each: clips that were filled in, pictures that could not be drawn.
    """
    first, *others = evaluations
    folder.mkdir(parents=True, exist_ok=True)
    remarks = [write_submission(folder / SUBMISSION, first)]
    write_figures(folder / FIGURES, first, list(zip(others, differences[1:], strict=True)))
    tables = sheets(evaluations, differences)
    pictures: list[str] = []
    if first.curves:
        write_curves(folder / CURVES, evaluations)
    if fault := pictures_fault():
        remarks.append(fault)
    elif first.whole.mean_interval is not None:
        write_bytes(folder / CONDITIONS_PICTURE, draw_conditions(evaluations))
        pictures.append(CONDITIONS_PICTURE)
        if first.curves:
            write_bytes(folder / CURVES_PICTURE, draw_curves(evaluations))
            pictures.append(CURVES_PICTURE)
    shown = "".join(f"\n![{name.partition('.')[0]}]({name})\n" for name in pictures)
    write_text(folder / TABLES, f"# {first.model}\n\n{format_markdown(tables)}{shown}")
    return [remark for remark in remarks if remark]
