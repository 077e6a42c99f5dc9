"""From a PyTorch module and its GraphSpec to an ONNX graph whose axes are what the spec says."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taemi_export.sizes import trace_sizes
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import ExportError, InputError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec

if TYPE_CHECKING:
    import onnx
    import torch

    from taemi.exportable import ExportGraph

OPSET = 20
"""The newest opset that every consumer takes: from 23 on, attention becomes one node that TensorRT for
RTX cannot build in float32 and ONNX Runtime's dynamic quantisation breaks."""
MAX_GRAPH_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; 1 MiB is left for the nodes."""
_UNBOUNDED = 2**31


@dataclass(frozen=True)
class TracedGraph:
    """An exported graph.

    Args:
        model: The graph, weights inside.
        used: The module's parameters and buffers that the graph reads, by name.
    """

    model: onnx.ModelProto
    used: dict[str, torch.Tensor]


def check_size(graph: ExportGraph) -> int:
    """Return how many bytes of weights a graph has.

    Raises:
        ExportError: More than one ONNX file can hold.
    """
    tensors = {id(tensor): tensor for tensor in graph.module.state_dict().values()}
    size: int = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > MAX_GRAPH_BYTES:
        raise ExportError(
            f"cannot export graph {graph.spec.name!r} as one file",
            f"its weights take {size / 1e9:.2f} GB, an ONNX file holds {MAX_GRAPH_BYTES / 1e9:.2f} GB",
            "A bundle has one file for each graph: choose a smaller encoder",
        )
    return size


def trace_graph(graph: ExportGraph, *, debug: bool = False) -> TracedGraph:
    """Export one graph to ONNX.

    Args:
        graph: The graph; its module must be in eval mode.
        debug: Whether the exporter's own output goes to the terminal.

    Raises:
        ExportError: PyTorch cannot export the module, or an axis did not become what the spec says.
    """
    import torch

    spec = graph.spec
    if graph.module.training:
        raise ExportError(
            f"cannot export graph {spec.name!r}", "its module is in training mode", "Call module.eval() first"
        )
    drawn = draw_inputs(spec, trace_sizes(spec), ragged=False, poison=False)
    example = {name: torch.from_numpy(array) for name, array in drawn.items()}
    axes = {item.name: _named_axes(item) for item in spec.inputs}
    with _quiet(debug):
        try:
            program = torch.onnx.export(
                graph.module,
                (),
                kwargs=example,
                input_names=[item.name for item in spec.inputs],
                output_names=[item.name for item in spec.outputs],
                dynamic_shapes=axes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=debug,
            )
        except Exception as error:
            raise ExportError(
                f"cannot export graph {spec.name!r}",
                f"PyTorch's exporter says: {_root_cause(error)}",
                "Run again with --debug for its full report",
            ) from error
    if program is None or program.exported_program is None:
        raise ExportError(f"cannot export graph {spec.name!r}", "PyTorch's exporter returned nothing")
    model: onnx.ModelProto = program.model_proto
    _check_lengths(spec, program.exported_program)
    name_axes(spec, model)
    return TracedGraph(model, _used_weights(program.exported_program))


def _named_axes(item: InputSpec) -> dict[int, str]:
    # Equal names tie axes of different inputs to one symbol.
    return {at: axis for at, axis in enumerate(item.shape) if isinstance(axis, str)}


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines off the terminal."""
    if debug:
        yield
        return
    chatter = io.StringIO()
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:400] if lines else type(error).__name__


def _check_lengths(spec: GraphSpec, program: torch.export.ExportedProgram) -> None:
    """Check the lengths that the traced program itself derives, for every length that the spec allows.

    Raises:
        ExportError: Its guards take fewer lengths than the spec promises, or an output's length is not
            the one that the spec says.
    """
    inputs = {item.name: item for item in spec.inputs}
    symbols: dict[Any, str] = {}
    for node in program.graph.nodes:
        item = inputs.get(node.name) if node.op == "placeholder" else None
        if item is not None:
            for axis, length in zip(item.shape, node.meta["val"].shape, strict=True):
                if isinstance(axis, str) and not isinstance(length, int):
                    _check_range(spec, axis, program.range_constraints.get(length.node.expr))
                    symbols.setdefault(length.node.expr, axis)
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    for output, node in zip(spec.outputs, results, strict=True):
        for at, (axis, length) in enumerate(zip(output.shape, node.meta["val"].shape, strict=False)):
            if isinstance(axis, str) and not isinstance(length, int):
                _check_expression(spec, f"axis {at} of {spec.name}.{output.name}", axis, length, symbols)


