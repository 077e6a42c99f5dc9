"""What is known of Hume-Vidmimic2, to hold a copy against.

Counts and total lengths: Table 1 of arXiv 2603.14976. Durations of the 12,660 clips of train and validation,
and shares of non-zero training labels: the statistics that the authors' published training code works with.
Correlations: the largest two that a label study by another participant gives.
"""

from __future__ import annotations

COUNTS: dict[str, int] = {"train": 8_072, "valid": 4_588, "test": 4_586}
TOTAL_S: dict[str, int] = {"train": 54_423, "valid": 33_122, "test": 32_645}

# In the order of EMOTIONS.
NONZERO_SHARE: tuple[float, ...] = (0.447, 0.364, 0.325, 0.101, 0.382, 0.325)
CORRELATIONS: dict[tuple[str, str], float] = {("Excitement", "Joy"): 0.229, ("Determination", "Joy"): -0.143}

MEAN_S, P95_S, MIN_S, MAX_S = 6.92, 11.48, 0.064, 1249.9
