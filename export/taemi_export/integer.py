"""From a float32 graph to one whose large products run on 8-bit integers, for CPUs.

Weights become int8 with one scale for each output column; what they are multiplied with is quantised to
uint8 in every call, with the range that it has there (DynamicQuantizeLinear), so that nothing has to be
calibrated. Sums are exact in int32 and scaled back to float32; everything between the products stays
float32. The operators are standard ones that ONNX Runtime fuses: MatMulInteger, then Cast and two Mul.

Convolutions over time are products, too: their windows side by side, times the kernel as a matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_export.conversion import name_nodes
from taemi_export.rules import without_weights
from taemi_export.values import constant_arrays
from taemi_runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

    from taemi_runtime.spec import Array

MIN_ELEMENTS = 2**14
"""Weights of fewer elements stay in float32: there, quantising the other factor costs what it saves."""
FEW_ROWS = 16
FEW_ROWS_ELEMENTS = 2**20
"""Products of so few rows for each element of a batch, with weights of at most so many elements, stay in
float32, too: they take next to no time, and behind them nothing averages an error out. On the published
fusion network this cuts what int8 takes off rho by three."""
_BITS = (7, 8)
_END = 2**31 - 1


@dataclass(frozen=True)
class IntegerGraph:
    """A graph with integer products.

    Args:
        model: The graph, weights inside.
        counts: Products by what they compute in, ``int8`` and ``float32``.
        kept: Reason -> the products that stay in float32 for it, in graph order.
    """

    model: onnx.ModelProto
    counts: dict[str, int]
    kept: dict[str, tuple[str, ...]]


def convert_to_integer(
    model: onnx.ModelProto,
    *,
    bits: int = 8,
    min_elements: int = MIN_ELEMENTS,
    few_rows: int = FEW_ROWS,
    keep: Mapping[str, str] | None = None,
) -> IntegerGraph:
    """Convert the products of a float32 graph.

    Args:
        model: The graph, weights inside; it is left alone.
        bits: Bits of a weight. 8 on processors with VNNI; without it ONNX Runtime adds pairs of products
            in 16 bits, where two of 255 x 127 do not fit: 7 bits do, everywhere.
        min_elements: Weights of fewer elements stay in float32.
        keep: Further nodes that stay in float32, by name, with the reason.
        few_rows: So do those of at most ``FEW_ROWS_ELEMENTS`` that so few rows are multiplied with.

    Raises:
        ExportError: No product can be converted.
    """
    if bits not in _BITS:
        raise ValueError(f"bits is {bits}, possible are {_BITS}")
    return _Converter(name_nodes(model), bits, min_elements, few_rows, keep or {}).result()


def _static_rows(model: onnx.ModelProto) -> dict[str, int]:
    """Return the rows [batch, rows..., width] of each value whose number the graph fixes."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True)
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input):
        kind = value.type.tensor_type
        inner = kind.shape.dim[1:-1]
        if (
            kind.HasField("shape")
            and len(kind.shape.dim) > 1
            and all(dim.HasField("dim_value") for dim in inner)
        ):
            found[value.name] = math.prod(dim.dim_value for dim in inner)
    return found


