"""How far a row's outputs are from PyTorch's on the very inputs that it was timed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi.metrics import import_scipy
from taemi_export.compare import compare_output
from taemi_export.reference import compared_positions
from taemi_export.sizes import Case
from taemi_runtime.errors import MissingExtraError
from taemi_runtime.spec import Array, Arrays, GraphSpec


@dataclass(frozen=True)
class RowParity:
    """The output that differs most.

    Args:
        output: Its name.
        max_abs: Largest absolute difference; ``None`` when it is not finite.
        mean_abs: Mean absolute difference; likewise.
        cosine: Cosine similarity.
        passed: Whether every output stays within the gate of the row's precision; ``None`` when the
            graph has no gate for it.
        note: What is wrong; empty when nothing is.
        rho: Spearman's rank correlation of the compared values of all outputs with PyTorch's; ``None`` where
            one side does not vary.
    """

    output: str
    max_abs: float | None
    mean_abs: float | None
    cosine: float
    passed: bool | None
    note: str = ""
    rho: float | None = None


def measure_parity(
    spec: GraphSpec, sizes: Mapping[str, int], inputs: Arrays, got: Arrays, expected: Arrays, precision: str
) -> RowParity:
    """Compare a row's outputs with PyTorch's float32 ones.

    Args:
        spec: The graph; its gate for ``precision`` is the judge.
        sizes: Lengths of the free symbols.
        inputs: The inputs by name.
        got: The row's outputs by name.
        expected: PyTorch's.
        precision: The row's precision.
    """
    case = Case("timed", dict(sizes), 0)
    gate = spec.gates.get(precision)
    differences, notes = [], []
    values: list[tuple[Array, Array]] = []
    for item in spec.outputs:
        wanted = expected[item.name]
        found = got.get(item.name)
        if found is None or found.shape != wanted.shape:
            shape = "missing" if found is None else f"of shape {list(found.shape)}"
            note = f"output {item.name} is {shape}, expected {list(wanted.shape)}"
            return RowParity(item.name, None, None, 0.0, False, note)
        # Half-precision engines may answer in half; their values are compared, not their type.
        found = found.astype(item.dtype)
        difference = compare_output(spec, item, case, inputs, found, wanted)
        differences.append(difference)
        where = np.broadcast_to(compared_positions(item, inputs, wanted), wanted.shape)
        values.append((found[where], wanted[where]))
        if not math.isfinite(difference.max_abs):
            notes.append(f"output {item.name} is not finite")
        elif gate is not None and not difference.passes(gate):
            notes.append(f"output {item.name} differs: {', '.join(difference.failures(gate))}")
    worst = max(differences, key=lambda item: item.max_abs)
    finite = math.isfinite(worst.max_abs)
    return RowParity(
        output=worst.output,
        max_abs=worst.max_abs if finite else None,
        mean_abs=worst.mean_abs if finite else None,
        cosine=worst.cosine,
        passed=not notes if notes or gate is not None else None,
        note="; ".join(notes),
        rho=rank_correlation(*map(np.concatenate, zip(*values, strict=True))),
    )


def rank_correlation(got: Array, expected: Array) -> float | None:
    """Return Spearman's rho of all values, -1 to 1.

    Args:
        got: A row's values.
        expected: PyTorch's.

    Returns:
        The correlation; ``None`` where one side does not vary or is not finite, or scipy is missing.
    """
    one, other = got.ravel(), expected.ravel()
    if one.size < 2 or not np.isfinite([one, other]).all() or not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return None
    try:
        return float(import_scipy("stats").spearmanr(one, other).statistic)
    except MissingExtraError:
        return None
