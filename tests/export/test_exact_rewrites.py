"""Exact rewrites: the same numbers from less work, and hands off everything else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from taemi_export.attention_keys import transpose_keys_once
from taemi_export.attention_masks import drop_idle_masks, guard_results
from taemi_export.exact_rewrites import rewrite_exactly
from taemi_export.first_row import narrow_to_first_row
from taemi_runtime.spec import Array

WIDTH = 8
# One layer of attention and feed-forward, as PyTorch writes it down, read at its first token. ``{mask}`` is
# what the mask comes from, ``{more}`` a further output.
LAYER = """
<ir_version: 10, opset_import: ["": 20]>
layer (float[batch, tokens, 8] x, bool[batch, tokens] valid) => ({outputs})
<float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 16] up, float[16, 8] down, float[8] gain,
 float[8] bias, int64[2] at12 = {{1, 2}}, int64 first = {{0}}, float zero = {{0}},
 bool[1, 1, 1, 1] all = {{1}}, int64[4] heads = {{0, 0, 2, 4}}, int64[3] joined = {{0, 0, 8}}>
{{
  mask0 = Unsqueeze(valid, at12)
  {mask}
  q0 = MatMul(x, wq)
  q1 = Reshape(q0, heads)
  q = Transpose<perm = [0, 2, 1, 3]>(q1)
  k0 = MatMul(x, wk)
  k1 = Reshape(k0, heads)
  {keys}
  v0 = MatMul(x, wv)
  v1 = Reshape(v0, heads)
  v = Transpose<perm = [0, 2, 1, 3]>(v1)
  scores = MatMul(q, k)
  masked = Add(scores, offset)
  weights = Softmax<axis = -1>(masked)
  void = IsNaN(weights)
  safe = Where(void, zero, weights)
  mixed = MatMul(safe, v)
  back = Transpose<perm = [0, 2, 1, 3]>(mixed)
  whole = Reshape(back, joined)
  summed = Add(x, whole)
  normed = LayerNormalization<axis = -1>(summed, gain, bias)
  wide = MatMul(normed, up)
  bent = Gelu(wide)
  narrow = MatMul(bent, down)
  result = Add(normed, narrow)
  {end}
}}
"""
KEYS = "k = Transpose<perm = [0, 2, 3, 1]>(k1)"
# The way of PyTorch's exporter, through three dimensions.
LONG_KEYS = """
  k2 = Transpose<perm = [0, 2, 1, 3]>(k1)
  size = Shape<start = 0>(k2)
  from_last = Constant<value_ints = [-1]>()
  from_length = Constant<value_ints = [-2]>()
  to_end = Constant<value_ints = [9223372036854775807]>()
  none = Constant<value_ints = [0]>()
  width = Slice(size, from_last, to_end)
  length = Slice(size, from_length, from_last)
  before = Slice(size, none, from_length)
  flat = Concat<axis = 0>({joined})
  k3 = Reshape(k2, flat)
  k4 = Transpose<perm = [0, 2, 1]>(k3)
  full = Concat<axis = 0>({parted})
  k = Reshape(k4, full)
"""
PADDED = "offset = Where(mask0, zero, below)"
IDLE = "shape = Shape(mask0)\n  ones = Expand(all, shape)\n  offset = Where(ones, zero, below)"
VECTOR = "float[batch, 8] vector"
TOKENS = "float[batch, tokens, 8] result"
READ = "vector = Gather<axis = 1>(result, first)"
MEAN = "at1 = Constant<value_ints = [1]>()\n  vector = ReduceMean<keepdims = 0>(result, at1)"


def layer(mask: str = PADDED, outputs: str = VECTOR, end: str = READ, keys: str = KEYS) -> onnx.ModelProto:
    model = onnx.parser.parse_model(LAYER.format(mask=mask, outputs=outputs, end=end, keys=keys))
    rng = np.random.default_rng(5)
    weights = {"below": np.float32(-np.inf)}
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weights[value.name] = rng.standard_normal(shape).astype(np.float32)
    del model.graph.value_info[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def run(model: onnx.ModelProto, x: Array, valid: Array) -> list[Array]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x, "valid": valid}))


def call(batch: int, tokens: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(batch * tokens)
    x = rng.standard_normal((batch, tokens, WIDTH), dtype=np.float32)
    valid = np.arange(tokens)[None] < rng.integers(1, tokens + 1, size=batch)[:, None]
    return x, valid


def multiplications(model: onnx.ModelProto, batch: int, tokens: int) -> int:
    """Count what the products of matrices multiply, with ONNX's own shape inference."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = {"batch": batch, "tokens": tokens}[dim.dim_param]
    done = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*done.graph.value_info, *done.graph.input, *done.graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in done.graph.initializer}
    return sum(
        int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
        for node in done.graph.node
        if node.op_type == "MatMul"
    )


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 7), (3, 1), (3, 12)])
def test_only_the_first_row_passes_the_last_layer(batch: int, tokens: int):
    model = layer()
    before = run(model, *call(batch, tokens))
    full = multiplications(model, batch, tokens)
    narrow_to_first_row(model)
    np.testing.assert_allclose(run(model, *call(batch, tokens))[0], before[0], atol=1e-5)
    # Keys and values stay whole, everything else works on one row.
    rows = batch * tokens
    keys = 2 * rows * WIDTH * WIDTH
    assert multiplications(model, batch, tokens) == keys + (full - keys) // tokens


