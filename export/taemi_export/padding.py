"""Padding must change nothing: a padded row and the same row alone, through one engine.

The reference cases compare both with PyTorch, each within a gate; here they are compared directly,
because two errors that each stay within a gate can still differ by twice that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, OutputSpec, Symbol


@dataclass(frozen=True)
class Cut:
    """One row of a call, cut to its valid lengths.

    Args:
        row: Which row it was.
        sizes: The length of every symbol, 1 for the batch.
        inputs: The arrays, every mask wholly true.
    """

    row: int
    sizes: dict[str, int]
    inputs: dict[str, Array]


def cut_rows(spec: GraphSpec, inputs: Arrays) -> list[Cut]:
    """Cut every padded row of a call out of its padding.

    Args:
        spec: The graph.
        inputs: A call with rows of different valid lengths.

    Returns:
        The rows that have padding and can do without; none where the graph has no mask or only fixed
        lengths.
    """
    batch = spec.inputs[0].shape[0]
    if not isinstance(batch, str) or spec.symbol(batch).minimum > 1:
        return []
    full = _lengths(spec, inputs)
    rows = inputs[spec.inputs[0].name].shape[0]
    found = []
    for row in range(rows):
        sizes = {**full, **_valid_lengths(spec, inputs, row)}
        for symbol in spec.symbols:
            if symbol.source is not None:
                sizes[symbol.name] = symbol.derive(sizes[symbol.source])
        sizes[batch] = 1
        if all(sizes[name] == full[name] for name in full if name != batch):
            continue
        arrays = {
            item.name: np.ascontiguousarray(_slice(item, inputs[item.name], batch, row, sizes))
            for item in spec.inputs
        }
        # What is still false was padding of an axis that cannot be cut.
        if all(arrays[item.name].all() for item in spec.inputs if item.role == "mask"):
            found.append(Cut(row, sizes, arrays))
    return found


def padding_difference(
    spec: GraphSpec, item: OutputSpec, cut: Cut, padded: Mapping[str, Array], alone: Mapping[str, Array]
) -> float:
    """Return the largest absolute difference of one output of a row, padded and alone.

    Args:
        spec: The graph.
        item: The output.
        cut: The row.
        padded: Outputs of the whole call.
        alone: Outputs of the row alone.
    """
    batch = spec.inputs[0].shape[0]
    assert isinstance(batch, str)
    a = _slice(item, padded[item.name], batch, cut.row, cut.sizes).astype(np.float64)
    b = alone[item.name].astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0.0))


def _lengths(spec: GraphSpec, inputs: Arrays) -> dict[str, int]:
    return {
        axis: length
        for item in spec.inputs
        for axis, length in zip(item.shape, inputs[item.name].shape, strict=True)
        if isinstance(axis, str)
    }


def _valid_lengths(spec: GraphSpec, inputs: Arrays, row: int) -> dict[str, int]:
    """Return the shortest lengths of the free axes that leave out nothing but a row's padding."""
    lengths: dict[str, int] = {}
    for mask in spec.inputs:
        if mask.role != "mask" or mask.masks is None:
            continue
        axis, data_axis = mask.shape[1], spec.input(mask.masks).shape[1]
        if not isinstance(axis, str) or not isinstance(data_axis, str):
            continue
        needed = _source_length(spec.symbol(axis), max(1, int(inputs[mask.name][row].sum())))
        if spec.input(mask.masks).padding == "zero":
            # Elements after the last one that counts for the mask may still be the row's own.
            used = np.flatnonzero(inputs[mask.masks][row].reshape(inputs[mask.masks].shape[1], -1).any(1))
            needed = max(needed, int(used[-1]) + 1 if used.size else 1)
        needed = max(needed, spec.symbol(data_axis).minimum)
        lengths[data_axis] = max(needed, lengths.get(data_axis, 0))
    return lengths


def _source_length(symbol: Symbol, length: int) -> int:
    """Return the fewest elements of a symbol's source that make ``length``: the inverse of ``derive``."""
    for kernel, stride in reversed(symbol.convs):
        length = (length - 1) * stride + kernel
    return length


def _slice(
    item: InputSpec | OutputSpec, array: Array, batch: str, row: int, sizes: Mapping[str, int]
) -> Array:
    places = [
        slice(row, row + 1) if axis == batch else slice(0, sizes.get(axis) if isinstance(axis, str) else None)
        for axis in item.shape
    ]
    return array[tuple(places)]
