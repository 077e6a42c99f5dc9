"""ONNX Runtime's traces: what each operator of a graph took, and what it should take at least.

Operators are those that the library made of the graph; their shapes stand in the trace, so that what was
fused can be counted, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taemi_bench.counting import NodeCost, cost_of
from taemi_bench.floors import node_floors
from taemi_bench.operator_costs import Call
from taemi_bench.profiles import Profile, ProfiledNode
from taemi_bench.roofline import Ceilings
from taemi_bench.traced_calls import WARM_CALLS
from taemi_export.shapes import Value

_NODE, _RUN = "Node", "model_run"
_KERNEL = "_kernel_time"
# Element types as these traces name them.
_TYPES = {"float": "float32", "double": "float64"}
# Products whose second factor the library may have packed: the trace then lacks it.
_PACKED = ("DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulIntegerToFloat")


@dataclass(frozen=True)
class _Traced:
    """What a trace says of one node in one call."""

    name: str
    call: Call
    weights: tuple[bool, ...]
    ms: float


def read_onnxruntime_trace(path: Path, ceilings: Ceilings | None = None) -> Profile:
    """Sum up a trace of ONNX Runtime: of every node the mean over the calls after the first.

    Args:
        path: The trace, Chrome's format (JSON).
        ceilings: What the device can do; without them no operator has a floor.
    """
    events = json.loads(path.read_text())
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == _RUN)[
        WARM_CALLS:
    ]
    begin = runs[0][0] if runs else 0
    nodes: dict[str, list[_Traced]] = {}
    for event in events:
        if event.get("cat") == _NODE and event["name"].endswith(_KERNEL) and event["ts"] >= begin:
            traced = _read_node(event)
            nodes.setdefault(traced.name, []).append(traced)
    calls = max(1, len(runs))
    spent = {name: sum(item.ms for item in items) / calls for name, items in nodes.items()}
    costs = [(name, cost_of(name, items[0].call, items[0].weights)) for name, items in nodes.items()]
    least = _least(dict(costs), ceilings)
    total = sum(spent.values())
    found = [
        ProfiledNode(
            name,
            nodes[name][0].call.operator,
            len(nodes[name]) // calls,
            ms,
            ms / total if total else 0.0,
            least.get(name),
        )
        for name, ms in sorted(spent.items(), key=lambda item: -item[1])
    ]
    call_ms = sum(end - start for start, end in runs) / calls / 1e3
    return Profile("", "", "", calls, call_ms, tuple(found))


def _read_node(event: Mapping[str, Any]) -> _Traced:
    facts = event["args"]
    operator = facts["op_name"]
    inputs: list[Value | None] = list(_values(facts.get("input_type_shape", ())))
    outputs = tuple(_values(facts.get("output_type_shape", ())))
    weights = [False] * len(inputs)
    factor = _packed_factor(operator, inputs, outputs)
    if factor is not None:
        inputs.insert(1, factor)
        weights.insert(1, True)
    elif operator.endswith("Conv") and len(inputs) > 1:
        weights[1:] = [True] * (len(inputs) - 1)
    # The trace gives the bytes of a node's constants, not which inputs they are: a constant second factor is
    # known by them, and what is small beside it hardly counts.
    elif (
        len(inputs) > 1
        and inputs[1] is not None
        and int(facts.get("parameter_size", 0)) >= inputs[1].elements
    ):
        weights[1] = True
    return _Traced(
        event["name"].removesuffix(_KERNEL),
        Call(operator, tuple(inputs), outputs),
        tuple(weights),
        event["dur"] / 1e3,
    )


def _packed_factor(operator: str, inputs: list[Value | None], outputs: tuple[Value, ...]) -> Value | None:
    """Return the second factor of a product of which the trace has the first one only."""
    if operator not in _PACKED or not inputs or not outputs or inputs[0] is None:
        return None
    inner, columns = inputs[0].shape[-1], outputs[0].shape[-1]
    second = inputs[1] if len(inputs) > 1 else None
    if second is not None and len(second.shape) >= 2 and inner in second.shape[-2:]:
        return None
    integer = operator in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
    return Value("int8" if integer else inputs[0].dtype, (inner, columns))


def _values(entries: Iterable[Mapping[str, list[int]]]) -> Iterator[Value]:
    for entry in entries:
        for kind, shape in entry.items():
            yield Value(_TYPES.get(kind, kind), tuple(shape))


def _least(costs: Mapping[str, NodeCost | None], ceilings: Ceilings | None) -> dict[str, float]:
    """Return the floor of every node that can be counted."""
    if ceilings is None:
        return {}
    known = [cost for cost in costs.values() if cost is not None]
    held = sum(cost.weight_bytes for cost in known)
    floors = node_floors(known, ceilings, weights_cached=held <= ceilings.cache_bytes)
    return {floor.node.name: floor.ms for floor in floors}
