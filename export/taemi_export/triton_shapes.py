"""The axes of a graph as a server sees them: what it batches along, and which shapes it is warmed up at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol

MAX_BATCH = 32
"""Largest batch where neither the user nor the graph says one."""


@dataclass(frozen=True)
class Shapes:
    """One choice of batch size and lengths.

    Args:
        name: What it is called among the warm-up samples.
        batch: Rows.
        lengths: Length of every free symbol but the batch's.
        tuned: Whether the engine was tuned for exactly these.
    """

    name: str
    batch: int
    lengths: Mapping[str, int]
    tuned: bool = False


def tensors(spec: GraphSpec) -> tuple[InputSpec | OutputSpec, ...]:
    """Return inputs and outputs."""
    return (*spec.inputs, *spec.outputs)


def batch_symbol(spec: GraphSpec) -> Symbol | None:
    """Return the axis that the server may batch along, when the graph has one.

    It is axis 0 of every input and output and no other axis, takes 1, and nothing follows from it.
    """
    firsts = {item.shape[0] if item.shape else None for item in tensors(spec)}
    first = next(iter(firsts))
    if len(firsts) != 1 or not isinstance(first, str):
        return None
    symbol = spec.symbol(first)
    elsewhere = any(first in item.shape[1:] for item in tensors(spec))
    followed = any(other.source == first for other in spec.symbols)
    return None if elsewhere or followed or symbol.source or symbol.minimum > 1 else symbol


def length_symbols(spec: GraphSpec) -> tuple[Symbol, ...]:
    """Return the free symbols that are no batch."""
    batch = batch_symbol(spec)
    return tuple(symbol for symbol in spec.free_symbols if symbol != batch)


def row_shape(spec: GraphSpec, item: InputSpec | OutputSpec) -> tuple[str | int, ...]:
    """Return the axes that the configuration names: all but the batch's."""
    return item.shape[1:] if batch_symbol(spec) else item.shape


def buckets(symbol: Symbol, shortest: int, longest: int) -> list[int]:
    """Return lengths to pad to, so that requests meet others of the same shape.

    The longest and its halves down to 32, so that padding never more than doubles a long request, the
    typical length, and the shortest, which is what a missing input is fed at.

    Args:
        symbol: The axis.
        shortest: The smallest length that every engine takes.
        longest: The largest.
    """
    typical = min(max(symbol.typical, shortest), longest)
    sizes = {shortest, typical, longest}
    half = -(-longest // 2)
    while half > max(32, shortest):
        # A bucket so near the typical one would only split requests that could have met there.
        if not 0.75 < half / typical < 1.33:
            sizes.add(half)
        half = -(-half // 2)
    return sorted(sizes)


def longest_of(symbol: Symbol) -> int:
    """Return a symbol's largest length, or twice the typical one where nothing bounds it."""
    return symbol.maximum if symbol.maximum is not None else 2 * symbol.typical


def graph_shapes(spec: GraphSpec, max_batch: int) -> tuple[Shapes, ...]:
    """Choose what to warm up a graph with that takes any shape: typical, batched, longest, shortest."""
    symbols = length_symbols(spec)
    typical = {symbol.name: symbol.typical for symbol in symbols}
    longest = {symbol.name: longest_of(symbol) for symbol in symbols}
    shortest = {symbol.name: symbol.minimum for symbol in symbols}
    return distinct(
        (
            Shapes("typical", 1, typical),
            Shapes("batch", max(1, max_batch), typical),
            Shapes("longest", 1, longest),
            Shapes("shortest", 1, shortest),
        )
    )


def distinct(shapes: tuple[Shapes, ...]) -> tuple[Shapes, ...]:
    """Leave out shapes that repeat an earlier one."""
    found: dict[tuple[int, tuple[tuple[str, int], ...]], Shapes] = {}
    for one in shapes:
        found.setdefault((one.batch, tuple(sorted(one.lengths.items()))), one)
    return tuple(found.values())


def sample_file(spec: GraphSpec, item: InputSpec, shapes: Shapes) -> str:
    """Return the name of the file that holds one row of an input for a warm-up sample."""
    axes = row_shape(spec, item)
    return f"{item.name}.{'x'.join(map(str, row_dims(spec, axes, shapes))) or 'scalar'}"


def row_dims(spec: GraphSpec, axes: tuple[str | int, ...], shapes: Shapes) -> list[int]:
    """Return the lengths of one row's axes."""
    sizes = spec.sizes(dict(shapes.lengths))
    return [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
