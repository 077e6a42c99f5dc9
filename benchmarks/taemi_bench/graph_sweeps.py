"""Sweeps of one graph: its batch, its lengths, which inputs are missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from taemi_bench.rows import Row
from taemi_bench.setting import SEED
from taemi_bench.sweep import Pace, PlannedPoint, Sweep
from taemi_bench.timer import describe_failure
from taemi_runtime.draw import draw_inputs
from taemi_runtime.spec import Arrays, GraphSpec, Symbol

BATCHES = (1, 2, 4, 8, 16)
ITEMS = (1, 4, 8, 16, 32)
"""Lengths of the first axis of a graph that has no other: each entry is an item of one sequence."""
SHARES = (16, 8, 4, 2, 1)
"""Lengths of an axis: its limit by these."""
UNBOUNDED = 4
"""An axis without a limit is swept to so many times its typical length."""
PRESENCE = "presence"
LENGTH_SECONDS, OTHER_SECONDS = 120.0, 60.0
"""How long a sweep over a length, or over anything else, may take."""
NOTHING = "nothing"


def axes_of(spec: GraphSpec) -> list[str]:
    """Return what can be swept of a graph."""
    return [*(symbol.name for symbol in spec.free_symbols), *([PRESENCE] if spec.presence else [])]


def axis_values(spec: GraphSpec, symbol: Symbol) -> list[int]:
    """Return the lengths at which an axis is measured, in rising order.

    Args:
        spec: The graph.
        symbol: One of its free symbols.
    """
    if symbol.name == spec.inputs[0].shape[0]:
        wanted: Sequence[int] = ITEMS if len(spec.free_symbols) == 1 else BATCHES
    else:
        top = symbol.maximum or UNBOUNDED * symbol.typical
        wanted = [max(1, top // share) for share in SHARES]
    top = symbol.maximum or max(wanted)
    return sorted({min(max(length, symbol.minimum), top) for length in wanted})


def length_sweep(
    spec: GraphSpec, chosen: Mapping[str, int], symbol: Symbol, rows: Sequence[Row], call_seconds: float = 0.0
) -> Sweep:
    """Return the sweep over one axis; the others keep their lengths.

    Args:
        spec: The graph.
        chosen: Lengths of its free symbols, typical ones where unsaid.
        symbol: The axis.
        rows: The graph's rows, open.
        call_seconds: One call of each row together, at the chosen lengths; 0 where that is not known.
    """
    points = []
    for length in axis_values(spec, symbol):
        sizes = {**chosen, symbol.name: length}
        full = spec.sizes(sizes)
        points.append(
            PlannedPoint(
                label=str(length),
                value=float(length),
                sizes=full,
                rows=_rows(rows, lambda sizes=sizes: _draw(spec, sizes)),  # type: ignore[misc]
                items=items_of(spec, full),
                work=float(length),
            )
        )
    is_batch = symbol.name == spec.inputs[0].shape[0] and len(spec.free_symbols) > 1
    seconds = OTHER_SECONDS if is_batch else LENGTH_SECONDS
    pace = Pace(call_seconds, float(spec.sizes(chosen)[symbol.name]))
    return Sweep(spec.name, symbol.name, points, seconds, pace)


def presence_sweep(spec: GraphSpec, chosen: Mapping[str, int], rows: Sequence[Row]) -> Sweep:
    """Return the sweep over everything that may be missing; a missing input is as short as it may be.

    Args:
        spec: The graph, which has a presence input.
        chosen: Lengths of its free symbols, typical ones where unsaid.
        rows: The graph's rows, open.
    """
    points = []
    for flags in conditions(spec):
        sizes = without(spec, chosen, flags)
        full = spec.sizes(sizes)
        count = items_of(spec, full)
        present = [flags] * count

        def draw(sizes: dict[str, int] = sizes, present: list[tuple[bool, ...]] = present) -> Arrays:
            return _draw(spec, sizes, present)

        points.append(PlannedPoint(condition_name(spec, flags), None, full, _rows(rows, draw), items=count))
    note = {"missing": "a missing input has the shortest length that the graph takes"}
    return Sweep(spec.name, PRESENCE, points, OTHER_SECONDS, notes=note)


def items_of(spec: GraphSpec, sizes: Mapping[str, int]) -> int:
    """Return how many items a call of such sizes computes: the length of the first axis."""
    first = spec.inputs[0].shape[0]
    return sizes[first] if isinstance(first, str) else 1


def conditions(spec: GraphSpec) -> list[tuple[bool, ...]]:
    """Return every combination of presence flags, most present first."""
    flags = spec.presence
    columns = len(flags.governs) if flags is not None else 0
    return sorted(itertools.product((True, False), repeat=columns), key=lambda some: -sum(some))


def condition_name(spec: GraphSpec, flags: Sequence[bool]) -> str:
    """Name a combination by the inputs that are present."""
    governs = spec.presence.governs if spec.presence is not None else ()
    there = [name for names, flag in zip(governs, flags, strict=True) if flag for name in names]
    return "+".join(there) or NOTHING


def without(spec: GraphSpec, chosen: Mapping[str, int], flags: Sequence[bool]) -> dict[str, int]:
    """Return lengths with every axis that only missing inputs have at its minimum."""
    governs = spec.presence.governs if spec.presence is not None else ()
    missing = {name for names, flag in zip(governs, flags, strict=True) if not flag for name in names}
    free = {symbol.name: symbol for symbol in spec.free_symbols}
    # A mask has its input's axes.
    kept = {axis for item in spec.inputs if (item.masks or item.name) not in missing for axis in item.shape}
    short = {
        axis: free[axis].minimum
        for item in spec.inputs
        if item.name in missing
        for axis in item.shape
        if isinstance(axis, str) and axis in free and axis not in kept
    }
    return {**chosen, **short}


def _draw(
    spec: GraphSpec, sizes: Mapping[str, int], present: Sequence[Sequence[bool]] | None = None
) -> Arrays:
    return draw_inputs(spec, sizes, seed=SEED, present=present, ragged=False, poison=False)


def _rows(rows: Sequence[Row], draw: Callable[[], Arrays]) -> Callable[[], list[Row]]:
    return lambda: [bound(row, inputs) for inputs in [draw()] for row in rows]


def bound(row: Row, inputs: Arrays) -> Row:
    """Return a row that runs on other inputs and closes nothing."""
    if row.run is None or row.bind is None:
        return row
    try:
        return replace(row, run=row.bind(inputs), close=_close_nothing)
    except Exception as error:  # the row's, whatever library it comes from
        return replace(row, run=None, why=describe_failure(error), close=_close_nothing)


def _close_nothing() -> None:
    """Leave the engine open for the next point."""
