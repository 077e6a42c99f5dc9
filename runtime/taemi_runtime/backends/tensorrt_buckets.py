"""Shape buckets: the few shapes at which CUDA graphs are captured, whatever shapes callers come with.

A captured graph holds for one shape only. Calls are therefore padded up to the next bucket, but only
along axes where padding cannot change a result: the rows of axis 0, which do not know of each other, and
lengths that a mask of the same length covers and behind which anything may stand. An axis from which
another one is derived (samples, from which frames follow) is never padded: what stands behind its end
may enter a normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping

from taemi_runtime.plan_sidecar import PlanProfile, Shape
from taemi_runtime.ranges import span
from taemi_runtime.spec import Array, GraphSpec, InputSpec, OutputSpec

# Few enough to be captured, close enough together that padding costs less than a capture saves. A length
# of 1 is what a missing input is fed with.
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_LENGTHS = (1, 16, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)


def sizes_of(spec: GraphSpec, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the length of every symbol of a call whose inputs fit the spec.

    Args:
        spec: The graph.
        shapes: The shape of every input by name.
    """
    return {
        axis: length
        for item in spec.inputs
        for axis, length in zip(item.shape, shapes[item.name], strict=True)
        if isinstance(axis, str)
    }


def paddable(spec: GraphSpec) -> dict[str, tuple[int, ...]]:
    """Return the symbols along which calls may be padded, with their ladders of lengths."""
    found: dict[str, tuple[int, ...]] = {}
    tensors: tuple[InputSpec | OutputSpec, ...] = (*spec.inputs, *spec.outputs)
    first = {item.shape[0] for item in tensors}
    rows = next(iter(first))
    if len(first) == 1 and isinstance(rows, str) and all(rows not in item.shape[1:] for item in tensors):
        found[rows] = _ROWS
    for item in spec.inputs:
        mask = spec.mask_of(item.name)
        if mask is None or item.padding != "any" or len(item.shape) < 2:
            continue
        axis = item.shape[1]
        if not isinstance(axis, str) or mask.shape[1] != axis:
            continue
        symbol = spec.symbol(axis)
        free = symbol.source is None and all(other.source != axis for other in spec.symbols)
        covered = all(
            axis not in other.shape or other.name == mask.name or _is_covered(spec, other, axis)
            for other in spec.inputs
        )
        if free and covered:
            found[axis] = _LENGTHS
    return found


def _is_covered(spec: GraphSpec, item: InputSpec, axis: str) -> bool:
    if item.role == "mask":
        return True
    mask = spec.mask_of(item.name)
    return mask is not None and item.padding == "any" and mask.shape[1] == axis == item.shape[1]


def bucket(
    spec: GraphSpec, ladders: Mapping[str, tuple[int, ...]], profile: PlanProfile, sizes: Mapping[str, int]
) -> dict[str, int]:
    """Return the lengths of the bucket that a call belongs to.

    Args:
        spec: The graph.
        ladders: What ``paddable`` gave.
        profile: The optimisation profile that holds the call; buckets never leave it.
        sizes: The call's lengths.
    """
    found = dict(sizes)
    for name, ladder in ladders.items():
        low, high = _range(spec, profile, name)
        found[name] = next((step for step in ladder if max(low, sizes[name]) <= step <= high), high)
    return found


def _range(spec: GraphSpec, profile: PlanProfile, symbol: str) -> tuple[int, int]:
    for item in spec.inputs:
        if symbol in item.shape:
            axis = item.shape.index(symbol)
            held = profile.inputs[item.name]
            return held.minimum[axis], held.maximum[axis]
    raise KeyError(symbol)


def fill(target: Array, source: Array) -> None:
    """Copy an array into the corner of one that is as large or larger, with zeros in the rest.

    Element types may differ: features enter half-precision plans in half precision.

    Args:
        target: What is written, of the same number of axes.
        source: What is read.
    """
    with span("fill"):
        target[tuple(slice(length) for length in source.shape)] = source
        for axis, length in enumerate(source.shape):
            if length < target.shape[axis]:
                before = tuple(slice(done) for done in source.shape[:axis])
                target[(*before, slice(length, None))] = 0
