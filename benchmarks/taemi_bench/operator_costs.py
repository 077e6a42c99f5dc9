"""What one operator does in one call: arithmetic and bytes, from the shapes that it meets.

Multiply-adds are what products do (a multiplication with its addition is one). Everything else is an
"other operation": an addition, a comparison, a conversion, a rounding, or one call of a function (exp, erf,
tanh, a root, a division) counts one. So, for each element:

========================  ==============================================================================
elementwise               1 for each operand beyond the first, at least 1
softmax                   5: largest, subtract, exp, sum, divide
layer normalisation       7: mean, subtract, square, sum, multiply by the root, scale, shift; 4 without mean
Gelu by erf               5: divide, erf, add, multiply, multiply; 8 by tanh
quantise                  3: divide, add, round; 5 where the range is looked for first
dequantise                2
reduction                 1 for each element that is read
========================  ==============================================================================

Bytes: an operator reads all its inputs and writes all its outputs, each once, with nothing fused and nothing
kept from the operator before it. A gather reads the rows that it gives and its indices, not the table; a
slice reads what it gives. What only names memory anew (Reshape and its kind) moves nothing.

Operators are those of ONNX, of exported and quantised graphs, and those that ONNX Runtime makes of them
(domain com.microsoft, docs/ContribOperators.md in its repository). One that is not here is unknown, never
free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from taemi_export.product_cost import multiplications
from taemi_export.shapes import Value

DTYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}
PRECISIONS = {"float64": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What an operator computes in, by the element type of its first input of floats."""


@dataclass(frozen=True)
class Call:
    """One call of one operator.

    Args:
        operator: E.g. ``MatMul``.
        inputs: What it is given, by position; ``None`` where an optional one is left out.
        outputs: What it gives.
        attributes: Those attributes that are whole numbers.
    """

    operator: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, int] = field(default_factory=dict)

    def shape(self, place: int) -> tuple[int, ...]:
        """Return the shape of an input.

        Raises:
            IndexError: It is not given.
        """
        value = self.inputs[place]
        if value is None:
            raise IndexError(place)
        return value.shape


@dataclass(frozen=True)
class Work:
    """Arithmetic of one call."""

    multiply_adds: int = 0
    other_operations: int = 0


def nbytes(value: Value) -> int:
    """Return how many bytes a tensor takes."""
    return value.elements * DTYPE_BYTES.get(value.dtype, 4)


def count_work(call: Call) -> Work | None:
    """Return what a call computes; ``None`` where its operator is unknown or lacks an input that decides."""
    rule = _RULES.get(call.operator)
    if rule is None or not call.outputs:
        return None
    try:
        return rule(call)
    except (IndexError, ValueError):
        return None


def precision_of(call: Call) -> str:
    """Return what a call computes in: ``fp32``, ``fp16``, ``bf16``, ``int8``; empty where nothing of it."""
    if call.operator in _INTEGER:
        return "int8"
    for value in (*call.inputs, *call.outputs):
        if value is not None and value.dtype in PRECISIONS:
            return PRECISIONS[value.dtype]
    return ""


def bytes_read(call: Call) -> tuple[int, ...]:
    """Return how many bytes a call reads of each input, by position."""
    if call.operator in VIEWS:
        return (0,) * len(call.inputs)
    whole = [0 if value is None else nbytes(value) for value in call.inputs]
    if call.operator in _PARTLY and call.outputs:
        for place in _PARTLY[call.operator]:
            if place < len(whole):
                whole[place] = min(whole[place], nbytes(call.outputs[0]))
    return tuple(whole)


def bytes_written(call: Call) -> int:
    """Return how many bytes a call writes."""
    return 0 if call.operator in VIEWS else sum(nbytes(value) for value in call.outputs)


def _product(kind: str, left: int = 0, right: int = 1, per_output: int = 0) -> Callable[[Call], Work]:
    """Return the rule of a product whose factors are the inputs at these places."""

    def work(call: Call) -> Work:
        result = call.outputs[0]
        # Only a convolution needs the shape of its second factor, which a packed weight may have lost.
        second = call.shape(right) if kind == "Conv" else ()
        return Work(
            multiplications(kind, call.shape(left), second, result.shape), per_output * result.elements
        )

    return work


def _transposing_product(call: Call) -> Work:
    """FusedMatMul: either factor may lie transposed, which attributes say or else the lengths."""
    left, result = call.shape(0), call.outputs[0]
    second = call.inputs[1] if len(call.inputs) > 1 else None
    turned = call.attributes.get("transA", int(second is not None and left[-1] not in second.shape[-2:]))
    return Work(result.elements * left[-2 if turned else -1])


def _quantising_product(call: Call) -> Work:
    """A float factor is quantised, multiplied with an integer one, and scaled back."""
    left = math.prod(call.shape(0))
    result = call.outputs[0]
    return Work(multiplications("MatMul", call.shape(0), (), result.shape), 5 * left + 2 * result.elements)


