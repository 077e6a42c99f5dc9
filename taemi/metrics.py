"""The challenge's metric: Pearson's correlation of each emotion over the whole split."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import MissingExtraError

CONSTANT_SPREAD = 1e-6
"""Values that are no further apart count as one value: they are written the same in a submission. A model
that ignores what it sees still differs in its last bits, and their correlation would be that of rounding."""


def pearson(
    predicted: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    *,
    names: Sequence[str] = EMOTIONS,
    warn: Callable[[str], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Return Pearson's correlation of each column over the whole split (``scipy.stats.pearsonr``).

    A constant column has no correlation; it counts as 0, as in the published evaluation.

    Args:
        predicted: [clips, outputs].
        labels: [clips, outputs].
        names: What the outputs are called.
        warn: Called with a sentence that names the outputs whose predictions or labels are constant.

    Returns:
        [outputs] float64 in [-1, 1]; NaN where a label is.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    stats = import_scipy("stats")
    found = np.zeros(predicted.shape[1])
    flat: list[str] = []
    for column in range(len(found)):
        pair = {
            "predictions": predicted[:, column].astype(np.float64),
            "labels": labels[:, column].astype(np.float64),
        }
        if not all(np.isfinite(values).all() for values in pair.values()):
            found[column] = np.nan
            continue
        constant = [what for what, values in pair.items() if is_constant(values)]
        if not constant:
            found[column] = stats.pearsonr(*pair.values()).statistic
        flat += [f"{what} of {names[column]}" for what in constant]
    if flat and warn is not None:
        listed = ", ".join(flat)
        warn(f"{listed}: all {len(labels)} clips have one value, there is no correlation and it counts as 0")
    return found


def is_constant(values: npt.NDArray[np.floating]) -> bool:
    """Return whether values are so close together that they count as one; see ``CONSTANT_SPREAD``."""
    return bool(np.ptp(values) <= CONSTANT_SPREAD)


def import_scipy(module: str) -> Any:
    """Import a module of scipy, which installations that only run models need not have.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "cannot compute correlations", "scipy is not installed", 'pip install "taemi[train]"'
        ) from error
