"""The challenge's metric."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pearson(predicted: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return Pearson's correlation of each column over the whole split.

    rho = cov(p, y) / sqrt(var(p) var(y)). A constant column has no correlation; it counts as 0, as
    in the published evaluation.

    Args:
        predicted: [clips, outputs].
        labels: [clips, outputs].

    Returns:
        [outputs] float64 in [-1, 1].
    """
    p = predicted.astype(np.float64) - predicted.mean(0, dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(0, dtype=np.float64)
    covariance = (p * y).mean(0)
    spread = np.sqrt((p**2).mean(0) * (y**2).mean(0))
    # Rounding leaves a constant column with a spread of about 1e-17 of its size, not exactly zero.
    flat = spread <= 1e-12 * np.maximum(1.0, np.abs(labels).max(initial=0.0))
    return np.where(flat, 0.0, covariance / np.where(flat, 1.0, spread))
