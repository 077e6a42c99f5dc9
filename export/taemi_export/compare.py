"""How far an engine's output is from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi_export.reference import compared_positions
from taemi_export.sizes import Case
from taemi_runtime.spec import Array, Gate, GraphSpec, OutputSpec

# Below this share of its size a float32 value says nothing: 2^-23, and a little for the sum.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Difference:
    """One output of one case, compared.

    Args:
        output: The output's name.
        case: The case.
        elements: How many elements were compared; masked ones are not.
        max_abs: Largest absolute difference; infinite where the engine's value is not finite.
        mean_abs: Mean absolute difference.
        cosine: Cosine similarity of the two outputs as vectors, -1 to 1; 1 when both are zero.
        place: Index of the largest difference.
        got: The engine's value there.
        expected: PyTorch's value there.
        rho: Pearson correlation of the two outputs over all compared values, -1 to 1; ``None`` where
            the reference does not vary.
        nans: How many of the engine's compared values are not finite.
        scale: max(1, standard deviation of the reference's compared values): what relative gates
            divide both differences by.
    """

    output: str
    case: Case
    elements: int
    max_abs: float
    mean_abs: float
    cosine: float
    place: tuple[int, ...]
    got: float
    expected: float
    rho: float | None = None
    nans: int = 0
    scale: float = 1.0

    def failures(self, gate: Gate) -> list[str]:
        """Say which limits of a gate the difference breaks, with both values; empty when none."""
        scale = self.scale if gate.relative else 1.0
        found = [f"{self.nans} values are not finite"] if self.nans else []
        for label, value, limit in (
            ("max", self.max_abs / scale, gate.max_abs),
            ("mean", self.mean_abs / scale, gate.mean_abs),
        ):
            if limit is not None and not value <= limit:
                found.append(f"{label} {value:.3g} > {limit:g}")
        if gate.min_cosine is not None and not self.cosine >= gate.min_cosine:
            found.append(f"cosine {self.cosine:.6f} < {gate.min_cosine:g}")
        if gate.min_rho is not None and self.rho is not None and not self.rho >= gate.min_rho:
            found.append(f"rho {self.rho:.6f} < {gate.min_rho:g}")
        return found or ([] if math.isfinite(self.max_abs) else ["another shape or element type"])

    def passes(self, gate: Gate) -> bool:
        """Say whether the difference stays within a gate."""
        return not self.failures(gate)


def compare_output(
    spec: GraphSpec, item: OutputSpec, case: Case, inputs: Mapping[str, Array], got: Array, expected: Array
) -> Difference:
    """Compare one output with its reference.

    Args:
        spec: The graph.
        item: The output.
        case: The case that it belongs to.
        inputs: The case's inputs: an output's mask is one of them.
        got: The engine's array.
        expected: PyTorch's array, finite.

    Returns:
        The difference; an output of another shape or element type is infinitely far away.
    """
    if got.shape != spec.shape(item, spec.sizes(case.sizes)) or str(got.dtype) != item.dtype:
        return Difference(item.name, case, 0, math.inf, math.inf, 0.0, (), math.nan, math.nan)
    where = np.broadcast_to(compared_positions(item, inputs, expected), expected.shape)
    elements = int(np.count_nonzero(where))
    if not elements:
        return Difference(item.name, case, 0, 0.0, 0.0, 1.0, (), 0.0, 0.0)
    a, b = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.where(where, np.abs(a - b), 0.0)
    distance[np.isnan(distance)] = math.inf
    place = tuple(int(index) for index in np.unravel_index(int(distance.argmax()), distance.shape))
    return Difference(
        item.name,
        case,
        elements,
        float(distance.max()),
        float(distance.sum() / elements),
        _cosine(a[where], b[where]),
        place,
        float(a[place]),
        float(b[place]),
        pearson(a[where], b[where]),
        int(np.count_nonzero(~np.isfinite(a[where]))),
        max(1.0, float(b[where].std())),
    )


def pearson(got: Array, expected: Array) -> float | None:
    """Return the Pearson correlation of two vectors in double precision.

    Args:
        got: [n] float64.
        expected: [n] float64, finite.

    Returns:
        -1 to 1; 0 where ``got`` is not finite or does not vary; ``None`` where ``expected`` varies by
        less than float32 can tell from rounding.
    """
    spread = float(expected.std())
    if not spread > _ROUNDING * max(1.0, float(np.abs(expected).max(initial=0.0))):
        return None
    if not np.isfinite(got).all() or not float(got.std()) > 0:
        return 0.0
    covariance = float(np.mean((got - got.mean()) * (expected - expected.mean())))
    return covariance / (spread * float(got.std()))


def _cosine(a: Array, b: Array) -> float:
    """Return a·b / (|a| |b|) in double precision."""
    if not np.isfinite(a).all():
        return 0.0
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b / norms)
