"""What an evaluation found: correlations with their intervals, per condition and along curves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from taemi.evaluate.cases import CONDITIONS, CurveKind, condition_name
from taemi.evaluate.resampling import CONFIDENCE, METHOD, Interval


@dataclass(frozen=True)
class Figures:
    """Correlations of one case.

    Args:
        rho: The correlation of each output; NaN where the clips have no labels.
        mean: Their mean.
        intervals: Where each may lie; empty where the clips have no labels.
        mean_interval: Where their mean may lie; ``None`` where the clips have no labels.
    """

    rho: tuple[float, ...]
    mean: float
    intervals: tuple[Interval, ...] = ()
    mean_interval: Interval | None = None


@dataclass(frozen=True)
class Point:
    """One level of a curve.

    Args:
        level: Its value in the curve's unit; ``None`` for the clips as they are.
        figures: The correlations.
    """

    level: float | None
    figures: Figures


@dataclass(frozen=True)
class Curve:
    """Correlations against how much something is varied, all modalities that a clip has.

    Args:
        kind: What is varied.
        points: The clips as they are, then its levels.
    """

    kind: CurveKind
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sampling:
    """How intervals were made.

    Args:
        resamples: How many resamples of the clips.
        seed: What the resamples, and what is done to clips along curves, depend on.
        method: How the interval comes out of them.
        confidence: How often such an interval holds the true figure.
    """

    resamples: int
    seed: int
    method: str = METHOD
    confidence: float = CONFIDENCE


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a split.

    Args:
        split: The split's name.
        synthetic: Whether the corpus is synthetic.
        trained: Whether the model was trained at all.
        names: The clips that were scored.
        predicted: [clips, outputs] float32, all modalities that a clip has, clipped to [0, 1].
        labels: [clips, outputs] float32, NaN where there are none.
        figures: For each condition (named like ``audio+text``, ``none`` for no modality) the correlations.
        clips: For each condition how many clips had all of its modalities.
        failures: The reason for each clip that could not be scored, by name.
        rows: Every clip of the split, in the order of the split file.
        faces: How frames were cropped, as in ``VisionPreprocessing.faces``.
        vision: Where vision came from, as in ``Layout``.
        max_fps: Frames a second that were looked at; ``None`` for every one.
        model: The model as it was named.
        engine: What ran its fusion graph, e.g. ``onnxruntime-cpu fp32``.
        curves: Correlations along the curves that were asked for.
        sampling: How intervals were made.
        notes: What makes figures doubtful, e.g. constant scores.
    """

    split: str
    synthetic: bool
    trained: bool
    names: tuple[str, ...]
    predicted: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    figures: dict[str, Figures]
    clips: dict[str, int]
    failures: dict[str, str]
    rows: tuple[str, ...]
    faces: str = "none"
    vision: str = "raw"
    max_fps: float | None = None
    model: str = ""
    engine: str = ""
    curves: tuple[Curve, ...] = ()
    sampling: Sampling = field(default_factory=lambda: Sampling(0, 0))
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> Figures:
        """Correlations with everything that each clip has."""
        return self.figures[condition_name(CONDITIONS[0])]

    @property
    def rho(self) -> dict[str, tuple[float, ...]]:
        """For each condition the correlation of each output."""
        return {name: figures.rho for name, figures in self.figures.items()}

    @property
    def mean_rho(self) -> float:
        """Mean correlation over the outputs with everything that each clip has."""
        return self.whole.mean


@dataclass(frozen=True)
class Difference:
    """How a model differs from the first on the same clips.

    Args:
        mean: Its mean correlation less the first one's.
        interval: Where that may lie: a bootstrap over the pairs; ``None`` where the clips have no labels.
        rho: The same of each output.
        intervals: Where those may lie.
        max_abs: Largest difference of a score, of 0 to 1.
    """

    mean: float
    interval: Interval | None
    rho: tuple[float, ...]
    intervals: tuple[Interval, ...]
    max_abs: float