def test_a_layer_that_is_read_as_a_whole_stays_as_it_is():
    for outputs, end in ((f"{VECTOR}, {TOKENS}", READ), (TOKENS, ""), (VECTOR, MEAN)):
        model = layer(outputs=outputs, end=end)
        before = model.SerializeToString()
        narrow_to_first_row(model)
        assert model.SerializeToString() == before


def test_another_row_than_the_first_is_left_alone():
    model = layer()
    index = next(item for item in model.graph.initializer if item.name == "first")
    index.CopyFrom(onnx.numpy_helper.from_array(np.array(2, np.int64), "first"))
    before = model.SerializeToString()
    narrow_to_first_row(model)
    assert model.SerializeToString() == before


def test_a_wholly_masked_row_gives_zeros_before_and_after():
    model = layer()
    x, valid = call(3, 6)
    valid[1] = False
    before = run(model, x, valid)
    assert np.isfinite(before[0]).all()
    guard_results(model)
    guard = next(node for node in model.graph.node if node.op_type == "IsNaN")
    product = next(node for node in model.graph.node if guard.input[0] in node.output)
    assert product.op_type == "MatMul"
    np.testing.assert_array_equal(run(model, x, valid)[0], before[0])


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 9)])
def test_a_mask_that_hides_nothing_goes_with_its_guard(batch: int, tokens: int):
    model = layer(mask=IDLE)
    before, had = run(model, *call(batch, tokens)), operators(model)
    drop_idle_masks(model)
    np.testing.assert_array_equal(run(model, *call(batch, tokens))[0], before[0])
    gone = Counter({"Add": 1, "IsNaN": 1, "Where": 2, "Expand": 1, "Shape": 1, "Unsqueeze": 1})
    assert had - operators(model) == gone
    assert "below" not in {tensor.name for tensor in model.graph.initializer}


SOME = """
  some = Constant<value = bool[1, 1, 1, 1] {0}>()
  shape = Shape(mask0)
  ones = Expand(some, shape)
  offset = Where(ones, zero, below)
"""
SWAPPED = IDLE.replace("zero, below", "below, zero")
NO_MASK = "offset = Cast<to = 1>(mask0)"


@pytest.mark.parametrize("mask", [PADDED, SOME, SWAPPED, NO_MASK])
def test_a_mask_that_may_hide_something_stays(mask: str):
    model = layer(mask=mask)
    before = model.SerializeToString()
    drop_idle_masks(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 7)])
def test_keys_are_transposed_once(batch: int, tokens: int):
    long = LONG_KEYS.format(joined="from_last, length, width", parted="before, width, length")
    model = layer(keys=long)
    before = run(model, *call(batch, tokens))
    transpose_keys_once(model)
    np.testing.assert_array_equal(run(model, *call(batch, tokens))[0], before[0])
    assert operators(model) == operators(layer())
    assert multiplications(model, 3, 7) == multiplications(layer(), 3, 7)


def test_only_a_swap_of_the_last_two_dimensions_is_one():
    for joined, parted in (
        # [rest, width, length] of memory that lies as [length, width] is no transposition.
        ("from_last, width, length", "before, length, width"),
        ("from_last, length, width", "before, length, width"),
    ):
        model = layer(keys=LONG_KEYS.format(joined=joined, parted=parted))
        before = model.SerializeToString()
        transpose_keys_once(model)
        assert model.SerializeToString() == before


def test_all_of_them_together():
    for mask in (PADDED, IDLE):
        model = layer(mask=mask)
        before = run(model, *call(4, 11))
        rewrite_exactly(model)
        np.testing.assert_allclose(run(model, *call(4, 11))[0], before[0], atol=1e-5)
        assert multiplications(model, 4, 11) < multiplications(layer(mask=mask), 4, 11)
