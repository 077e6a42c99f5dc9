"""At which lengths a graph is traced, and at which it is checked.

Both are derived from the GraphSpec alone, the same way on every machine.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from taemi_runtime.errors import ExportError, InputError
from taemi_runtime.spec import GraphSpec, Symbol

# One case costs at most this many input elements (8 Mi float32 values are 32 MB), so that a check of
# every engine stays a matter of seconds to a few minutes on two cores.
MAX_INPUT_ELEMENTS = 8 * 2**20
MAX_ROWS = 8
MOST_ROWS = 32
"""The largest batch of the default optimisation profiles; tried at the shortest lengths."""
_MOST_ELEMENTS = 2**21
"""Where that many rows would be larger, as images are, fewer do: each costs a whole encoder's run."""
RAGGED_ROWS = 3
MAX_PRESENCE_COLUMNS = 6


@dataclass(frozen=True)
class Case:
    """One call that an engine must answer as PyTorch does.

    Args:
        name: What the case tries, unique in its graph.
        sizes: Lengths of the free symbols.
        seed: Seed of the drawn inputs.
        present: [batch][columns] presence flags; ``None`` where everything is present.
        ragged: Whether rows have different valid lengths, with poison in the padding.
        inputs_sha256: Digest of the drawn inputs; empty until they have been drawn.
    """

    name: str
    sizes: dict[str, int]
    seed: int
    present: tuple[tuple[bool, ...], ...] | None = None
    ragged: bool = False
    inputs_sha256: str = ""


def trace_sizes(spec: GraphSpec) -> dict[str, int]:
    """Choose the lengths at which a graph is traced.

    Each symbol gets its own prime near its typical length, no smaller than 2 and different from
    every other length in the graph: tracing treats 0 and 1 as special, and takes two axes of equal
    length for one and the same.

    Returns:
        Lengths of the free symbols.

    Raises:
        ExportError: An axis that the spec calls dynamic cannot be traced at 2 or more.
    """
    shapes = [*(item.shape for item in spec.inputs), *(item.shape for item in spec.outputs)]
    fixed = {axis for shape in shapes for axis in shape if isinstance(axis, int)}
    chosen: dict[str, int] = {}
    taken = set(fixed)
    for symbol in spec.free_symbols:
        followers = [other for other in spec.symbols if other.source == symbol.name]
        for length in _near_typical(symbol):
            lengths = [length, *(follower.derive(length) for follower in followers)]
            if min(lengths) >= 2 and len(set(lengths)) == len(lengths) and not taken & set(lengths):
                chosen[symbol.name] = length
                taken.update(lengths)
                break
        else:
            raise ExportError(
                f"cannot trace graph {spec.name!r} with a dynamic axis {symbol.name!r}",
                f"no length from {symbol.minimum} to {symbol.maximum} is at least 2 and different from "
                f"every other length of the graph ({sorted(taken)})",
                "Widen the axis in the GraphSpec, or write a fixed number for it",
            )
    return chosen


def _near_typical(symbol: Symbol) -> Iterator[int]:
    low = max(2, symbol.minimum)
    high = symbol.maximum if symbol.maximum is not None else max(64, 2 * symbol.typical)
    everything = sorted(range(low, high + 1), key=lambda length: abs(length - symbol.typical))
    return itertools.chain(filter(_is_prime, everything), everything)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))


def plan_cases(spec: GraphSpec, max_bytes: int) -> tuple[Case, ...]:
    """Choose the calls that every engine of a graph is checked with.

    They cover one clip and several, the shortest, typical, odd and longest lengths, rows of different
    lengths with poison in the padding, and every combination of the presence flags.

    Args:
        spec: The graph.
        max_bytes: How much space the stored outputs may take.

    Returns:
        Cases in order of importance; optional ones are left out where they cost too much.

    Raises:
        ExportError: Not even the indispensable cases fit.
    """
    cases: list[Case] = []
    left = max_bytes
    for case, needed in _candidates(spec):
        fitting = _fit(spec, case, left) if needed else case
        if fitting is None:
            raise ExportError(
                f"cannot choose reference cases for graph {spec.name!r}",
                f"case {case.name!r} takes more than the {left} bytes left for stored outputs",
                "Give the graph's axes a smaller minimum, or fewer presence columns",
            )
        if not _affordable(spec, fitting, left) or any(_same(fitting, other) for other in cases):
            continue
        left -= _output_bytes(spec, fitting)
        cases.append(fitting)
    return tuple(cases)


