"""Statistics of labels and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from taemi.check.report import Durations, LabelStatistics
from taemi.corpus import ClipRow
from taemi_runtime.emotions import EMOTIONS


def label_statistics(rows: Iterable[ClipRow]) -> LabelStatistics | None:
    """Return statistics of the rows that have labels; ``None`` where none has."""
    labels = np.array([row.labels for row in rows], dtype=np.float64).reshape(-1, len(EMOTIONS))
    labels = labels[np.isfinite(labels).all(1)]
    if not len(labels):
        return None
    centred = labels - labels.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    flat = spread <= 1e-12
    scaled = centred / np.where(flat, 1.0, spread)
    correlation = scaled.T @ scaled / len(labels)
    return LabelStatistics(
        clips=len(labels),
        nonzero_share=tuple((labels > 0).mean(0).tolist()),
        mean=tuple(labels.mean(0).tolist()),
        correlation=tuple(
            tuple(None if flat[a] or flat[b] else float(correlation[a, b]) for b in range(len(EMOTIONS)))
            for a in range(len(EMOTIONS))
        ),
    )


def duration_statistics(seconds: Sequence[float | None]) -> Durations | None:
    """Return statistics of lengths; ``None`` where none is known."""
    known = np.array([value for value in seconds if value is not None])
    if not len(known):
        return None
    return Durations(
        clips=len(known),
        unknown=len(seconds) - len(known),
        total_s=float(known.sum()),
        mean_s=float(known.mean()),
        p95_s=float(np.percentile(known, 95)),
        min_s=float(known.min()),
        max_s=float(known.max()),
    )
