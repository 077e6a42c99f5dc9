"""Half precision as hardware does it, on a CPU: op by op, every result really rounded.

ONNX Runtime's CPU provider computes half-precision nodes in float32 and keeps float32 between them: a
value of 90,000 passes from node to node as if half precision had room for it. So the graph is rewritten:
every node computes in float32 on values that are half-precision numbers, and its result goes through a
Cast to half precision and back. That is what a GPU does whose matrix products accumulate in float32.
ONNX Runtime never removes such a pair of casts, because it loses bits; a test compares with the
reference implementation of ONNX, which computes in numpy's float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_export.keep_list import MOVING
from taemi_export.names import Names
from taemi_export.values import value_types
from taemi_runtime.backends.onnxruntime_session import create_session, import_onnxruntime
from taemi_runtime.engine import EngineOptions
from taemi_runtime.host import usable_cores
from taemi_runtime.spec import Array, Arrays

if TYPE_CHECKING:
    import onnx

_EXACT = MOVING - {"Max", "Min"}
"""Their results need no rounding: each is an input's value, or its negative."""


class RoundedGraph:
    """A graph in mixed precision that can be run with real rounding.

    Args:
        model: The graph, weights inside; one in float32 runs as it is.
        watch: Values inside the graph that can be asked for besides its outputs.
        threads: Threads inside one call; 0 uses the cores that this process may use.
    """

    def __init__(self, model: onnx.ModelProto, watch: Iterable[str] = (), threads: int = 0) -> None:
        twin = rounded_model(model, watch)
        self.names = tuple(value.name for value in twin.graph.output)
        self._session = run_session(twin, threads)
        self._dtypes = {node.name: node.type for node in self._session.get_inputs()}

    def run(self, inputs: Arrays, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Compute outputs and watched values.

        Args:
            inputs: One array for each input, in float32 where the graph takes half precision, too.
            names: Which values to return; all outputs and watched ones when ``None``.

        Returns:
            Arrays by name; half-precision values as float16.
        """
        return run_values(self._session, inputs, self.names if names is None else names)


def run_session(model: onnx.ModelProto, threads: int = 0) -> Any:
    """Open a graph in ONNX Runtime on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        EngineError: It refuses the graph.
    """
    ort = import_onnxruntime("cpu")
    count = EngineOptions(threads=threads).threads or usable_cores()
    return create_session(ort, model.SerializeToString(), count, ["CPUExecutionProvider"])


def run_values(session: Any, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
    """Run a session, converting the inputs that it takes in half precision."""
    feeds = {}
    for node in session.get_inputs():
        array = inputs[node.name]
        if node.type == "tensor(float16)":
            # Padding may hold anything, 3e38 included.
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
        feeds[node.name] = np.ascontiguousarray(array)
    return dict(zip(names, session.run(list(names), feeds), strict=True))


def rounded_model(model: onnx.ModelProto, watch: Iterable[str] = ()) -> onnx.ModelProto:
    """Return a graph in float32 arithmetic whose half-precision results are rounded one by one.

    Args:
        model: The graph in mixed precision; it is left alone.
        watch: Values to make outputs of, besides the graph's own.
    """
    return _Rounder(model, watch).result()


class _Rounder:
    def __init__(self, model: onnx.ModelProto, watch: Iterable[str]) -> None:
        import onnx

        self.onnx = onnx
        self.model = model
        self.types = value_types(model)
        self.halves = {name for name, kind in self.types.items() if kind == onnx.TensorProto.FLOAT16}
        outputs = {value.name for value in model.graph.output}
        self.watch = [name for name in dict.fromkeys(watch) if name not in outputs]
        self.watched = outputs | set(self.watch)
        self.names = Names([*self.types, *(node.name for node in model.graph.node)])
        # A half-precision value by name -> the name of the same numbers in float32.
        self.wide: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def result(self) -> onnx.ModelProto:
        onnx = self.onnx
        read = {name for node in self.model.graph.node for name in node.input}
        given = [tensor.name for tensor in self.model.graph.initializer]
        given += [value.name for value in self.model.graph.input]
        for name in given:
            if name in self.halves and name in read:
                self._widen(name)
        for node in self.model.graph.node:
            self._convert(node)
        graph = onnx.GraphProto(name=self.model.graph.name)
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.model.graph.initializer)
        graph.input.extend(self.model.graph.input)
        graph.output.extend(self.model.graph.output)
        graph.output.extend(
            onnx.helper.make_tensor_value_info(name, self.types[name], None) for name in self.watch
        )
        made = onnx.ModelProto(ir_version=self.model.ir_version, graph=graph)
        made.opset_import.extend(self.model.opset_import)
        return made  # type: ignore[no-any-return]

    def _convert(self, node: onnx.NodeProto) -> None:
        onnx = self.onnx
        if not self.halves & {*node.input, *node.output}:
            self.nodes.append(node)
            return
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self.halves:
                made.input[place] = self.wide[name]
        rounds = not any(name in self.halves for name in node.input)
        self.nodes.append(made)
        for place, name in enumerate(node.output):
            if name not in self.halves:
                continue
            if rounds:
                # A Cast to half precision, or a constant of it: what comes out is rounded already.
                self._widen(name)
                continue
            raw = made.output[place] = self.names.new(f"{name}.wide")
            exact = node.op_type in _EXACT
            if exact:
                self.wide[name] = raw
            if not exact or name in self.watched:
                self._add("Cast", raw, name, to=onnx.TensorProto.FLOAT16)
            if not exact:
                self._widen(name)

    def _widen(self, name: str) -> None:
        self.wide[name] = self.names.new(f"{name}.rounded")
        self._add("Cast", name, self.wide[name], to=self.onnx.TensorProto.FLOAT)

    def _add(self, operator: str, source: str, target: str, **attributes: int) -> None:
        name = self.names.new(f"round.{target}")
        self.nodes.append(self.onnx.helper.make_node(operator, [source], [target], name, **attributes))  # type: ignore[arg-type]