def _packed_attention(call: Call) -> Work:
    """Attention, QAttention: [batch, rows, width] times the weights of query, key and value, then attention.

    Where the number of heads is not known, the softmax of one is counted.
    """
    batch, rows, width = call.shape(0)
    projected = call.shape(1)[-1]
    inner = call.outputs[0].shape[-1]
    multiply_adds = batch * rows * width * projected + 2 * batch * rows * rows * inner
    heads = call.attributes.get("num_heads", 1)
    return Work(multiply_adds, 5 * batch * heads * rows * rows + batch * rows * projected)


def _attention(call: Call) -> Work:
    """MultiHeadAttention: query [batch, rows, width], key and value [batch, columns, width] each."""
    batch, rows, width = call.shape(0)
    key, value = call.shape(1), call.shape(2)
    columns = key[1] if len(key) == 3 else key[2]
    given = value[2] if len(value) == 3 else value[1] * value[3]
    heads = call.attributes.get("num_heads", key[1] if len(key) == 4 else 1)
    return Work(batch * rows * columns * (width + given), 5 * batch * heads * rows * columns)


def _per_output(count: int) -> Callable[[Call], Work]:
    return lambda call: Work(0, count * call.outputs[0].elements)


def _per_input(count: int) -> Callable[[Call], Work]:
    return lambda call: Work(0, count * math.prod(call.shape(0)))


def _elementwise(call: Call) -> Work:
    operands = sum(value is not None for value in call.inputs)
    return Work(0, max(1, operands - 1) * call.outputs[0].elements)


def _skip_normalisation(count: int) -> Callable[[Call], Work]:
    """SkipLayerNormalization: input, skip, gamma, and a beta and a bias that may be left out."""

    def work(call: Call) -> Work:
        has_bias = sum(value is not None for value in call.inputs) > 4
        return Work(0, (count + 1 + has_bias) * call.outputs[0].elements)

    return work


def _nothing(call: Call) -> Work:
    del call
    return Work()


VIEWS = frozenset({"Constant", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"})
_MOVES = (
    "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Gather", "GatherElements",
    "GatherND", "MemcpyFromHost", "MemcpyToHost", "OneHot", "Pad", "ReorderInput", "ReorderOutput",
    "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Trilu",
)  # fmt: skip
_ELEMENTWISE = (
    "Abs", "Add", "And", "BiasAdd", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Cast", "CastLike", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater",
    "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QLinearAdd", "QLinearMul", "Range", "Reciprocal",
    "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where", "Xor",
)  # fmt: skip
_REDUCTIONS = (
    "ArgMax", "ArgMin", "CumSum", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum",
)  # fmt: skip
_INTEGER = (
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
)  # fmt: skip
_PARTLY = {"Gather": (0,), "GatherElements": (0,), "GatherND": (0,), "Slice": (0,)}
_RULES: dict[str, Callable[[Call], Work]] = {
    **dict.fromkeys(VIEWS, _nothing),
    **dict.fromkeys(_MOVES, _nothing),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _per_input(1)),
    "MatMul": _product("MatMul"),
    "FusedMatMul": _transposing_product,
    "Gemm": _product("Gemm"),
    "FusedGemm": _product("Gemm", per_output=1),
    "Conv": _product("Conv"),
    "FusedConv": _product("Conv", per_output=1),
    "MatMulInteger": _product("MatMul"),
    "MatMulInteger16": _product("MatMul"),
    "ConvInteger": _product("Conv"),
    "QLinearMatMul": _product("MatMul", right=3, per_output=2),
    "QLinearConv": _product("Conv", right=3, per_output=2),
    "QGemm": _product("Gemm", right=3, per_output=2),
    "MatMulIntegerToFloat": _product("MatMul", per_output=2),
    "DynamicQuantizeMatMul": _quantising_product,
    "MatMulNBits": _product("MatMul"),
    "Attention": _packed_attention,
    "QAttention": _packed_attention,
    "MultiHeadAttention": _attention,
    "Softmax": _per_output(5),
    "LogSoftmax": _per_output(6),
    "BiasSoftmax": _per_output(6),
    "LayerNormalization": _per_output(7),
    "InstanceNormalization": _per_output(7),
    "GroupNormalization": _per_output(7),
    "BatchNormalization": _per_output(2),
    "SimplifiedLayerNormalization": _per_output(4),
    "RMSNormalization": _per_output(4),
    "SkipLayerNormalization": _skip_normalisation(7),
    "SkipSimplifiedLayerNormalization": _skip_normalisation(4),
    "LpNormalization": _per_output(3),
    "Gelu": _per_output(5),
    "BiasGelu": _per_output(6),
    "FastGelu": _per_output(8),
    "QuickGelu": _per_output(3),
    "Elu": _per_output(3),
    "LeakyRelu": _per_output(2),
    "HardSigmoid": _per_output(3),
    "Softplus": _per_output(3),
    "QuantizeLinear": _per_output(3),
    "DynamicQuantizeLinear": _per_output(5),
    "DequantizeLinear": _per_output(2),
}


def known_operators() -> Sequence[str]:
    """Return the operators that can be counted."""
    return sorted(_RULES)
