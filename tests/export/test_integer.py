"""Integer products: exact where the numbers are integers, close where they are not, and only where told."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from taemi_export.integer import convert_to_integer
from taemi_runtime.errors import ExportError
from taemi_runtime.processor import dot_products_of, has_dot_products
from taemi_runtime.spec import Array

exact = pytest.mark.skipif(not has_dot_products(), reason="8-bit sums saturate on this processor")


def graph(body: str, inputs: str, outputs: str, **weights: Array) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": 20]> toy ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **inputs: Array) -> Array:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def whole_weights(rng: np.random.Generator, *shape: int, most: int = 127, columns: int = -1) -> Array:
    """Draw integers whose largest in each output column is ``most``: quantising them loses nothing."""
    weights = rng.integers(-most, most + 1, size=shape).astype(np.float32)
    np.moveaxis(weights, columns, -1).reshape(-1, shape[columns])[0] = most
    first = np.moveaxis(weights, columns, 0).reshape(shape[columns], -1)
    assert (np.abs(first).max(1) == most).all()
    return weights


def whole_values(rng: np.random.Generator, *shape: int) -> Array:
    """Draw integers from 0 to 255, both of which occur: their scale is 1 and their zero is 0."""
    values = rng.integers(0, 256, size=shape).astype(np.float32)
    values.reshape(-1)[:2] = 0, 255
    return values


@exact
def test_products_of_integers_are_exact():
    rng = np.random.default_rng(1)
    weight, bias = whole_weights(rng, 48, 32), np.arange(32, dtype=np.float32)
    model = graph(
        "a = MatMul(x, w) \n y = Add(a, b)",
        "float[rows, steps, 48] x",
        "float[rows, steps, 32] y",
        w=weight,
        b=bias,
    )
    made = convert_to_integer(model, min_elements=1, few_rows=0)
    assert made.counts == {"int8": 1}
    assert operators(made.model)["MatMul"] == 0
    values = whole_values(rng, 3, 5, 48)
    np.testing.assert_array_equal(run(made.model, x=values), values @ weight + bias)


@exact
def test_gemm_with_a_transposed_weight_is_a_product_and_a_sum():
    rng = np.random.default_rng(2)
    weight, bias = whole_weights(rng, 32, 48, columns=0), np.arange(32, dtype=np.float32)
    model = graph("y = Gemm<transB = 1>(x, w, b)", "float[rows, 48] x", "float[rows, 32] y", w=weight, b=bias)
    made = convert_to_integer(model, min_elements=1, few_rows=0).model
    assert operators(made)["Gemm"] == 0
    values = whole_values(rng, 7, 48)
    np.testing.assert_array_equal(run(made, x=values), values @ weight.T + bias)


@exact
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1), (10, 5), (1, 1)])
def test_convolutions_over_time_are_products_at_every_length(kernel: int, stride: int):
    rng = np.random.default_rng(3)
    weight, bias = whole_weights(rng, 16, 8, kernel, columns=0), np.arange(16, dtype=np.float32)
    model = graph(
        f"y = Conv<strides = [{stride}]>(x, w, b)",
        "float[rows, 8, length] x",
        "float[rows, 16, frames] y",
        w=weight,
        b=bias,
    )
    made = convert_to_integer(model, min_elements=1, few_rows=0).model
    assert operators(made)["Conv"] == 0
    for length in (kernel, kernel + 1, kernel + stride, kernel + 4 * stride + 1, 97):
        values = whole_values(rng, 2, 8, length)
        np.testing.assert_array_equal(run(made, x=values), run(model, x=values))


def test_real_numbers_come_close():
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((256, 64)).astype(np.float32) * np.geomspace(1e-3, 10, 64, dtype=np.float32)
    model = graph("y = MatMul(x, w)", "float[rows, 256] x", "float[rows, 64] y", w=weight)
    values = rng.standard_normal((40, 256), dtype=np.float32)
    expected = values @ weight
    for bits, allowed in ((8, 0.02), (7, 0.03)):
        error = run(convert_to_integer(model, bits=bits, few_rows=0).model, x=values) - expected
        # Column by column: with one scale for all of them the smallest would be lost.
        assert (error.std(0) < allowed * expected.std(0)).all()


def test_weights_of_seven_bits_cannot_saturate():
    weight = np.full((64, 32), 3.0, np.float32)
    model = graph("y = MatMul(x, w)", "float[rows, 64] x", "float[rows, 32] y", w=weight)
    made = convert_to_integer(model, bits=7, min_elements=1, few_rows=0).model
    stored = [onnx.numpy_helper.to_array(item) for item in made.graph.initializer]
    (integers,) = [array for array in stored if array.dtype == np.int8]
    assert 2 * 255 * int(np.abs(integers.astype(int)).max()) < 2**15
    values = np.full((3, 64), 5.0, np.float32)
    np.testing.assert_allclose(run(made, x=values), values @ weight, rtol=1e-5)


def test_a_value_that_feeds_three_products_is_quantised_once():
    rng = np.random.default_rng(6)
    names = "qkv"
    weights = {name: rng.standard_normal((32, 32), dtype=np.float32) for name in names}
    body = "\n".join(f"y{name} = MatMul(x, {name})" for name in names)
    outputs = ", ".join(f"float[rows, 32] y{name}" for name in names)
    made = convert_to_integer(
        graph(body, "float[rows, 32] x", outputs, **weights), min_elements=1, few_rows=0
    ).model
    assert operators(made)["DynamicQuantizeLinear"] == 1
    assert operators(made)["MatMulInteger"] == 3


def test_a_weight_that_is_read_twice_is_stored_once_and_a_column_of_zeros_stays_zero():
    weight = np.random.default_rng(7).standard_normal((32, 32), dtype=np.float32)
    weight[:, 5] = 0
    model = graph("h = MatMul(x, w)\n y = MatMul(h, w)", "float[rows, 32] x", "float[rows, 32] y", w=weight)
    made = convert_to_integer(model, min_elements=1, few_rows=0).model
    assert sum(item.data_type == onnx.TensorProto.INT8 for item in made.graph.initializer) == 1
    found = run(made, x=np.ones((2, 32), np.float32))
    assert np.isfinite(found).all()
    assert (found[:, 5] == 0).all()


def test_what_cannot_gain_stays_in_float32_and_is_named():
    rng = np.random.default_rng(8)
    body = """
      a = MatMul(x, big)
      b = MatMul(a, small)
      c = MatMul(b, x)
      d = Unsqueeze(c, zero)
      e = Conv<pads = [1, 1]>(d, padded)
      y = Conv<group = 2>(e, grouped)
    """
    model = graph(
        body,
        "float[128, 128] x",
        "float[1, 128, 128] y",
        big=rng.standard_normal((128, 128), dtype=np.float32),
        small=rng.standard_normal((128, 128), dtype=np.float32)[:, :128],
        zero=np.array([0]),
        padded=rng.standard_normal((128, 128, 3), dtype=np.float32),
        grouped=rng.standard_normal((128, 64, 1), dtype=np.float32),
    )
    made = convert_to_integer(model, min_elements=64 * 128, few_rows=0)
    assert made.counts == {"float32": 3, "int8": 2}
    assert [len(names) for names in made.kept.values()] == [1, 2]
    names = {node.name for node in made.model.graph.node}
    assert {name for group in made.kept.values() for name in group} <= names
    assert "both factors depend on the input" in made.kept


def test_a_few_rows_are_multiplied_in_float32_but_not_with_a_huge_matrix():
    rng = np.random.default_rng(10)
    model = graph(
        "h = MatMul(x, w)\n y = MatMul(h, huge)\n z = MatMul(many, w)",
        "float[batch, 1, 128] x, float[batch, steps, 128] many",
        "float[batch, 1, 8448] y, float[batch, steps, 128] z",
        w=rng.standard_normal((128, 128), dtype=np.float32),
        huge=rng.standard_normal((128, 8448), dtype=np.float32),
    )
    made = convert_to_integer(model)
    assert made.counts == {"float32": 1, "int8": 2}
    assert [len(names) for names in made.kept.values()] == [1]
    assert "few rows" in next(iter(made.kept))


def test_a_graph_without_large_products_is_refused():
    model = graph("y = MatMul(x, w)", "float[rows, 8] x", "float[rows, 8] y", w=np.ones((8, 8), np.float32))
    with pytest.raises(ExportError, match="none of its 1 products has a constant matrix of 16384"):
        convert_to_integer(model)
    with pytest.raises(ValueError, match="bits is 4"):
        convert_to_integer(model, bits=4)


def test_the_float_graph_is_left_alone():
    weight = np.random.default_rng(9).standard_normal((128, 128), dtype=np.float32)
    model = graph("y = MatMul(x, w)", "float[rows, 128] x", "float[rows, 128] y", w=weight)
    before = model.SerializeToString()
    first, second = (convert_to_integer(model, few_rows=0) for _ in range(2))
    assert model.SerializeToString() == before
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.model.ByteSize() < 0.3 * model.ByteSize()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu avx2 avx512f", False),
        ("x86_64", "fpu avx2 avx_vnni", True),
        ("AMD64", "fpu avx512f avx512_vnni", True),
        ("x86_64", "", False),
        ("aarch64", "", True),
        ("arm64", "", True),
    ],
)
def test_which_processors_add_without_loss(machine: str, flags: str, expected: bool):
    cpuinfo = f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n" if flags else ""
    assert dot_products_of(machine, cpuinfo) is expected
