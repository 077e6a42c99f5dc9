"""What stays in float32 when a graph is converted to half precision: a table, not code.

Half precision has 11 bits and ends at 65504. What sums many numbers, squares them, raises them to a power
or divides by what it summed leaves that range in trained networks long before their outputs do, and often
without a NaN: a variance that becomes infinite turns a normalised row into zeros, which are finite and
wrong. Convolutions and matrix products are another matter: GPUs accumulate them in float32 and round once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HALF_SMALLEST_NORMAL = 2.0**-14
"""Below this a half-precision number loses bits, below 2**-25 it becomes zero."""


@dataclass(frozen=True)
class KeepList:
    """What stays in float32.

    Args:
        operators: Reason -> the operators that stay for it.
        last_layer: Whether the layer that gives an output stays: its rounding error is nobody else's to
            absorb.
        first_convolution: Whether a convolution that reads a float32 input as it comes stays: of a raw
            signal every bit is meant.
        positions: Whether arithmetic on shapes and constants alone stays: a rotary embedding's angles
            reach thousands, of which half precision keeps no fraction.
        integers: Whether the scaling of integers up to the first layer stays.
    """

    operators: dict[str, tuple[str, ...]] = field(default_factory=dict)
    last_layer: bool = True
    first_convolution: bool = True
    positions: bool = True
    integers: bool = True

    def reason(self, operator: str) -> str | None:
        """Return why every node of an operator stays in float32; ``None`` when it needs not."""
        return next((reason for reason, names in self.operators.items() if operator in names), None)


DEFAULT_KEEP = KeepList(
    operators={
        "normalisation": (
            "BatchNormalization",
            "GroupNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "LpNormalization",
            "MeanVarianceNormalization",
            "RMSNormalization",
        ),
        "softmax": ("LogSoftmax", "Softmax"),
        "reduction": (
            "AveragePool",
            "CumSum",
            "GlobalAveragePool",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMean",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ),
        "power or root": ("Exp", "Log", "Pow", "Reciprocal", "Softplus", "Sqrt"),
        "angle": ("Acos", "Asin", "Atan", "Cos", "Cosh", "Sin", "Sinh", "Tan"),
    }
)

# Operators by what half precision means to them. An operator in none of these groups stays in float32.

MOVING = frozenset(
    {"Abs", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"}
    | {"Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ScatterElements"}
    | {"ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"}
    | {"Where"}
)
"""Exact in any precision: their result is one of their inputs, or its negative. They follow their
neighbours, so that no conversion is needed around them."""

TESTING = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Shape", "Size"}
)
"""They read numbers and give none."""

LIGHT = frozenset(
    {
        "Add",
        "Celu",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
    }
    | {"Mean", "Mish", "Mul", "PRelu", "Pow", "Reciprocal", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt"}
    | {"Sub", "Sum", "Tanh"}
)
"""One number in, one number out: cheap in any precision."""

LAYERS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Where the time goes, and what half precision is for."""

SPREADING = MOVING | {"Add", "Clip", "Div", "Mean", "Mul", "Sub", "Sum"}
"""What hands a number beyond half precision's range on to its output."""

GUARDING = MOVING | {"Clip", "Pow", "Reciprocal", "Sqrt"}
"""What hands a guard against division by zero on to where the division is."""

STATISTICS = frozenset(name for names in DEFAULT_KEEP.operators.values() for name in names) - LIGHT
"""What the default list keeps in float32 and another list may not."""