def _check_range(spec: GraphSpec, axis: str, bounds: Any) -> None:
    if bounds is None:
        return
    symbol = spec.symbol(axis)
    low, high = _bound(bounds.lower), _bound(bounds.upper)
    wanted = symbol.maximum if symbol.maximum is not None else symbol.typical
    # The exporter may exclude 0 and 1 without the graph depending on it; reference cases of length 1
    # settle that.
    if low > max(2, symbol.minimum) or high < wanted:
        raise ExportError(
            f"cannot export graph {spec.name!r} with a dynamic axis {axis!r}",
            f"the traced module only takes lengths from {low} to {high}, "
            f"the GraphSpec promises {symbol.minimum} to {wanted}",
            "Remove the length check from the module, or narrow the symbol",
        )


def _check_expression(
    spec: GraphSpec, place: str, axis: str, length: Any, symbols: Mapping[Any, str]
) -> None:
    """Compare an output's symbolic length with the spec's at the shortest, typical and longest lengths."""
    expression = length.node.expr
    if not expression.free_symbols <= set(symbols):
        return  # it depends on values: the rules say so, and by which operator
    for sizes in _extremes(spec):
        got = int(expression.subs({known: sizes[name] for known, name in symbols.items()}))
        if got != sizes[axis]:
            raise ExportError(
                f"{place} has the wrong length",
                f"it is {got} for {sizes}, the GraphSpec says {axis} = {sizes[axis]}",
                "Correct the module or the GraphSpec",
            )


def _extremes(spec: GraphSpec) -> Iterator[dict[str, int]]:
    free = spec.free_symbols
    for chosen in (
        {symbol.name: symbol.minimum for symbol in free},
        {symbol.name: symbol.typical for symbol in free},
        {symbol.name: symbol.maximum or symbol.typical + 1 for symbol in free},
    ):
        # All axes at their extreme at once may be out of range for an axis that follows from one.
        with contextlib.suppress(InputError):
            yield spec.sizes(chosen)


def _bound(value: Any) -> int:
    try:
        return min(int(value), _UNBOUNDED)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return _UNBOUNDED


def name_axes(spec: GraphSpec, model: onnx.ModelProto) -> None:
    """Assert that every axis is dynamic or fixed as the spec says, and give it the spec's name.

    Raises:
        ExportError: Names, order, element types or axes of inputs and outputs differ.
    """
    items: tuple[InputSpec | OutputSpec, ...] = (*spec.inputs, *spec.outputs)
    values = [*model.graph.input, *model.graph.output]
    wanted = [item.name for item in items]
    got = [value.name for value in values]
    if wanted != got or len(model.graph.input) != len(spec.inputs):
        raise ExportError(
            f"cannot use the exported graph {spec.name!r}",
            f"its inputs and outputs are {got}, expected {wanted}",
        )
    for item, value in zip(items, values, strict=True):
        _name_value_axes(spec, item, value)


def _name_value_axes(spec: GraphSpec, item: InputSpec | OutputSpec, value: onnx.ValueInfoProto) -> None:
    dims = value.type.tensor_type.shape.dim
    place = f"{spec.name}.{item.name}"
    found = [dim.dim_param or dim.dim_value or "?" for dim in dims]
    if len(found) != len(item.shape):
        raise ExportError(
            f"cannot use the exported graph {spec.name!r}",
            f"{place} has axes {found}, expected {list(item.shape)}",
        )
    for at, (axis, dim) in enumerate(zip(item.shape, dims, strict=True)):
        if isinstance(axis, str):
            if dim.HasField("dim_value"):
                raise ExportError(
                    f"axis {at} of {place} became static",
                    f"the exported graph has {dim.dim_value}, the GraphSpec says it is dynamic ({axis})",
                    "The module fixes this length: look for Python integers made from shapes",
                )
            # A derived axis comes out as an expression of its source; every axis gets the spec's name.
            dim.dim_param = axis
        elif dim.dim_value != axis:
            raise ExportError(
                f"axis {at} of {place} is not fixed",
                f"the exported graph has {found[at]}, the GraphSpec says {axis}",
                "Make the length a constant in the module, or a symbol in the GraphSpec",
            )


def _used_weights(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    # Inputs, weights among them, are nodes with the operation "placeholder" in torch.fx's graphs.
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    state = program.state_dict
    constants = program.constants
    used = {}
    for name, target in targets.items():
        tensor = state.get(target, constants.get(target))
        if name in read and tensor is not None:
            used[target] = tensor
    return used
