"""Which node of a float32 graph computes in half precision, and why the others do not.

Typed propagation over the whole graph, in the order of its nodes: what the keep list names is fixed in
float32, layers are fixed in half precision, and what only moves numbers follows its neighbours, so that
few conversions are left. The result depends on the graph alone: no data is run, and nothing is hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_export.keep_list import (
    GUARDING,
    LAYERS,
    LIGHT,
    MOVING,
    SPREADING,
    STATISTICS,
    TESTING,
    KeepList,
)
from taemi_export.values import constant_arrays, is_lost, largest_finite, value_types
from taemi_runtime.errors import ExportError
from taemi_runtime.input_checks import HALF_MAX

if TYPE_CHECKING:
    import onnx

LAST_LAYER = "last layer"
FIRST_CONVOLUTION = "first convolution"
POSITIONS = "positions"
INTEGERS = "integers"
BEYOND = "constant beyond half precision's range"
LOST = "constant lost in half precision"
UNKNOWN = "operator without a rule for half precision"
FED = "fed by float32 alone"
_MAX_SWEEPS = 16
_CONVERTIBLE = MOVING | TESTING | LIGHT | LAYERS | STATISTICS | {"Cast", "ConstantOfShape"}


@dataclass(frozen=True)
class Assignment:
    """The precision of every node that computes with floats.

    Args:
        half: By node position: true computes in half precision, false in float32; nodes without floats
            are not in it.
        kept: Reason -> names of the nodes that stay in float32 for it, in graph order.
    """

    half: dict[int, bool]
    kept: dict[str, tuple[str, ...]]


def assign(
    model: onnx.ModelProto,
    keep: KeepList,
    extra_fp32: Mapping[str, tuple[str, ...]],
    half_inputs: frozenset[str],
) -> Assignment:
    """Choose the precision of every node.

    Args:
        model: The float32 graph; every node has a name of its own.
        keep: What stays in float32.
        extra_fp32: Reason -> further nodes that stay, by name.
        half_inputs: The graph inputs that come in half precision.

    Raises:
        ExportError: The graph is not in float32, or ``extra_fp32`` names a node that it has not.
    """
    return _Assigner(model, keep, extra_fp32, half_inputs).result()


class _Assigner:
    def __init__(
        self,
        model: onnx.ModelProto,
        keep: KeepList,
        extra_fp32: Mapping[str, tuple[str, ...]],
        half_inputs: frozenset[str],
    ) -> None:
        import onnx

        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.inputs = {value.name for value in model.graph.input}
        self.keep = keep
        self.half_inputs = half_inputs
        types = value_types(model)
        foreign = sorted(
            {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
            & set(types.values())
        )
        if foreign:
            found = ", ".join(onnx.TensorProto.DataType.Name(kind).lower() for kind in foreign)
            raise ExportError(
                f"cannot convert graph {model.graph.name!r} to half precision",
                f"it has values in {found}, expected float32 alone",
                "Convert the bundle's float32 graph",
            )
        self.types = types
        self.floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        self.constants = {
            name: array for name, array in constant_arrays(model).items() if name in self.floats
        }
        self.producers = {name: at for at, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = {}
        for at, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(at)
        self.reasons: dict[int, str] = {}
        self.half: dict[int, bool] = {}
        places = {node.name: at for at, node in enumerate(self.nodes)}
        missing = [name for names in extra_fp32.values() for name in names if name not in places]
        if missing:
            raise ExportError(
                f"cannot keep node {missing[0]!r} in float32",
                f"graph {model.graph.name!r} has no node of that name",
                "Name its nodes as the ONNX file does",
            )
        self.named = {places[name]: reason for reason, names in extra_fp32.items() for name in names}

    def result(self) -> Assignment:
        """Run every rule in turn; the first reason that fits a node is the one that is recorded."""
        self._by_operator()
        self._by_constants()
        self._by_origin()
        if self.keep.last_layer:
            self._last_layers()
        if self.keep.first_convolution:
            self._first_convolutions()
        for at in sorted(self.named):
            if self._gives(at) or self._reads(at):
                self._fix(at, self.named[at])
        self._settle()
        kept: dict[str, list[str]] = {}
        for at, node in enumerate(self.nodes):
            if at in self.reasons:
                kept.setdefault(self.reasons[at], []).append(node.name)
        return Assignment(
            {at: self.half[at] for at in range(len(self.nodes)) if at in self.half},
            {reason: tuple(names) for reason, names in sorted(kept.items())},
        )

    def _fix(self, at: int, reason: str) -> None:
        self.reasons.setdefault(at, reason)

    def _reads(self, at: int) -> list[str]:
        """The float inputs of a node that are no constants."""
        return [name for name in self.nodes[at].input if name in self.floats and name not in self.constants]

    def _gives(self, at: int) -> list[str]:
        return [name for name in self.nodes[at].output if name in self.floats]

    def _by_operator(self) -> None:
        for at, node in enumerate(self.nodes):
            if node.op_type == "Constant" or not (self._gives(at) or self._reads(at)):
                continue
            reason = self.keep.reason(node.op_type)
            if reason is not None:
                self._fix(at, reason)
            elif node.op_type not in _CONVERTIBLE:
                self._fix(at, UNKNOWN)

    def _by_constants(self) -> None:
        """Keep what computes with a number that half precision cannot hold, as far as that number goes."""
        beyond = {name for name, array in self.constants.items() if largest_finite(array) > HALF_MAX}
        lost = {name for name, array in self.constants.items() if is_lost(array)}
        guarded: set[str] = set()
        for at, node in enumerate(self.nodes):
            if node.op_type == "Constant":
                continue
            guards = bool(lost & set(node.input))
            if guards or guarded & set(node.input):
                # The result is what some division waits for, and may be as small as the constant.
                self._fix(at, LOST)
                if guards or node.op_type in GUARDING:
                    guarded.update(self._gives(at))
            if beyond & set(node.input):
                self._fix(at, BEYOND)
                if node.op_type in SPREADING:
                    beyond.update(self._gives(at))

    def _by_origin(self) -> None:
        """Keep arithmetic on shapes alone, and the scaling of integers."""
        valued = set(self.inputs)
        integral: set[str] = set()
        for at, node in enumerate(self.nodes):
            if node.op_type in ("Shape", "Size", "Constant"):
                continue
            reads, gives = self._reads(at), self._gives(at)
            if valued & set(node.input):
                valued.update(node.output)
            elif self.keep.positions and gives and node.op_type not in MOVING | {"Cast", "ConstantOfShape"}:
                self._fix(at, POSITIONS)
            if not self.keep.integers or not gives:
                continue
            if node.op_type == "Cast" and self._from_integer(at):
                self._fix(at, INTEGERS)
                integral.update(gives)
            elif reads and integral.issuperset(reads):
                if node.op_type in MOVING:
                    integral.update(gives)
                elif node.op_type in LIGHT:
                    self._fix(at, INTEGERS)
                    integral.update(gives)

    def _from_integer(self, at: int) -> bool:
        import onnx

        kind = self.types[self.nodes[at].input[0]]
        return kind not in (onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)

    def _last_layers(self) -> None:
        """Keep everything from each output back to the layer that it comes from."""
        # A sum of two branches is followed once: behind it lies a residual stream, i.e. the whole network.
        waiting = [(name, False) for name in sorted(self.outputs) if name in self.floats]
        seen: set[int] = set()
        while waiting:
            name, joined = waiting.pop()
            at = self.producers.get(name)
            if at is None or at in seen:
                continue
            seen.add(at)
            operator, reads = self.nodes[at].op_type, self._reads(at)
            joins = operator in LIGHT and len(reads) > 1
            if joined and joins:
                continue
            if at not in self.reasons and self._gives(at):
                self._fix(at, LAST_LAYER)
                if operator in MOVING | LIGHT:
                    waiting += [(read, joined or joins) for read in reads]

    def _first_convolutions(self) -> None:
        raw = {name for name in self.inputs if name in self.floats and name not in self.half_inputs}
        for at, node in enumerate(self.nodes):
            if raw & set(node.input):
                if node.op_type in MOVING:
                    raw.update(self._gives(at))
                elif node.op_type in ("Conv", "ConvTranspose"):
                    self._fix(at, FIRST_CONVOLUTION)

    def _settle(self) -> None:
        """Give every remaining node a precision such that few conversions are needed."""
        touched = [
            at
            for at, node in enumerate(self.nodes)
            if node.op_type != "Constant" and (self._gives(at) or self._reads(at))
        ]
        for at in touched:
            reads = self._reads(at)
            follows = self._cheap(at) and bool(reads) and not any(self._is_half(name) for name in reads)
            self.half[at] = at not in self.reasons and not follows
        # Every choice is valid, so that a bound on the sweeps costs conversions at most.
        for _ in range(_MAX_SWEEPS):
            changed = False
            for at in reversed(touched):
                if at in self.reasons:
                    continue
                wanted = self._wanted(at)
                changed |= wanted != self.half[at]
                self.half[at] = wanted
            if not changed:
                break
        for at in touched:
            if not self.half[at] and self.nodes[at].op_type in LIGHT:
                self._fix(at, FED)

    def _cheap(self, at: int) -> bool:
        return self._moves(at) or self.nodes[at].op_type in LIGHT

    def _moves(self, at: int) -> bool:
        """Whether a node moves or tests floats; a Cast from float to anything does, too."""
        operator = self.nodes[at].op_type
        return operator in MOVING | TESTING or (operator == "Cast" and bool(self._reads(at)))

    def _wanted(self, at: int) -> bool:
        """Return whether a free node belongs in half precision, as its neighbours stand."""
        gives, reads = self._gives(at), self._reads(at)
        if self.nodes[at].op_type in LAYERS or any(self._is_half(name) for name in reads):
            return True
        if not gives:
            return False
        if self.nodes[at].op_type in LIGHT and reads:
            # Converting its result instead of what it reads costs as much and rounds once less.
            return False
        users = [user for name in gives for user in self.consumers.get(name, ()) if self._gives(user)]
        ends = any(name in self.outputs for name in gives)
        single = sum(not self.half[user] for user in users) + ends
        if self._moves(at) and reads:
            # Convert before moving when nobody needs more: half as many bytes are moved.
            return not single
        # A node that is fed by constants: in float32 only where float32 is all around it.
        return single == 0 or single < len(users) + ends

    def _is_half(self, name: str) -> bool:
        at = self.producers.get(name)
        return name in self.half_inputs if at is None else self.half.get(at, False)
