"""Search a half-precision graph for values that half precision cannot hold.

The graph runs as it is, with every half-precision value inside it marked as an output: only those does
ONNX Runtime's CPU provider really round. Infinity and NaN count where the float32 graph has a number
there, so that masks made of minus infinity, and what stands in padding, do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taemi_export.rounding import run_session, run_values
from taemi_export.values import value_types
from taemi_runtime.spec import Array, Arrays

if TYPE_CHECKING:
    import onnx

_TWIN = ".half"


@dataclass(frozen=True)
class Overflow:
    """A value that is not finite in half precision although it is in float32.

    Args:
        value: Its name.
        node: The node that gives it.
        operator: That node's operator.
        elements: How many of its elements are concerned.
        got: The first of them in half precision.
        expected: The same element in float32.
    """

    value: str
    node: str
    operator: str
    elements: int
    got: float
    expected: float

    def __str__(self) -> str:
        return (
            f"{self.operator} (node {self.node}) gives {self.got} in half precision where float32 gives "
            f"{self.expected:.4g} ({self.elements} elements of {self.value})"
        )


def find_overflow(
    half: onnx.ModelProto, single: onnx.ModelProto | None, calls: Sequence[Arrays], threads: int = 0
) -> tuple[Overflow, ...]:
    """Run a graph with every half-precision value as an output and look for Inf and NaN.

    Args:
        half: The graph in mixed precision, as it will be shipped.
        single: The float32 graph that it was made from; inner values have the same names. ``None``: every
            value must be finite.
        calls: Inputs by name, in float32, one dict for each call.
        threads: Threads inside one call; 0 uses the cores that this process may use.

    Returns:
        What was found in the first call in which anything was, in the order of the graph; empty when
        everything is finite that should be.
    """
    import onnx

    types = value_types(half)
    producers = {name: node for node in half.graph.node for name in node.output if node.op_type != "Constant"}
    names = [name for name in producers if types.get(name) == onnx.TensorProto.FLOAT16]
    if not names:
        return ()
    session = run_session(with_outputs(half, names, types), threads)
    for inputs in calls:
        values = run_values(session, inputs, names)
        suspects = [name for name in names if not np.isfinite(values[name]).all()]
        if not suspects:
            continue
        # The same numbers go into the float32 graph, so that 3e38 in padding is Inf on both sides.
        wrong = {name: values[name] for name in suspects}
        found = _compare(single, _as_half(half, inputs), wrong, threads)
        if found:
            return tuple(
                Overflow(name, producers[name].name, producers[name].op_type, *found[name])
                for name in suspects
                if name in found
            )
    return ()


def with_outputs(model: onnx.ModelProto, names: Sequence[str], types: dict[str, int]) -> onnx.ModelProto:
    """Return a graph with further values as outputs."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    present = {value.name for value in made.graph.output}
    made.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, types[name], None) for name in names if name not in present
    )
    return made


def _as_half(half: onnx.ModelProto, inputs: Arrays) -> dict[str, Array]:
    import onnx

    taken = {
        value.name
        for value in half.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    with np.errstate(over="ignore"):
        return {
            name: array.astype(np.float16).astype(np.float32) if name in taken else array
            for name, array in inputs.items()
        }


def _compare(
    single: onnx.ModelProto | None, inputs: Arrays, values: dict[str, Array], threads: int
) -> dict[str, tuple[int, float, float]]:
    if single is None:
        return {name: (int((~np.isfinite(value)).sum()), *_first(value)) for name, value in values.items()}
    types = value_types(single)
    originals = {name: name if name in types else name.removesuffix(_TWIN) for name in values}
    wanted = [name for name in dict.fromkeys(originals.values()) if name in types]
    session = run_session(with_outputs(single, wanted, types), threads)
    expected = run_values(session, inputs, wanted)
    found = {}
    for name, value in values.items():
        original = expected.get(originals[name])
        if original is None:
            continue
        bad = ~np.isfinite(value) & np.isfinite(original)
        if bad.any():
            place = tuple(np.argwhere(bad)[0])
            found[name] = (int(bad.sum()), float(value[place]), float(original[place]))
    return found


def _first(value: Array) -> tuple[float, float]:
    return float(value[~np.isfinite(value)][0]), float("nan")
