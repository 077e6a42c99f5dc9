"""Evaluation on a split: correlation per emotion and condition, with intervals; robustness; submissions."""

from __future__ import annotations

from taemi.evaluate.cases import CONDITIONS, Robustness, condition_name
from taemi.evaluate.files import write_figures, write_submission
from taemi.evaluate.resampling import Interval
from taemi.evaluate.results import Evaluation
from taemi.evaluate.run import Asked, compare, evaluate_models, evaluate_split
from taemi.evaluate.tables import format_table

__all__ = [
    "CONDITIONS",
    "Asked",
    "Evaluation",
    "Interval",
    "Robustness",
    "compare",
    "condition_name",
    "evaluate_models",
    "evaluate_split",
    "format_table",
    "write_figures",
    "write_submission",
]
