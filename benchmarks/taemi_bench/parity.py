"""How far a row's outputs are from PyTorch's on the very inputs that it was timed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from taemi_export.compare import compare_output
from taemi_export.sizes import Case
from taemi_runtime.spec import Arrays, GraphSpec


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
    """

    output: str
    max_abs: float | None
    mean_abs: float | None
    cosine: float
    passed: bool | None
    note: str = ""


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
    for item in spec.outputs:
        wanted = expected[item.name]
        found = got.get(item.name)
        if found is None or found.shape != wanted.shape:
            shape = "missing" if found is None else f"of shape {list(found.shape)}"
            note = f"output {item.name} is {shape}, expected {list(wanted.shape)}"
            return RowParity(item.name, None, None, 0.0, False, note)
        # Half-precision engines may answer in half; their values are compared, not their type.
        difference = compare_output(spec, item, case, inputs, found.astype(item.dtype), wanted)
        differences.append(difference)
        if not math.isfinite(difference.max_abs):
            notes.append(f"output {item.name} is not finite")
        elif gate is not None and not difference.passes(gate):
            notes.append(
                f"output {item.name} differs by {difference.max_abs:.2g} at most, "
                f"{difference.mean_abs:.2g} on average, cosine {difference.cosine:.6f}; allowed "
                f"{gate.max_abs:g}, {gate.mean_abs:g}, {gate.min_cosine:g}"
            )
    worst = max(differences, key=lambda item: item.max_abs)
    finite = math.isfinite(worst.max_abs)
    return RowParity(
        output=worst.output,
        max_abs=worst.max_abs if finite else None,
        mean_abs=worst.mean_abs if finite else None,
        cosine=worst.cosine,
        passed=not notes if notes or gate is not None else None,
        note="; ".join(notes),
    )
