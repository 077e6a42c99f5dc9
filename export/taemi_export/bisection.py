"""Find the first block of a graph whose error jumps when it computes in half precision.

Two runs, one in float32 and one with real rounding, are compared at the borders between blocks. Numbers
are compared, not only looked at for NaN: a variance that overflows makes a normalised row zero, which is
finite, plausible and wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taemi_export.overflow import with_outputs
from taemi_export.rounding import RoundedGraph, run_session, run_values
from taemi_export.values import value_types
from taemi_runtime.spec import Array, Arrays

if TYPE_CHECKING:
    import onnx

JUMP = 16.0
"""A block's error is a jump when it is this many times the largest error before it. Errors of sound
blocks add up along a graph, each by a rounding or a few."""
HALF_STEP = 2.0**-11
"""Half a unit in the last place at 1: the error that one rounding to half precision makes."""
_UNNAMED = 8
"""Nodes without named weights are taken in blocks of this many."""
_START = "inputs"


@dataclass(frozen=True)
class Block:
    """A run of nodes that belong together.

    Args:
        name: The module whose weights they read, down to the first number: ``encoder.layers.3``.
        nodes: Their names in graph order.
    """

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Jump:
    """Where an error jumps.

    Args:
        block: The block.
        before: Largest relative error before it.
        error: Its own relative error; infinite where float32 has a number and half precision has none.
        node: The first node inside it whose error jumps.
        value: What that node gives.
    """

    block: Block
    before: float
    error: float
    node: str
    value: str

    def __str__(self) -> str:
        return (
            f"the error jumps in block {self.block.name}, from {self.before:.1e} to {self.error:.1e}, "
            f"first at node {self.node}"
        )


def split_blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """Cut a graph into blocks by the names of the weights that its nodes read."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    # A weight that several nodes read, e.g. equal zeros that were merged, says nothing of where it is read.
    weights = {tensor.name for tensor in model.graph.initializer if uses[tensor.name] == 1}
    label, run = _START, 0
    blocks: list[tuple[str, list[str]]] = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        own = next((_module(name) for name in node.input if name in weights and "." in name), None)
        run = 0 if own is not None else run + 1
        if own is not None:
            label = own
        elif label in (_START, "") and run > _UNNAMED:
            label, run = "", 1
        fresh = label == "" and run == 1
        if not blocks or blocks[-1][0] != label or fresh:
            blocks.append((label, []))
        blocks[-1][1].append(node.name)
    named = []
    seen: Counter[str] = Counter()
    for name, nodes in blocks:
        full = name or (nodes[0] if len(nodes) == 1 else f"{nodes[0]} to {nodes[-1]}")
        seen[full] += 1
        # A module that is called again, or whose nodes stand apart, is a block of its own each time.
        named.append(Block(full if seen[full] == 1 else f"{full} ({seen[full]})", tuple(nodes)))
    return tuple(named)


def _module(weight: str) -> str:
    parts = weight.removesuffix(".T").split(".")
    for at, part in enumerate(parts[:-1]):
        if part.isdigit():
            return ".".join(parts[: at + 1])
    return ".".join(parts[:-1])


def find_jump(
    single: onnx.ModelProto,
    half: onnx.ModelProto,
    blocks: Sequence[Block],
    inputs: Arrays,
    passed: frozenset[str] = frozenset(),
) -> Jump | None:
    """Find the first block whose error jumps.

    Args:
        single: The float32 graph.
        half: The graph made from it, in mixed precision; inner values have the same names.
        blocks: How to cut it.
        inputs: One call's inputs, in float32.
        passed: Names of blocks that are in float32 already and cannot be the answer.

    Returns:
        The jump; where no block jumps by [JUMP][] the one that adds most; ``None`` when nothing
        differs, or nothing is left to name.
    """
    values = {block.name: _borders(single, block, blocks) for block in blocks}
    errors = _errors(single, half, [name for names in values.values() for name in names], inputs)
    best: tuple[float, Block, float, float] | None = None
    before = HALF_STEP
    for block in blocks:
        error = max((errors[name] for name in values[block.name]), default=0.0)
        if block.name not in passed and error > 0:
            ratio = error / before
            if best is None or ratio > best[0]:
                best = (ratio, block, before, error)
            if ratio > JUMP:
                break
        if np.isfinite(error):
            before = max(before, error)
    if best is None:
        return None
    _, block, before, error = best
    node, value = _first_node(single, half, block, inputs, before)
    return Jump(block, before, error, node, value)


def _floats(model: onnx.ModelProto) -> set[str]:
    import onnx

    return {name for name, kind in value_types(model).items() if kind == onnx.TensorProto.FLOAT}


def _borders(model: onnx.ModelProto, block: Block, blocks: Sequence[Block]) -> list[str]:
    """Return the float values that leave a block."""
    inside = set(block.nodes)
    floats = _floats(model)
    outside = {name for node in model.graph.node if node.name not in inside for name in node.input}
    outside |= {value.name for value in model.graph.output}
    return [
        name
        for node in model.graph.node
        if node.name in inside
        for name in node.output
        if name in floats and name in outside
    ]


def _first_node(
    single: onnx.ModelProto, half: onnx.ModelProto, block: Block, inputs: Arrays, before: float
) -> tuple[str, str]:
    """Return the first node of a block, and its value, whose error jumps; else the largest error's."""
    floats = _floats(single)
    inside = set(block.nodes)
    places = [
        (node.name, name)
        for node in single.graph.node
        if node.name in inside
        for name in node.output
        if name in floats
    ]
    errors = _errors(single, half, [value for _, value in places], inputs)
    jumping = [(node, value) for node, value in places if errors[value] > JUMP * before]
    return jumping[0] if jumping else max(places, key=lambda place: errors[place[1]])


def _errors(
    single: onnx.ModelProto, half: onnx.ModelProto, names: list[str], inputs: Arrays
) -> dict[str, float]:
    """Return the relative error of inner values: ||half - single|| / ||single||."""
    session = run_session(with_outputs(single, names, value_types(single)))
    expected = run_values(session, inputs, names)
    got = RoundedGraph(half, names).run(inputs, names)
    return {name: relative_error(got[name], expected[name]) for name in names}


def relative_error(got: Array, expected: Array) -> float:
    """Return ||got - expected|| / ||expected||; infinite where only ``got`` is not finite.

    Where ``expected`` is not finite itself, e.g. in a mask, the element is left out.
    """
    finite = np.isfinite(expected)
    if not np.isfinite(got[finite]).all():
        return float("inf")
    a, b = got[finite].astype(np.float64), expected[finite].astype(np.float64)
    distance, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if size == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / size