def _candidates(spec: GraphSpec) -> Iterator[tuple[Case, bool]]:
    rows = spec.inputs[0].shape[0]
    lengths = [symbol for symbol in spec.free_symbols if symbol.name != rows]
    typical = {symbol.name: symbol.typical for symbol in lengths}
    shortest = {symbol.name: symbol.minimum for symbol in lengths}
    longest = {symbol.name: symbol.maximum or 2 * symbol.typical for symbol in lengths}
    # A third and two thirds: lengths that were neither traced nor tuned for.
    some = {symbol.name: max(symbol.minimum, symbol.typical // 3) for symbol in lengths}
    odd = {symbol.name: max(symbol.minimum, 2 * symbol.typical // 3 + 1) for symbol in lengths}

    yield _case(spec, "typical", 1, typical), True
    yield _case(spec, "shortest", 1, shortest), True
    yield _case(spec, "ragged", RAGGED_ROWS, typical, ragged=True), True
    for name, present in _patterns(spec):
        yield _case(spec, name, len(present), some, present=present, ragged=True), True
    for name, present in _patterns(spec):
        yield _case(spec, f"{name}-shortest", len(present), shortest, present=present), True
    if len(lengths) > 1:
        for symbol in lengths:
            uneven = {**typical, symbol.name: symbol.minimum}
            yield _case(spec, f"shortest-{symbol.name}", 2, uneven, ragged=True), False
    yield _case(spec, "longest", 1, longest), False
    yield _case(spec, "odd", 2, odd, ragged=True), False
    if isinstance(rows, str):
        yield _case(spec, "rows", min(spec.symbol(rows).typical, MAX_ROWS), some, ragged=True), False
        yield _case(spec, "most-rows", _most_rows(spec, shortest, rows), shortest, ragged=True), False


def _most_rows(spec: GraphSpec, lengths: dict[str, int], axis: str) -> int:
    one = spec.sizes({**lengths, axis: spec.symbol(axis).minimum})
    elements = sum(math.prod(spec.shape(item, one)) for item in spec.inputs)
    return MOST_ROWS if MOST_ROWS * elements <= _MOST_ELEMENTS else MAX_ROWS


def _case(
    spec: GraphSpec,
    name: str,
    rows: int,
    lengths: dict[str, int],
    *,
    present: tuple[tuple[bool, ...], ...] | None = None,
    ragged: bool = False,
) -> Case:
    axis = spec.inputs[0].shape[0]
    sizes = dict(lengths)
    if isinstance(axis, str):
        sizes = {axis: _clamp(spec.symbol(axis), rows), **sizes}
    # A seed that follows from the names stays the same when cases are added.
    return Case(name, sizes, zlib.crc32(f"{spec.name}/{name}".encode()), present, ragged)


def _clamp(symbol: Symbol, length: int) -> int:
    high = symbol.maximum if symbol.maximum is not None else length
    return max(symbol.minimum, min(length, high))


def presence_patterns(spec: GraphSpec) -> list[tuple[bool, ...]]:
    """Return every combination of a graph's presence flags; none where it has no such input."""
    if spec.presence is None:
        return []
    columns = len(spec.presence.governs)
    if columns <= MAX_PRESENCE_COLUMNS:
        return list(itertools.product((True, False), repeat=columns))
    # Beyond that: all, none, each alone and each missing.
    alone = [tuple(at == column for at in range(columns)) for column in range(columns)]
    missing = [tuple(not flag for flag in pattern) for pattern in alone]
    return [(True,) * columns, (False,) * columns, *alone, *missing]


def _patterns(spec: GraphSpec) -> Iterator[tuple[str, tuple[tuple[bool, ...], ...]]]:
    """Yield every combination of presence flags, cut into batches that the graph takes."""
    flags = spec.presence
    patterns = presence_patterns(spec)
    if flags is None:
        return
    axis = flags.shape[0]
    size = axis if isinstance(axis, int) else _clamp(spec.symbol(axis), len(patterns))
    for number, start in enumerate(range(0, len(patterns), size)):
        part = patterns[start : start + size]
        part += part[-1:] * (size - len(part))
        yield ("presence" if size >= len(patterns) else f"presence-{number}"), tuple(part)


def _fit(spec: GraphSpec, case: Case, max_bytes: int) -> Case | None:
    """Halve the longest axis of a case until it is affordable; never the rows of presence patterns."""
    rows = spec.inputs[0].shape[0]
    while not _affordable(spec, case, max_bytes):
        floor = {symbol.name: symbol.minimum for symbol in spec.free_symbols}
        shrinkable = {
            name: length
            for name, length in case.sizes.items()
            if length > floor[name] and (name != rows or case.present is None)
        }
        if not shrinkable:
            return None
        name = max(shrinkable, key=lambda axis: shrinkable[axis])
        case = replace(case, sizes={**case.sizes, name: max(floor[name], case.sizes[name] // 2)})
    return case


def _affordable(spec: GraphSpec, case: Case, max_bytes: int) -> bool:
    try:
        sizes = spec.sizes(case.sizes)
    except InputError:
        return False
    elements = sum(math.prod(spec.shape(item, sizes)) for item in spec.inputs)
    return elements <= MAX_INPUT_ELEMENTS and _output_bytes(spec, case) <= max_bytes


def _output_bytes(spec: GraphSpec, case: Case) -> int:
    sizes = spec.sizes(case.sizes)
    return sum(4 * math.prod(spec.shape(item, sizes)) for item in spec.outputs)


def _same(case: Case, other: Case) -> bool:
    """Say whether two cases try the same thing: one row cannot be ragged."""
    return case.sizes == other.sizes and case.present == other.present and case.ragged == other.ragged
