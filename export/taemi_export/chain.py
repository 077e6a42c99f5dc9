"""The whole chain: other graphs' outputs feed the first graph, and its scores are compared.

int8 moves an encoder's features by a few percent, which says nothing about the scores. So the same rows go
through the fp32 graphs, which were verified against PyTorch, and through the graphs of another precision
where there are any, and the first graph's outputs are compared within every combination of presence flags.

Which output feeds which input is known by name; its mask is the one that shares the output's second axis.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from taemi_export.compare import pearson
from taemi_export.sizes import presence_patterns
from taemi_runtime.draw import draw_inputs
from taemi_runtime.manifest import ChainParity
from taemi_runtime.spec import Array, Arrays, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

ROWS = 256
"""Rows within each presence combination."""
_CHUNK = 32
_SEED = 20_260
# Rows are short, so that 256 of them take seconds with encoders of the published sizes: what quantisation
# does to a value does not depend on the length of its sequence.
_SHORT = 8
_POOL_ELEMENTS = 8 * 2**20

Run = Callable[[str, Arrays], dict[str, Array]]
"""Runs a graph by name."""


@dataclass(frozen=True)
class Link:
    """An output of one graph that is an input of the first."""

    graph: str
    output: OutputSpec
    input: InputSpec

    @property
    def as_frames(self) -> bool:
        """Whether rows of the output are elements of a sequence of the input, and not whole rows."""
        return len(self.output.shape) + 1 == len(self.input.shape)


def find_links(graphs: Mapping[str, GraphSpec]) -> list[Link]:
    """Find which outputs feed the first graph.

    Args:
        graphs: Every graph by name, the one that gives the scores first.
    """
    first, *others = graphs.values()
    data = {item.name: item for item in first.inputs if item.role == "data"}
    links = []
    for spec in others:
        for output in spec.outputs:
            target = data.get(output.name)
            if target is None or output.dtype != target.dtype or output.shape[-1:] != target.shape[-1:]:
                continue
            if len(target.shape) - len(output.shape) in (0, 1):
                links.append(Link(spec.name, output, target))
    return links


@dataclass(frozen=True)
class Rows:
    """The first graph's inputs, as one precision of the other graphs makes them.

    Args:
        inputs: Linked inputs and their masks by name, [ROWS, ...].
        lengths: Length of every row, valid or not, by symbol of the first graph.
    """

    inputs: dict[str, Array]
    lengths: dict[str, int]


def encode_rows(graphs: Mapping[str, GraphSpec], run: Run) -> Rows:
    """Draw seeded inputs for every linked graph, and run it.

    Args:
        graphs: Every graph by name, the first one first.
        run: Runs the other graphs.
    """
    first = next(iter(graphs.values()))
    found: dict[str, Array] = {}
    lengths: dict[str, int] = {}
    links = find_links(graphs)
    for name in dict.fromkeys(link.graph for link in links):
        spec = graphs[name]
        mine = [link for link in links if link.graph == name]
        pool, masks = _run_pool(spec, mine, functools.partial(run, name))
        for link in mine:
            values = pool[link.output.name]
            mask = masks.get(link.output.name)
            # By graph: outputs of one row stay together, rows of two graphs meet in many ways.
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            if link.as_frames:
                axis = link.input.shape[1]
                length = axis if isinstance(axis, int) else min(_SHORT, first.symbol(axis).typical)
                values = values[rng.integers(0, len(values), size=(ROWS, length))]
            elif len(values) < ROWS:
                order = rng.permutation(np.resize(np.arange(len(values)), ROWS))
                values, mask = values[order], None if mask is None else mask[order]
            _place(first, link, values, mask, found, lengths)
    return Rows(found, lengths)


def _run_pool(
    spec: GraphSpec, links: list[Link], run: Callable[[Arrays], dict[str, Array]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run a graph on as many rows as are affordable, 256 at most."""
    batch = spec.inputs[0].shape[0]
    sizes = {symbol.name: _short(symbol) for symbol in spec.free_symbols if symbol.name != batch}
    chunk = batch if isinstance(batch, int) else min(_CHUNK, spec.symbol(batch).maximum or _CHUNK)
    one = {**sizes, batch: 1} if isinstance(batch, str) else sizes
    elements = sum(int(np.prod(spec.shape(item, spec.sizes(one)))) for item in spec.inputs)
    rows = max(_CHUNK, min(ROWS, _POOL_ELEMENTS // max(1, elements)))
    outputs: dict[str, list[Array]] = {link.output.name: [] for link in links}
    masks: dict[str, list[Array]] = {}
    for start in range(0, rows, chunk):
        count = {batch: min(chunk, rows - start)} if isinstance(batch, str) else {}
        inputs = draw_inputs(spec, {**sizes, **count}, seed=_SEED + start, ragged=True, poison=False)
        got = run(inputs)
        for link in links:
            outputs[link.output.name].append(got[link.output.name])
            mask = _mask_of(spec, link.output)
            if mask is not None:
                masks.setdefault(link.output.name, []).append(inputs[mask.name].astype(bool))
    return (
        {name: np.concatenate(parts) for name, parts in outputs.items()},
        {name: np.concatenate(parts) for name, parts in masks.items()},
    )


def chain_sizes(graphs: Mapping[str, GraphSpec]) -> dict[str, dict[str, int]]:
    """Return the lengths at which the chain's other graphs run, graph by graph."""
    names = dict.fromkeys(link.graph for link in find_links(graphs))
    return {
        name: {
            symbol.name: _short(symbol)
            for symbol in graphs[name].free_symbols
            if symbol.name != graphs[name].inputs[0].shape[0]
        }
        for name in names
    }


def _short(symbol: Symbol) -> int:
    return max(symbol.minimum, min(symbol.typical, max(_SHORT, symbol.typical // 8)))


def _mask_of(spec: GraphSpec, output: OutputSpec) -> InputSpec | None:
    if len(output.shape) < 3:
        return None
    return next(
        (item for item in spec.inputs if item.role == "mask" and item.shape[1] == output.shape[1]), None
    )


def _place(
    first: GraphSpec,
    link: Link,
    values: Array,
    mask: Array | None,
    found: dict[str, Array],
    lengths: dict[str, int],
) -> None:
    """Put rows where the first graph wants them, padded where its axis has a fixed length."""
    values = values[:ROWS]
    target = first.mask_of(link.input.name)
    if len(link.input.shape) < 3:
        found[link.input.name] = values
        return
    axis = link.input.shape[1]
    length = axis if isinstance(axis, int) else values.shape[1]
    valid = np.ones(values.shape[:2], bool) if mask is None else mask[:ROWS]
    if mask is None and values.shape[1] > 1:
        ends = np.random.default_rng(_SEED).integers(1, values.shape[1] + 1, size=ROWS)
        valid = np.arange(values.shape[1])[None, :] < ends[:, None]
    widths = [(0, 0), (0, length - values.shape[1])]
    found[link.input.name] = np.pad(values, [*widths, *[(0, 0)] * (values.ndim - 2)])
    if target is not None:
        found[target.name] = np.pad(valid, widths).astype(target.dtype)
    if isinstance(axis, str):
        lengths[axis] = length


def score_rows(spec: GraphSpec, rows: Rows, run: Run) -> Iterator[tuple[tuple[bool, ...], Array]]:
    """Run the first graph on every row, once for every combination of presence flags.

    Args:
        spec: The first graph.
        rows: Its inputs.
        run: Runs it.

    Yields:
        The flags, and its first output [ROWS, ...] float64. With no presence input: once, without flags.
    """
    batch = spec.inputs[0].shape[0]
    chunk = batch if isinstance(batch, int) else min(_CHUNK, spec.symbol(batch).maximum or _CHUNK)
    for pattern in presence_patterns(spec) or [()]:
        parts = []
        for start in range(0, ROWS, chunk):
            sizes = {**rows.lengths, **({batch: chunk} if isinstance(batch, str) else {})}
            inputs = draw_inputs(
                spec,
                {name: size for name, size in sizes.items() if name in {s.name for s in spec.free_symbols}},
                seed=_SEED + start,
                present=[pattern] * chunk if pattern else None,
                ragged=True,
                poison=False,
            )
            # A last chunk beyond the rows starts earlier, and only what is new of it is kept.
            begin = min(start, ROWS - chunk)
            inputs |= {name: array[begin : begin + chunk] for name, array in rows.inputs.items()}
            parts.append(run(spec.name, inputs)[spec.outputs[0].name][start - begin :])
        yield pattern, np.concatenate(parts).astype(np.float64)


def compare_chains(
    expected: Mapping[tuple[bool, ...], Array], got: Mapping[tuple[bool, ...], Array]
) -> tuple[ChainParity, ...]:
    """Compare the scores of two chains, combination by combination.

    Args:
        expected: The fp32 chain's scores by presence flags, [rows, ..., columns].
        got: The other chain's.
    """
    found = []
    for pattern, scores in expected.items():
        a, b = got[pattern], scores
        distance = np.abs(a - b)
        distance = np.where(np.isnan(distance), np.inf, distance)
        columns = [pearson(a[..., column].ravel(), b[..., column].ravel()) for column in range(b.shape[-1])]
        known = [value for value in columns if value is not None]
        rho = float(np.mean(known)) if known else None
        found.append(ChainParity(pattern, len(b), float(distance.mean()), float(distance.max()), rho))
    return tuple(found)


def chain_failures(gate: Gate, chain: tuple[ChainParity, ...]) -> list[str]:
    """Say which combinations break the gate, with both values."""
    found = []
    for item in chain:
        flags = "".join("1" if flag else "0" for flag in item.present) or "all rows"
        if gate.max_abs is not None and not item.max_abs <= gate.max_abs:
            found.append(f"presence {flags}: max {item.max_abs:.3g} > {gate.max_abs:g}")
        if gate.mean_abs is not None and not item.mean_abs <= gate.mean_abs:
            found.append(f"presence {flags}: mean {item.mean_abs:.3g} > {gate.mean_abs:g}")
        if gate.min_rho is not None and item.rho is not None and not item.rho >= gate.min_rho:
            found.append(f"presence {flags}: rho {item.rho:.5f} < {gate.min_rho:g}")
    return found
