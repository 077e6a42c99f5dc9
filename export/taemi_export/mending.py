"""Convert a graph to half precision, measure it with real rounding, and mend it where it fails.

Measured against PyTorch's outputs on the bundle's reference cases. When a gate fails, or a value
overflows, the first block whose error jumps is put back into float32 and the graph is measured again,
until it passes or nothing is left to put back. Blocks that turn out not to need it return to half precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_export.bisection import Block, Jump, find_jump, split_blocks
from taemi_export.compare import Difference, compare_output
from taemi_export.conversion import HalfGraph, convert_to_half, name_nodes
from taemi_export.keep_list import DEFAULT_KEEP, KeepList
from taemi_export.overflow import Overflow, find_overflow
from taemi_export.report import OutputResult, worst_of
from taemi_export.rounding import RoundedGraph
from taemi_export.sizes import Case
from taemi_runtime.console import Tick
from taemi_runtime.errors import ParityError
from taemi_runtime.spec import Array, Gate, GraphSpec

if TYPE_CHECKING:
    import onnx

PRECISION = "fp16"
DEFAULT_GATE = Gate(max_abs=2e-2, mean_abs=2e-3, min_cosine=0.9995, relative=True)
"""For a GraphSpec without a gate of its own: half precision has 11 bits, a dozen layers lose two of them."""
MAX_MENDS = 16
SMALL_BYTES = 64 * 10**6
"""Weights up to which every case is searched for overflow; beyond it the first case alone."""


@dataclass(frozen=True)
class Call:
    """One reference case with its arrays.

    Args:
        case: The case.
        inputs: Its inputs, in float32.
        expected: PyTorch's outputs.
    """

    case: Case
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Mend:
    """One block that was put back into float32.

    Args:
        block: The block.
        found: What was wrong, with both values.
    """

    block: str
    found: str

    def __str__(self) -> str:
        return f"block {self.block} computes in float32: {self.found}"


@dataclass(frozen=True)
class Mended:
    """A half-precision graph that passes.

    Args:
        graph: The graph.
        outputs: How far each output is from PyTorch's.
        mends: The blocks that were put back into float32, in the order in which they were found.
        cases: How many cases were compared.
    """

    graph: HalfGraph
    outputs: tuple[OutputResult, ...]
    mends: tuple[Mend, ...]
    cases: int


def convert_and_mend(
    model: onnx.ModelProto,
    spec: GraphSpec,
    calls: Sequence[Call],
    *,
    keep: KeepList = DEFAULT_KEEP,
    half_inputs: bool = True,
    half_outputs: Collection[str] = (),
    tick: Tick | None = None,
) -> Mended:
    """Convert a graph and put blocks back into float32 until it passes.

    Args:
        model: The float32 graph.
        spec: Its description, with the gate for ``fp16`` if it has one.
        calls: The reference cases.
        keep: What stays in float32 from the start.
        half_inputs: Whether features come in half precision.
        half_outputs: Outputs that are given in half precision; see ``convert_to_half``.
        tick: Called with (step, done, total).

    Raises:
        ParityError: It fails with everything in float32 that the search could name, or passes only then.
    """
    gate = spec.gates.get(PRECISION, DEFAULT_GATE)
    model = name_nodes(model)
    blocks: tuple[Block, ...] = ()
    mends: list[Mend] = []

    def attempt(chosen: Sequence[Mend]) -> tuple[HalfGraph, tuple[OutputResult, ...], tuple[Overflow, ...]]:
        extra = {f"error jumps in block {mend.block}": _computing(model, blocks, mend) for mend in chosen}
        graph = convert_to_half(
            model, spec, keep=keep, extra_fp32=extra, half_inputs=half_inputs, half_outputs=half_outputs
        )
        differences, overflows = _measure(graph.model, model, spec, gate, calls, tick)
        outputs = tuple(worst_of(name, items, gate) for name, items in differences.items())
        return graph, outputs, overflows

    while True:
        graph, outputs, overflows = attempt(mends)
        failing = next((item for item in outputs if not item.passed), None)
        if failing is None and not overflows:
            break
        blocks = blocks or split_blocks(model)
        passed = frozenset(mend.block for mend in mends)
        mend = _blame(model, graph.model, blocks, passed, failing, overflows, calls)
        if mend is None or len(mends) == MAX_MENDS:
            raise _failure(spec, gate, failing, overflows, mends)
        mends.append(mend)
    # An error that begins small in one block and grows in others is found where it grows: once the block in
    # which it begins is in float32, too, those others may not need it. The last one was the one that helped.
    for mend in mends[:-1]:
        fewer = [other for other in mends if other is not mend]
        tried = attempt(fewer)
        if all(item.passed for item in tried[1]) and not tried[2]:
            mends = fewer
            graph, outputs, _ = tried
    if mends and not graph.counts.get("float16"):
        raise ParityError(
            f"graph {spec.name!r} cannot be converted to half precision",
            f"it holds its gate only with every block in float32 ({'; '.join(map(str, mends))})",
            _instead(spec),
        )
    return Mended(graph, outputs, tuple(mends), len(calls))


def _measure(
    half: onnx.ModelProto,
    single: onnx.ModelProto,
    spec: GraphSpec,
    gate: Gate,
    calls: Sequence[Call],
    tick: Tick | None,
) -> tuple[dict[str, list[Difference]], tuple[Overflow, ...]]:
    differences: dict[str, list[Difference]] = {item.name: [] for item in spec.outputs}
    rounded = RoundedGraph(half)
    for number, call in enumerate(calls):
        if tick is not None:
            tick(f"round {spec.name}", number, len(calls))
        got = rounded.run(call.inputs)
        for item in spec.outputs:
            # As an engine gives it on the host, also where the graph ends in half precision.
            values = got[item.name].astype(item.dtype, copy=False)
            differences[item.name].append(
                compare_output(spec, item, call.case, call.inputs, values, call.expected[item.name])
            )
        if not all(items[-1].passes(gate) for items in differences.values()):
            break  # there is something to mend: the other cases come when it is mended
    else:
        del rounded
        small = half.ByteSize() <= SMALL_BYTES
        searched = [call.inputs for call in (calls if small else calls[:1])]
        return differences, find_overflow(half, single, searched)
    return differences, ()


def _blame(
    single: onnx.ModelProto,
    half: onnx.ModelProto,
    blocks: Sequence[Block],
    passed: frozenset[str],
    failing: OutputResult | None,
    overflows: Sequence[Overflow],
    calls: Sequence[Call],
) -> Mend | None:
    if failing is not None:
        call = next(item for item in calls if item.case.name == failing.worst.case.name)
        jump = find_jump(single, half, blocks, call.inputs, passed)
        return None if jump is None else Mend(jump.block.name, _describe(jump, failing))
    first = overflows[0]
    for block in blocks:
        if block.name not in passed and (first.node in block.nodes or _feeds(half, first, block)):
            return Mend(block.name, str(first))
    return None


def _feeds(half: onnx.ModelProto, overflow: Overflow, block: Block) -> bool:
    """Whether a conversion to half precision, which overflowed, was made for a block."""
    return any(node.name in block.nodes for node in half.graph.node if overflow.value in node.input)


def _describe(jump: Jump, failing: OutputResult) -> str:
    return (
        f"{jump} ({failing.output} was off by up to {failing.max_abs:.1e} in case {failing.worst.case.name})"
    )


def _computing(model: onnx.ModelProto, blocks: Sequence[Block], mend: Mend) -> tuple[str, ...]:
    """Return the nodes of a mended block that can compute in one precision or the other."""
    inside = set(next(block.nodes for block in blocks if block.name == mend.block))
    return tuple(node.name for node in model.graph.node if node.name in inside)


def _failure(
    spec: GraphSpec,
    gate: Gate,
    failing: OutputResult | None,
    overflows: Sequence[Overflow],
    mends: Sequence[Mend],
) -> ParityError:
    tried = "; ".join(map(str, mends)) or "no block stands out"
    found = str(overflows[0]) if failing is None else "; ".join(_breaches(failing, gate))
    return ParityError(
        f"graph {spec.name!r} cannot be converted to half precision",
        f"{found}. Tried: {tried}",
        _instead(spec),
    )


def _instead(spec: GraphSpec) -> str:
    return (
        f"Run this graph in fp32: taemi-export tensorrt BUNDLE --graph {spec.name} --precision fp32; "
        "name the others with --graph to build them in fp16"
    )


def _breaches(failing: OutputResult, gate: Gate) -> Iterator[str]:
    for breach in failing.worst.failures(gate):
        yield f"{failing.output} in case {failing.worst.case.name}: {breach}"
