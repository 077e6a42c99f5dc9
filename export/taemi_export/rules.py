"""What an exported graph must be, and what must not be in it.

The rules make a graph portable: one opset, one file, no operator whose output shape depends on
values, which no TensorRT plan or CUDA graph can hold, nothing computed at run time that could have
been computed once.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_export.onnx_file import DTYPES
from taemi_export.onnx_graph import OPSET
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx

# Operator -> why it is refused.
_SHAPES = "the shape of its output depends on values"
_CONTROL = "control flow cannot be captured in a CUDA graph"
_RANDOM = "the same input must give the same output"
FORBIDDEN = {
    "NonZero": _SHAPES,
    "Unique": _SHAPES,
    "Compress": _SHAPES,
    "NonMaxSuppression": _SHAPES,
    "If": _CONTROL,
    "Loop": _CONTROL,
    "Scan": _CONTROL,
    "Bernoulli": _RANDOM,
    "Multinomial": _RANDOM,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
}
# Inputs (by position) that decide the shape of an operator's output. CumSum and the gathers are not
# here: their output has the shape of an input, whatever the values.
_SHAPE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "Tile": (1,),
    "Pad": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "Split": (1,),
    "Resize": (1, 2, 3),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
    "CenterCropPad": (1,),
    "ReduceSum": (1,),
    "ReduceMean": (1,),
    "ReduceMax": (1,),
    "ReduceMin": (1,),
}
# Scatters are the other half of a boolean assignment when values say where they write; with constant
# places they are a plain copy.
_SCATTERS = {"ScatterND": 1, "ScatterElements": 1}
_ARITHMETIC = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "MatMul", "Gemm", "Exp", "Tanh", "Einsum"}
)
# What a path of a user or a Python traceback looks like, on any machine.
_TRACE = re.compile(rb"/home/\w+|/Users/\w+|[A-Za-z]:\\{1,2}\w+|site-packages|File \"|\.py[:\"']")
_SHORT_PATH = 3
"""Paths of so few characters (/, /a) may be part of any name."""
_SMALL = 4096
"""Arithmetic on constants smaller than this costs nothing worth a refusal."""

Rule = Callable[["onnx.ModelProto"], Iterator[str]]


def check_model(model: onnx.ModelProto, spec: GraphSpec, dtypes: Mapping[str, str] | None = None) -> None:
    """Refuse a graph that breaks a rule.

    Args:
        model: The finished graph.
        spec: Its description.
        dtypes: Inputs and outputs of another type than the description says, e.g. half precision.

    Raises:
        ExportError: Names every broken rule with the nodes that break it.
    """
    problems = [problem for rule in RULES for problem in rule(model)]
    problems += _interface(model, spec, dtypes or {})
    if problems:
        raise ExportError(
            f"graph {spec.name!r} breaks {len(problems)} rule{'s' if len(problems) > 1 else ''}",
            "; ".join(problems),
            "Rewrite that part of the export module with where, masks and fixed axes",
        )


def check_file(path: Path, spec: GraphSpec) -> None:
    """Let onnx's own checker, strict shape inference included, look at a written graph.

    Raises:
        ExportError: It refuses the file.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"cannot use the exported graph {spec.name!r}",
            f"onnx.checker refuses it: {str(error).splitlines()[0]}",
        ) from error


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in FORBIDDEN:
            yield f"{_where(node)} is forbidden: {FORBIDDEN[node.op_type]}"
        elif any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"{_where(node)} is forbidden: {_CONTROL}"
        if node.domain not in ("", "ai.onnx"):
            yield f"{_where(node)} is of domain {node.domain!r}, only standard operators run everywhere"
    for function in model.functions:
        yield f"function {function.domain}::{function.name} was not inlined"


def _data_dependent_shapes(model: onnx.ModelProto) -> Iterator[str]:
    """Follow the values of the inputs; where one of them decides a shape, the shape is data-dependent."""
    values = {item.name for item in model.graph.input}
    for node in model.graph.node:
        deciding = _SHAPE_INPUTS.get(node.op_type, ())
        scatter = _SCATTERS.get(node.op_type)
        for at, name in enumerate(node.input):
            if name not in values:
                continue
            if at in deciding:
                yield f"{_where(node)} takes a shape from values: {name} depends on the inputs' content"
            if at == scatter:
                yield f"{_where(node)} writes where values say ({name}): use where instead"
        # Shape and Size read no values: what is computed from them is known before anything runs.
        if node.op_type not in ("Shape", "Size") and values & set(node.input):
            values.update(node.output)