class _Converter:
    def __init__(
        self,
        model: onnx.ModelProto,
        bits: int,
        min_elements: int,
        few_rows: int,
        keep: Mapping[str, str],
    ) -> None:
        import onnx

        self.onnx = onnx
        self.model = model
        self.limit = 2 ** (bits - 1) - 1
        self.min_elements = min_elements
        self.few_rows = few_rows
        self.keep = keep
        self.arrays = constant_arrays(model)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.quantised: dict[str, tuple[str, str, str]] = {}
        self.kept: dict[str, list[str]] = {}
        self.rows = _static_rows(model)
        self.columns: dict[str, tuple[str, str]] = {}

    def result(self) -> IntegerGraph:
        counts: Counter[str] = Counter()
        for node in self.model.graph.node:
            if node.op_type not in ("MatMul", "Gemm", "Conv"):
                self.nodes.append(node)
                continue
            reason = self._obstacle(node)
            if reason:
                counts["float32"] += 1
                self.kept.setdefault(reason, []).append(node.name)
                self.nodes.append(node)
                continue
            counts["int8"] += 1
            if node.op_type == "Conv":
                self._convolution(node)
            else:
                self._product(node)
        if not counts["int8"]:
            raise ExportError(
                f"cannot quantise graph {self.model.graph.name!r}",
                f"none of its {counts.total()} products has a constant matrix of {self.min_elements} "
                "elements or more",
                "Run it in fp32: it is too small to gain",
            )
        return IntegerGraph(
            self._model(),
            dict(sorted(counts.items())),
            {why: tuple(names) for why, names in self.kept.items()},
        )

    def _obstacle(self, node: onnx.NodeProto) -> str:
        """Say why a product stays in float32; empty when it does not."""
        if node.name in self.keep:
            return self.keep[node.name]
        weight = self.arrays.get(node.input[1])
        if weight is None or weight.dtype != np.float32:
            return "both factors depend on the input"
        facts = {item.name: item for item in node.attribute}
        if weight.size < self.min_elements:
            return f"weights of fewer than {self.min_elements} elements"
        if self.rows.get(node.input[0], _END) <= self.few_rows and weight.size <= FEW_ROWS_ELEMENTS:
            return "few rows for each element of a batch"
        if node.op_type == "MatMul":
            return "" if weight.ndim == 2 else "weights that are no matrix"
        if node.op_type == "Gemm":
            plain = all(name not in facts or facts[name].f == 1 for name in ("alpha", "beta"))
            return "" if plain and not ("transA" in facts and facts["transA"].i) else "a Gemm with factors"
        whole = weight.ndim == 3 and ("group" not in facts or facts["group"].i == 1)
        bare = not any(any(facts[name].ints) for name in ("pads",) if name in facts)
        bare &= all(value == 1 for value in (facts["dilations"].ints if "dilations" in facts else ()))
        bare &= "auto_pad" not in facts or facts["auto_pad"].s in (b"NOTSET", b"VALID")
        return "" if whole and bare else "a convolution in groups, with padding or over more than time"

    def _product(self, node: onnx.NodeProto) -> None:
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        matrix = self.arrays[node.input[1]]
        values = self._quantise(node.input[0])
        bias = node.input[2] if len(node.input) > 2 else ""
        self._multiply(node, values[0], values, node.input[1], matrix.T if transposed else matrix, bias)

    def _convolution(self, node: onnx.NodeProto) -> None:
        """Lay the windows side by side, [batch, frames, kernel x channels], and multiply once."""
        kernel = self.arrays[node.input[1]]
        stride = next((item.ints[0] for item in node.attribute if item.name == "strides"), 1)
        width = kernel.shape[2]
        rows = self._channels_last(node.input[0])
        values = self._quantise(rows)
        parts = []
        for at in range(width):
            # Of equal length for every input: from each window its element number ``at``.
            left = width - 1 - at
            bounds = [self._integers([number]) for number in (at, -left if left else _END, 1, stride)]
            parts.append(f"{node.name}.window.{at}")
            self._add("Slice", [values[0], *bounds], [parts[-1]])
        windows = f"{node.name}.windows"
        self._add("Concat", parts, [windows], axis=-1)
        matrix = kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0])
        bias = node.input[2] if len(node.input) > 2 else ""
        result = f"{node.output[0]}.rows"
        self._multiply(node, windows, values, node.input[1], matrix, bias, result)
        self._add("Transpose", [result], [node.output[0]], perm=[0, 2, 1])

    def _channels_last(self, name: str) -> str:
        """Return [batch, frames, channels] of [batch, channels, frames]."""
        rows = f"{name}.rows"
        self._add("Transpose", [name], [rows], perm=[0, 2, 1])
        return rows

    def _quantise(self, name: str) -> tuple[str, str, str]:
        """Return the names of a value's integers, their scale and their zero point; it is quantised once."""
        if name not in self.quantised:
            names = (f"{name}.uint8", f"{name}.scale", f"{name}.zero")
            self._add("DynamicQuantizeLinear", [name], list(names))
            self.quantised[name] = names
        return self.quantised[name]

    def _multiply(
        self,
        node: onnx.NodeProto,
        factor: str,
        values: tuple[str, str, str],
        weight: str,
        matrix: Array,
        bias: str,
        result: str = "",
    ) -> None:
        result = result or node.output[0]
        integers, scales = self._weight(weight, matrix)
        base = node.name
        self._add("MatMulInteger", [factor, integers, values[2]], [f"{base}.int32"])
        self._add("Cast", [f"{base}.int32"], [f"{base}.float"], to=self.onnx.TensorProto.FLOAT)
        self._add("Mul", [values[1], scales], [f"{base}.scales"])
        scaled = f"{base}.scaled" if bias else result
        self._add("Mul", [f"{base}.float", f"{base}.scales"], [scaled])
        if bias:
            self._add("Add", [scaled, bias], [result])

    def _weight(self, name: str, matrix: Array) -> tuple[str, str]:
        """Return the names of a matrix's integers [rows, columns] and of its scales [columns]."""
        if name not in self.columns:
            names = (f"{name}.int8", f"{name}.scales")
            largest = np.abs(matrix).max(axis=0).astype(np.float32)
            scales = np.where(largest > 0, largest, 1) / np.float32(self.limit)
            self.weights[names[0]] = np.rint(matrix / scales).clip(-self.limit, self.limit).astype(np.int8)
            self.weights[names[1]] = scales.astype(np.float32)
            self.columns[name] = names
        return self.columns[name]

    def _integers(self, values: Sequence[int]) -> str:
        name = "integers." + ".".join(map(str, values))
        self.weights[name] = np.array(values, np.int64)
        return name

    def _add(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(self.onnx.helper.make_node(op, inputs, outputs, outputs[0], **attributes))

    def _model(self) -> onnx.ModelProto:
        numpy_helper = self.onnx.numpy_helper
        graph = self.onnx.GraphProto(name=self.model.graph.name)
        graph.input.extend(self.model.graph.input)
        graph.output.extend(self.model.graph.output)
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(item for item in self.model.graph.initializer if item.name in read)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.weights.items())
        made = self.onnx.ModelProto(ir_version=self.model.ir_version)
        made.opset_import.extend(self.model.opset_import)
        made.metadata_props.extend(self.model.metadata_props)
        for name in ("producer_name", "producer_version"):
            setattr(made, name, getattr(self.model, name))
        made.graph.CopyFrom(graph)
        return made
