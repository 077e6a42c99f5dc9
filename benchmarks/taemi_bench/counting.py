"""Operations and bytes of one call, counted from an ONNX graph at given lengths.

Shapes are those of the call, exactly (``taemi_export.shapes``); what an operator costs at them stands in
``operator_costs``. Nothing is run, and no weight is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_bench.operator_costs import Call, bytes_read, bytes_written, count_work, nbytes, precision_of
from taemi_bench.roofline import GraphCost, OperatorCost
from taemi_export.rules import without_weights
from taemi_export.shapes import Value, value_shapes
from taemi_runtime.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    import onnx

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class NodeCost:
    """What one node does in one call.

    Args:
        name: The node's name.
        operator: Its type.
        precision: What it computes in, as ``operator_costs.precision_of`` says.
        multiply_adds: Of its products.
        other_operations: Everything else that it computes.
        weight_bytes: Constants that it reads.
        input_bytes: What else it reads.
        output_bytes: What it writes.
    """

    name: str
    operator: str
    precision: str
    multiply_adds: int
    other_operations: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class CountedGraph:
    """A counted graph.

    Args:
        cost: The sums.
        nodes: Every node that could be counted, in order.
        read_weight_bytes: Weights that a call reads, each once; of a table the rows that are looked up.
    """

    cost: GraphCost
    nodes: tuple[NodeCost, ...]
    read_weight_bytes: int


def count_file(path: Path, sizes: Mapping[str, int], *, floats: str = "float32") -> CountedGraph:
    """Count a graph in a file.

    Args:
        path: The ONNX file.
        sizes: Length of every symbolic axis of its inputs.
        floats: What its float32 values are taken as: an engine that computes a float32 graph in ``float16``
            or ``bfloat16`` moves half the bytes.

    Raises:
        MissingExtraError: onnx is not installed.
        BundleError: The file is no ONNX graph.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"cannot count the operations of {path}",
            f"{error.name} is not installed",
            'Install it: pip install "taemi[export]"',
        ) from error
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BundleError(f"cannot read {path}", f"it is no ONNX graph ({error})") from error
    return count_graph(model, path.name, sizes, floats=floats)


def count_graph(
    model: onnx.ModelProto, name: str, sizes: Mapping[str, int], *, floats: str = "float32"
) -> CountedGraph:
    """Count a graph; see ``count_file``.

    Args:
        model: The graph.
        name: What to call it.
        sizes: Length of every symbolic axis of its inputs.
        floats: What its float32 values are taken as.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    light = without_weights(model)
    values = {
        key: replace(value, dtype=floats) if value.dtype == "float32" else value
        for key, value in value_shapes(light, sizes).items()
    }
    weights |= {node.output[0] for node in light.graph.node if node.op_type == "Constant"}
    nodes: list[NodeCost] = []
    unknown: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for node in light.graph.node:
        call = _call(node, values)
        counted = None if call is None else cost_of(node.name, call, [key in weights for key in node.input])
        if call is None or counted is None:
            unknown[node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"] += 1
            continue
        nodes.append(counted)
        for key, count in zip(node.input, bytes_read(call), strict=True):
            if key in weights:
                read[key] += count
    held = {key: nbytes(values[key]) for key in weights if key in values}
    read_bytes = sum(min(held.get(key, 0), count) for key, count in read.items())
    given = [*inputs, *(value.name for value in model.graph.output)]
    cost = GraphCost(
        file=name,
        multiply_adds=sum(node.multiply_adds for node in nodes),
        other_operations=sum(node.other_operations for node in nodes),
        weight_bytes=sum(held.values()),
        moved_bytes=sum(node.weight_bytes + node.input_bytes + node.output_bytes for node in nodes),
        least_bytes=read_bytes + sum(nbytes(values[key]) for key in given if key in values),
        operators=by_operator(nodes),
        note=f"not counted: {', '.join(f'{count} {kind}' for kind, count in unknown.items())}"
        if unknown
        else "",
    )
    return CountedGraph(cost, tuple(nodes), read_bytes)


def cost_of(name: str, call: Call, constant: Sequence[bool]) -> NodeCost | None:
    """Count one call of an operator.

    Args:
        name: What the node is called.
        call: The call.
        constant: Which of its inputs are weights.

    Returns:
        The cost, or ``None`` where the operator is unknown.
    """
    work = count_work(call)
    if work is None:
        return None
    read = bytes_read(call)
    weights = sum(count for count, held in zip(read, constant, strict=True) if held)
    return NodeCost(
        name=name,
        operator=call.operator,
        precision=precision_of(call),
        multiply_adds=work.multiply_adds,
        other_operations=work.other_operations,
        weight_bytes=weights,
        input_bytes=sum(read) - weights,
        output_bytes=bytes_written(call),
    )


def by_operator(nodes: Iterable[NodeCost]) -> tuple[OperatorCost, ...]:
    """Sum the nodes of each operator, the costliest first: by multiply-adds, then by bytes."""
    groups: dict[str, list[NodeCost]] = {}
    for node in nodes:
        groups.setdefault(node.operator, []).append(node)
    sums = [
        OperatorCost(
            operator=operator,
            nodes=len(group),
            multiply_adds=sum(node.multiply_adds for node in group),
            other_operations=sum(node.other_operations for node in group),
            bytes_read=sum(node.weight_bytes + node.input_bytes for node in group),
            bytes_written=sum(node.output_bytes for node in group),
        )
        for operator, group in groups.items()
    ]
    return tuple(
        sorted(
            sums, key=lambda cost: (-cost.multiply_adds, -cost.bytes_read - cost.bytes_written, cost.operator)
        )
    )


def _call(node: onnx.NodeProto, values: Mapping[str, Value]) -> Call | None:
    """Return a node's call; ``None`` where a shape is not known."""
    names = (*node.input, *node.output)
    if any(name and name not in values for name in names):
        return None
    return Call(
        node.op_type,
        tuple(values[name] if name else None for name in node.input),
        tuple(values[name] for name in node.output if name),
        {attribute.name: attribute.i for attribute in node.attribute if attribute.HasField("i")},
    )
