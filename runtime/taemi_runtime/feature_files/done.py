"""What becomes of a feature file."""

from __future__ import annotations

from dataclasses import dataclass

from taemi_runtime.feature_files.find import FeatureInput
from taemi_runtime.feature_files.layout import FeatureFacts
from taemi_runtime.spec import Array


@dataclass(frozen=True)
class Scored:
    """A clip's outputs.

    Args:
        facts: What its file says of it.
        lengths: Positions of each input that is there, by name.
        outputs: The engine's outputs for it by name, without the batch axis.
        read_ms: How long its file took to read.
        engine_ms: Its share of the engine's time for the batch; on the device where that is timed.
        total_ms: Both by the clock.
    """

    facts: FeatureFacts
    lengths: dict[str, int]
    outputs: dict[str, Array]
    read_ms: float
    engine_ms: float
    total_ms: float


@dataclass(frozen=True)
class Done:
    """What became of one input.

    Args:
        index: Its place among all.
        item: The input.
        scored: Its outputs, or why there are none.
    """

    index: int
    item: FeatureInput
    scored: Scored | Exception