def _constant_arithmetic(model: onnx.ModelProto) -> Iterator[str]:
    """Find arithmetic on weights alone, such as weight normalisation left to every single run."""
    sizes = {tensor.name: _size(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if node.op_type == "Constant":
            sizes[node.output[0]] = 1
        elif names and all(name in sizes for name in names):
            largest = max(sizes[name] for name in names)
            sizes.update(dict.fromkeys(node.output, largest))
            if node.op_type.startswith("Reduce") and largest > 1:
                yield f"{_where(node)} reduces weights at run time ({', '.join(names)})"
            elif node.op_type in _ARITHMETIC and largest >= _SMALL:
                yield f"{_where(node)} computes with weights at run time ({', '.join(names)})"


def _boolean_where(model: onnx.ModelProto) -> Iterator[str]:
    """ONNX Runtime's CPU provider has no kernel for Where on booleans."""
    import onnx

    wheres = [node for node in model.graph.node if node.op_type == "Where"]
    if not wheres:
        return
    inferred = onnx.shape_inference.infer_shapes(without_weights(model))
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    for node in wheres:
        if kinds.get(node.output[0]) == onnx.TensorProto.BOOL:
            yield f"{_where(node)} selects booleans, for which ONNX Runtime has no kernel: use & and |"


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with large initialisers as inputs: types are inferred without copying them."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if _size(tensor.dims) < _SMALL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


def _one_file(model: onnx.ModelProto) -> Iterator[str]:
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield f"initialiser {tensor.name} lies in another file"
    if model.graph.sparse_initializer:
        yield "it has sparse initialisers"


def _opset(model: onnx.ModelProto) -> Iterator[str]:
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if versions != {"ai.onnx": OPSET}:
        yield f"its opsets are {versions}, expected ai.onnx {OPSET} alone"


def _private_notes(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    noted: list[onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto] = [
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    ]
    if graph.metadata_props or any(item.metadata_props or item.doc_string for item in noted):
        yield "nodes carry notes of the machine that exported them"


def _local_paths(model: onnx.ModelProto) -> Iterator[str]:
    """Look for what an exporter leaves behind of its machine: paths and stack traces, in any string."""
    light = without_weights(model)
    # The bytes of a thousand numbers spell "F:\\1" once in a while.
    constants = [item.t for node in light.graph.node for item in node.attribute if item.HasField("t")]
    for tensor in (*light.graph.initializer, *constants):
        tensor.ClearField("raw_data")
    content = light.SerializeToString()
    notes = [f"{entry.key}={entry.value}" for entry in model.metadata_props]
    content += "\n".join([*notes, model.producer_name, model.producer_version, model.doc_string]).encode()
    places = {os.fsencode(place) for place in (Path.cwd(), sys.prefix, Path.home(), tempfile.gettempdir())}
    for place in sorted(places):
        if len(place) > _SHORT_PATH and place in content:
            yield f"it names a place on this machine ({os.fsdecode(place)})"
    trace = _TRACE.search(content)
    if trace is not None:
        yield f"it holds a path or a stack trace ({trace.group().decode(errors='replace')!r})"


RULES: tuple[Rule, ...] = (
    _operators,
    _data_dependent_shapes,
    _constant_arithmetic,
    _boolean_where,
    _one_file,
    _opset,
    _private_notes,
    _local_paths,
)


def _interface(model: onnx.ModelProto, spec: GraphSpec, dtypes: Mapping[str, str]) -> Iterator[str]:
    for kind, items, values in (
        ("input", spec.inputs, model.graph.input),
        ("output", spec.outputs, model.graph.output),
    ):
        wanted = [f"{item.name} {dtypes.get(item.name, item.dtype)} {list(item.shape)}" for item in items]
        got = [_describe(value) for value in values]
        if wanted != got:
            yield f"its {kind}s are {got}, expected {wanted}"


def _describe(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return f"{value.name} {DTYPES.get(kind.elem_type, kind.elem_type)} {axes}"


def _where(node: onnx.NodeProto) -> str:
    return f"operator {node.op_type} (node {node.name or node.output[0]})"


def _size(dims: Iterator[int] | list[int] | tuple[int, ...]) -> int:
    size = 1
    for length in dims:
        size *= length
    return size
