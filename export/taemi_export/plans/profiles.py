"""Optimisation profiles: for which shapes of its inputs a plan is built.

Ranges belong to the symbols of a GraphSpec, not to inputs, so that inputs that share an axis can never be
given ranges that contradict each other, and a mask's axis that follows from its data's is computed. Each
graph gets up to three profiles, because kernels are tuned for one shape each: ``one`` call at a time,
``batch``, and ``long`` inputs one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from taemi_runtime.errors import UsageError
from taemi_runtime.plan_sidecar import PlanProfile, ShapeRange
from taemi_runtime.spec import Axis, GraphSpec, InputSpec, Symbol

DEFAULT_BATCH = "1:8:32"

# Where a family sets no limit to an axis, a plan needs one all the same.
_UNBOUNDED_FACTOR = 2

_OVERRIDE = re.compile(r"([^.=\s]+)\.([^=\s]+)=(\S+)")


@dataclass(frozen=True)
class Range:
    """Smallest, best-tuned and largest length of an axis."""

    minimum: int
    optimum: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    @property
    def triple(self) -> tuple[int, int, int]:
        """The three lengths."""
        return self.minimum, self.optimum, self.maximum


def parse_range(given: str, option: str) -> Range:
    """Read ``MIN:OPT:MAX``.

    Args:
        given: What was given.
        option: The option, for messages.

    Raises:
        UsageError: These are no three ascending positive numbers.
    """
    parts = given.split(":")
    asked = f"cannot use {option} {given}"
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            asked, "it is not MIN:OPT:MAX", f"Give three whole numbers: {option} {DEFAULT_BATCH}"
        )
    return _ordered(asked, *map(int, parts))


def _ordered(asked: str, low: int, best: int, high: int) -> Range:
    if not 1 <= low <= best <= high:
        raise UsageError(
            asked,
            f"minimum {low}, optimum {best} and maximum {high} do not ascend from 1",
            "Give 1 <= MIN <= OPT <= MAX",
        )
    return Range(low, best, high)


def plan_profiles(
    specs: Mapping[str, GraphSpec], *, batch: str | None = None, shapes: Iterable[str] = ()
) -> dict[str, tuple[PlanProfile, ...]]:
    """Return the profiles of every graph.

    Args:
        specs: The graphs by name.
        batch: ``MIN:OPT:MAX`` of every graph's first axis; 1:8:32 within the graph's limits when ``None``.
        shapes: ``GRAPH.INPUT=MIN:OPT:MAX`` each; the three are lengths of the input's dynamic axis (its
            first only where it has no other), or shapes like ``1x299`` or ``1x299x1027``. They go before
            ``batch``.

    Raises:
        UsageError: A range is impossible: it does not ascend, leaves what the graph accepts, names an
            input or a fixed axis wrongly, or two inputs that share an axis disagree.
    """
    chosen: dict[str, dict[str, tuple[Range, str]]] = {name: {} for name in specs}
    for given in shapes:
        _read_override(given, specs, chosen)
    wanted = parse_range(batch, "--batch") if batch is not None else None
    return {name: _profiles(spec, chosen[name], wanted) for name, spec in specs.items()}


def _read_override(
    given: str, specs: Mapping[str, GraphSpec], chosen: dict[str, dict[str, tuple[Range, str]]]
) -> None:
    asked = f"cannot use --shapes {given}"
    match = _OVERRIDE.fullmatch(given)
    if match is None:
        raise UsageError(asked, "it is not GRAPH.INPUT=MIN:OPT:MAX", f"Give e.g. --shapes {_example(specs)}")
    graph, name, values = match.groups()
    if graph not in specs:
        raise UsageError(asked, f"there is no graph {graph!r}", f"Choose from: {', '.join(specs)}")
    spec = specs[graph]
    item = next((item for item in spec.inputs if item.name == name), None)
    if item is None:
        inputs = ", ".join(item.name for item in spec.inputs)
        raise UsageError(asked, f"graph {graph!r} has no input {name!r}", f"Choose from: {inputs}")
    place = f"{graph}.{name}"
    for symbol, found in _symbol_ranges(asked, item, values).items():
        old = chosen[graph].get(symbol)
        if old is not None and old[0] != found:
            raise UsageError(
                asked,
                f"it makes {symbol} {found}, and {old[1]} makes it {old[0]}: they share this axis",
                "Give both the same range, or only one of them",
            )
        chosen[graph][symbol] = (found, place)


def _example(specs: Mapping[str, GraphSpec]) -> str:
    name, spec = next(iter(specs.items()))
    return f"{name}.{spec.inputs[0].name}=1:8:32"


def _symbol_ranges(asked: str, item: InputSpec, values: str) -> dict[str, Range]:
    """Translate the three values given for an input into ranges of its symbols."""
    parts = values.split(":")
    shapes = [given.split("x") for given in parts]
    if len(parts) != 3 or not all(number.isascii() and number.isdigit() for row in shapes for number in row):
        raise UsageError(
            asked,
            f"{values!r} is not MIN:OPT:MAX",
            "Give three lengths, 1:8:32, or three shapes, 1x20:8x20:32x40",
        )
    rows = [[int(number) for number in row] for row in shapes]
    dynamic = [axis for axis in item.shape if isinstance(axis, str)]
    if not dynamic:
        raise UsageError(asked, f"every axis of {_axes(item)} is fixed", "Leave it out")
    ranks = {len(row) for row in rows}
    axes: list[Axis]
    if ranks == {1} and len(item.shape) > 1:
        # The batch has an option of its own: one length means the axis beside it, where there is one.
        axes = [dynamic[1] if len(dynamic) > 1 else dynamic[0]]
    elif ranks == {len(item.shape)}:
        axes = list(item.shape)
    elif ranks == {len(dynamic)}:
        axes = list(dynamic)
    else:
        raise UsageError(
            asked,
            f"its shapes have {' and '.join(map(str, sorted(ranks)))} axes, the input is {_axes(item)}",
            f"Give one length, or {len(dynamic)} or {len(item.shape)} joined by x",
        )
    found = {}
    for place, axis in enumerate(axes):
        lengths = [row[place] for row in rows]
        if isinstance(axis, int):
            if set(lengths) != {axis}:
                raise UsageError(
                    asked,
                    f"axis {place} of {_axes(item)} is fixed, and {':'.join(map(str, lengths))} was given",
                    f"Give {axis} there, or leave fixed axes out",
                )
            continue
        found[axis] = _ordered(f"{asked}: axis {axis}", *lengths)
    return found


def _axes(item: InputSpec) -> str:
    return f"{item.name} [{', '.join(map(str, item.shape))}]"


def _profiles(
    spec: GraphSpec, chosen: Mapping[str, tuple[Range, str]], batch: Range | None
) -> tuple[PlanProfile, ...]:
    first = _first_symbol(spec)
    ranges: dict[str, Range] = {}
    for symbol in spec.free_symbols:
        if symbol.name in chosen:
            ranges[symbol.name], place = chosen[symbol.name]
            _check_limits(f"cannot use --shapes for {place}", symbol, ranges[symbol.name])
        elif symbol.name == first and batch is not None:
            _check_limits(f"cannot use --batch {batch} for graph {spec.name!r}", symbol, batch)
            ranges[symbol.name] = batch
        elif symbol.name == first:
            ranges[symbol.name] = _clamped(symbol, parse_range(DEFAULT_BATCH, "--batch"))
        else:
            highest = symbol.maximum or _UNBOUNDED_FACTOR * symbol.typical
            ranges[symbol.name] = Range(symbol.minimum, symbol.typical, highest)
    _check_derived(spec, chosen, ranges)
    shaped = [(name, _inputs(spec, lengths)) for name, lengths in _variants(first, ranges)]
    # Graphs with one axis, or one length, need fewer: equal profiles would only cost build time.
    unique: list[tuple[str, dict[str, ShapeRange]]] = []
    for name, inputs in shaped:
        if all(inputs != known for _, known in unique):
            unique.append((name, inputs))
    return tuple(PlanProfile(name, inputs) for name, inputs in unique)


def _first_symbol(spec: GraphSpec) -> str | None:
    axis = spec.inputs[0].shape[0]
    return axis if isinstance(axis, str) else None


def _variants(first: str | None, ranges: dict[str, Range]) -> list[tuple[str, dict[str, Range]]]:
    """Return the ranges of each profile: tuned for one call, for a batch, for long inputs one at a time."""
    single = dict(ranges)
    if first is not None:
        lowest = ranges[first].minimum
        single[first] = Range(lowest, lowest, lowest)
    long = {
        name: found if name == first else Range(found.minimum, found.maximum, found.maximum)
        for name, found in single.items()
    }
    return [("one", single), ("batch", dict(ranges)), ("long", long)]


def _inputs(spec: GraphSpec, ranges: Mapping[str, Range]) -> dict[str, ShapeRange]:
    corners = []
    for corner in range(3):
        sizes = {name: found.triple[corner] for name, found in ranges.items()}
        for symbol in spec.symbols:
            if symbol.source is not None:
                sizes[symbol.name] = symbol.derive(sizes[symbol.source])
        corners.append({item.name: spec.shape(item, sizes) for item in spec.inputs})
    return {item.name: ShapeRange(*(corner[item.name] for corner in corners)) for item in spec.inputs}


def _check_limits(asked: str, symbol: Symbol, found: Range) -> None:
    if found.minimum >= symbol.minimum and (symbol.maximum is None or found.maximum <= symbol.maximum):
        return
    top = "any" if symbol.maximum is None else symbol.maximum
    raise UsageError(
        asked,
        f"it makes {symbol.name} {found}, and the graph takes {symbol.minimum} to {top}",
        "Give a range inside",
    )


def _clamped(symbol: Symbol, wanted: Range) -> Range:
    high = min(wanted.maximum, symbol.maximum or wanted.maximum)
    low = max(wanted.minimum, symbol.minimum)
    high = max(low, high)
    return Range(low, min(max(wanted.optimum, low), high), high)


def _check_derived(
    spec: GraphSpec, chosen: Mapping[str, tuple[Range, str]], ranges: Mapping[str, Range]
) -> None:
    """Refuse ranges that were given for an axis that follows from another and would not follow from it."""
    for symbol in spec.symbols:
        if symbol.source is None or symbol.name not in chosen:
            continue
        given, place = chosen[symbol.name]
        follows = Range(*(symbol.derive(length) for length in ranges[symbol.source].triple))
        if given != follows:
            raise UsageError(
                f"cannot use --shapes for {place}",
                f"it makes {symbol.name} {given}, and {follows} follows from {symbol.source} "
                f"{ranges[symbol.source]}",
                f"Set {symbol.source} with --shapes; {symbol.name} then follows by itself",
            )
