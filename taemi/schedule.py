"""The learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from 0 over the warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017, equation 5).

    Args:
        peak: The highest rate.
        warmup: Steps of the warm-up.
        total: Steps of the whole training.
    """

    peak: float
    warmup: int
    total: int

    def rate(self, step: int) -> float:
        """Return the rate of a step, from 0."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        share = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
