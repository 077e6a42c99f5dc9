"""How far an engine's output is from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi_export.reference import compared_positions
from taemi_export.sizes import Case
from taemi_runtime.spec import Array, Gate, GraphSpec, OutputSpec


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

    def passes(self, gate: Gate) -> bool:
        """Say whether the difference stays within a gate."""
        return (
            self.max_abs <= gate.max_abs and self.mean_abs <= gate.mean_abs and self.cosine >= gate.min_cosine
        )


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
    )


def _cosine(a: Array, b: Array) -> float:
    """Return a·b / (|a| |b|) in double precision."""
    if not np.isfinite(a).all():
        return 0.0
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b / norms)
