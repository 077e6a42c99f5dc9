"""From a float32 graph to one in half precision, strongly typed.

TensorRT 11 has no switch for half precision: a network computes in the types that its graph says. So the
graph is converted once, by rules, and what was done to which node is recorded. The same graph gives the
same bytes on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_export.assignment import assign
from taemi_export.half import rewrite
from taemi_export.keep_list import DEFAULT_KEEP, KeepList
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx

_UNITS = 3
"""Node names that are made up get this many digits at least."""


@dataclass(frozen=True)
class HalfGraph:
    """A graph in half precision.

    Args:
        model: The graph, weights inside.
        counts: Nodes by the precision that they compute in; ``cast`` counts the conversions between
            the two, ``other`` what computes with no floats.
        kept: Reason -> the nodes that stay in float32 for it, in graph order.
        inputs: The inputs that are taken in another type than the GraphSpec says.
        outputs: The outputs that are given in another type.
    """

    model: onnx.ModelProto
    counts: dict[str, int]
    kept: dict[str, tuple[str, ...]]
    inputs: dict[str, str]
    outputs: dict[str, str]


def convert_to_half(
    model: onnx.ModelProto,
    spec: GraphSpec,
    *,
    keep: KeepList = DEFAULT_KEEP,
    extra_fp32: Mapping[str, tuple[str, ...]] | None = None,
    half_inputs: bool = True,
    half_outputs: Collection[str] = (),
) -> HalfGraph:
    """Convert a float32 graph to half precision.

    Args:
        model: The graph, weights inside; it is left alone.
        spec: Its description.
        keep: What stays in float32.
        extra_fp32: Reason -> further nodes that stay in float32, by name.
        half_inputs: Whether the inputs that the spec marks so (features: most bytes of a call) come in
            half precision. Masks and integers never change.
        half_outputs: Outputs that another graph takes in half precision: they end in a Cast to it where they
            are computed in float32. The others are float32.

    Returns:
        The graph and what was done to it. Weights beyond 65504 are never clipped: what reads them stays
        in float32.

    Raises:
        ExportError: The graph is not in float32, has a type that cannot be inferred, or lacks a node
            that ``extra_fp32`` names.
    """
    named = name_nodes(model)
    taken = {item.name for item in spec.inputs if item.half and item.dtype == "float32"}
    half = frozenset(taken if half_inputs else ())
    missing = half - {value.name for value in model.graph.input}
    if missing:
        raise ExportError(
            f"cannot convert graph {spec.name!r}",
            f"it has no input {sorted(missing)}, its GraphSpec has",
            "Export it again: taemi-export onnx CKPT --force",
        )
    given = {item.name for item in spec.outputs if item.name in half_outputs and item.dtype == "float32"}
    assignment = assign(named, keep, extra_fp32 or {}, half)
    made = rewrite(named, assignment, half, frozenset(given))
    counts = Counter("float16" if is_half else "float32" for is_half in assignment.half.values())
    added = len(made.graph.node) - sum(node.op_type != "Constant" for node in named.graph.node)
    constants = sum(node.op_type == "Constant" for node in made.graph.node)
    counts["cast"] = added - constants
    counts["other"] = len(made.graph.node) - counts.total()
    return HalfGraph(
        made,
        dict(sorted(counts.items())),
        assignment.kept,
        {item.name: "float16" for item in spec.inputs if item.name in half},
        {item.name: "float16" for item in spec.outputs if item.name in given},
    )


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with a name of its own for every node; the graph itself where they have one."""
    names = Counter(node.name for node in model.graph.node)
    if "" not in names and all(count == 1 for count in names.values()):
        return model
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = set(names)
    seen: set[str] = set()
    for at, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{at:0{_UNITS}}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)
    return copy
