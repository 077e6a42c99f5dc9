"""Counted operations against hand calculations: single operators, and whole networks."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from taemi_bench.counting import count_file, count_graph
from taemi_bench.operator_costs import Call, bytes_read, bytes_written, count_work, precision_of
from taemi_export.shapes import Value
from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError

FLOAT, INT64, UINT8, INT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8


def value(*shape: int, dtype: str = "float32") -> Value:
    return Value(dtype, shape)


def graph(nodes, inputs, outputs, constants=(), opset=20):
    """A model from nodes, {name: (type, shape)} and arrays by name."""
    values = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in items.items()]
        for items in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", *values, tensors),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )


@pytest.mark.parametrize(
    ("call", "multiply_adds", "other"),
    [
        (Call("MatMul", (value(2, 5, 7), value(7, 3)), (value(2, 5, 3),)), 2 * 5 * 3 * 7, 0),
        (Call("MatMul", (value(4, 5, 7), value(4, 7, 6)), (value(4, 5, 6),)), 4 * 5 * 6 * 7, 0),
        (Call("Gemm", (value(5, 7), value(7, 3), value(3)), (value(5, 3),)), 5 * 7 * 3, 0),
        # transA: the first factor is [inner, rows].
        (Call("Gemm", (value(7, 5), value(7, 3)), (value(5, 3),), {"transA": 1}), 5 * 7 * 3, 0),
        # [batch, channels, time], kernel of 10: 6 output channels, 4 input channels.
        (
            Call("Conv", (value(2, 4, 30), value(6, 4, 10), value(6)), (value(2, 6, 21),)),
            2 * 6 * 21 * 4 * 10,
            0,
        ),
        # Two groups: each output channel sees half of the 8 input channels.
        (
            Call("Conv", (value(1, 8, 30), value(6, 4, 3)), (value(1, 6, 28),), {"group": 2}),
            6 * 28 * 4 * 3,
            0,
        ),
        (Call("Conv", (value(1, 3, 32, 32), value(8, 3, 16, 16)), (value(1, 8, 2, 2),)), 8 * 4 * 3 * 256, 0),
        (
            Call("MatMulInteger", (value(5, 7, dtype="uint8"), value(7, 3, dtype="int8")), (value(5, 3),)),
            5 * 7 * 3,
            0,
        ),
        (
            Call("DynamicQuantizeMatMul", (value(5, 7), value(7, 3, dtype="int8"), value(3)), (value(5, 3),)),
            5 * 7 * 3,
            5 * 35 + 2 * 15,
        ),
        (Call("MatMulIntegerToFloat", (value(5, 7, dtype="uint8"), None), (value(5, 3),)), 5 * 7 * 3, 2 * 15),
        (
            Call("FusedMatMul", (value(4, 5, 7), value(4, 3, 7)), (value(4, 5, 3),), {"transB": 1}),
            4 * 5 * 7 * 3,
            0,
        ),
        (Call("FusedMatMul", (value(4, 7, 5), value(4, 7, 3)), (value(4, 5, 3),)), 4 * 5 * 7 * 3, 0),
        # batch 2, 10 rows, 16 wide, 4 heads: query, key and value, then scores and context.
        (
            Call(
                "Attention",
                (value(2, 10, 16), value(16, 48), value(48)),
                (value(2, 10, 16),),
                {"num_heads": 4},
            ),
            2 * 10 * 16 * 48 + 2 * (2 * 10 * 10 * 16),
            5 * 2 * 4 * 10 * 10 + 2 * 10 * 48,
        ),
        # 10 queries of width 16 on 12 keys, values 8 wide.
        (
            Call(
                "MultiHeadAttention",
                (value(2, 10, 16), value(2, 12, 16), value(2, 12, 8)),
                (value(2, 10, 8),),
            ),
            2 * 10 * 12 * (16 + 8),
            5 * 2 * 10 * 12,
        ),
        (Call("Softmax", (value(3, 4),), (value(3, 4),)), 0, 5 * 12),
        (Call("LayerNormalization", (value(3, 4), value(4), value(4)), (value(3, 4),)), 0, 7 * 12),
        (
            Call(
                "SkipLayerNormalization",
                (value(3, 4), value(3, 4), value(4), value(4), value(4)),
                (value(3, 4),),
            ),
            0,
            (7 + 2) * 12,
        ),
        (Call("Gelu", (value(3, 4),), (value(3, 4),)), 0, 5 * 12),
        (Call("Add", (value(3, 4), value(4)), (value(3, 4),)), 0, 12),
        (Call("Max", (value(12), value(12), value(12)), (value(12),)), 0, 2 * 12),
        (Call("ReduceSum", (value(3, 4), value(1, dtype="int64")), (value(3),)), 0, 12),
        (Call("Transpose", (value(3, 4),), (value(4, 3),)), 0, 0),
    ],
)
def test_an_operator_s_arithmetic_is_what_its_definition_says(call, multiply_adds, other):
    work = count_work(call)
    assert (work.multiply_adds, work.other_operations) == (multiply_adds, other)


def test_bytes_follow_the_element_types_and_what_is_really_read():
    product = Call("MatMul", (value(5, 7, dtype="float16"), value(7, 3, dtype="float16")), (value(5, 3),))
    assert (bytes_read(product), bytes_written(product)) == ((70, 42), 60)
    # Of a table the rows that are looked up; a view moves nothing.
    rows = Call("Gather", (value(1000, 8), value(2, 3, dtype="int64")), (value(2, 3, 8),))
    assert (bytes_read(rows), bytes_written(rows)) == ((6 * 8 * 4, 6 * 8), 6 * 8 * 4)
    view = Call("Reshape", (value(6, 4), value(2, dtype="int64")), (value(4, 6),))
    assert (bytes_read(view), bytes_written(view)) == ((0, 0), 0)


def test_precision_is_that_of_the_arithmetic():
    integer = Call(
        "MatMulInteger",
        (value(5, 7, dtype="uint8"), value(7, 3, dtype="int8")),
        (value(5, 3, dtype="int32"),),
    )
    found = [
        precision_of(call)
        for call in (
            integer,
            Call("Add", (value(2, dtype="float16"), value(2, dtype="float16")), (value(2, dtype="float16"),)),
            Call("Add", (value(2), value(2)), (value(2),)),
            Call("Add", (value(2, dtype="int64"), value(2, dtype="int64")), (value(2, dtype="int64"),)),
        )
    ]
    assert found == ["int8", "fp16", "fp32", ""]


def test_weights_count_once_and_moved_bytes_count_every_pass():
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["b"]),
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Add", ["b", "rows"], ["y"]),
        ],
        {"x": (FLOAT, ["n", 8]), "ids": (INT64, ["n"])},
        {"y": (FLOAT, ["n", 8])},
        {"w": np.ones((8, 8), np.float32), "table": np.ones((5000, 8), np.float32)},
    )
    found = count_graph(model, "g.onnx", {"n": 3}).cost
    assert found.multiply_adds == 2 * 3 * 8 * 8
    assert found.other_operations == 24
    rows, weight = 3 * 8 * 4, 8 * 8 * 4
    assert found.weight_bytes == weight + 5000 * 8 * 4
    # Products: two in, one out each; the gather reads rows and indices; the sum reads two.
    assert found.moved_bytes == 2 * (rows + weight + rows) + (rows + 24 + rows) + 3 * rows
    assert found.least_bytes == weight + rows + (rows + 24) + rows
    assert [cost.operator for cost in found.operators] == ["MatMul", "Add", "Gather"]
    assert found.note == ""


def test_half_of_the_bytes_where_a_float32_graph_is_computed_in_half_precision():
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ["n", 8])},
        {"y": (FLOAT, ["n", 8])},
        {"w": np.ones((8, 8), np.float32)},
    )
    full, half = (count_graph(model, "g", {"n": 3}, floats=kind) for kind in ("float32", "float16"))
    assert full.cost.moved_bytes == 2 * half.cost.moved_bytes
    assert [found.nodes[0].precision for found in (full, half)] == ["fp32", "fp16"]


def test_lengths_that_are_computed_from_shapes_are_known():
    """Behind Range, Max and Gather of a shape ONNX's own inference knows nothing."""
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["length"]),
            helper.make_node("Squeeze", ["length"], ["end"]),
            helper.make_node("Range", ["zero", "end", "step"], ["places"]),
            helper.make_node("Max", ["length", "floor"], ["most"]),
            helper.make_node("Expand", ["places", "most"], ["wide"]),
            helper.make_node("Cast", ["wide"], ["floats"], to=FLOAT),
            helper.make_node("Add", ["floats", "row"], ["y"]),
        ],
        {"x": (FLOAT, [2, "n"]), "row": (FLOAT, ["n"])},
        {"y": (FLOAT, ["m"])},
        {
            "one": np.array([1], np.int64),
            "zero": np.array(0, np.int64),
            "step": np.array(1, np.int64),
            "floor": np.array([1], np.int64),
        },
    )
    found = count_graph(model, "g", {"n": 300})
    assert found.cost.note == ""
    assert next(node for node in found.nodes if node.operator == "Add").other_operations == 300


def test_unknown_operators_are_named_and_so_is_what_hangs_on_them():
    model = graph(
        [
            helper.make_node("Secret", ["x"], ["a"], domain="com.example"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Det", ["square"], ["d"]),
            helper.make_node("Add", ["square", "square"], ["y"]),
        ],
        {"x": (FLOAT, [4]), "square": (FLOAT, [2, 3, 3])},
        {"b": (FLOAT, ["k"]), "d": (FLOAT, [2]), "y": (FLOAT, [2, 3, 3])},
    )
    found = count_graph(model, "g", {}).cost
    assert found.note == "not counted: 1 com.example.Secret, 1 Relu, 1 Det"
    assert found.other_operations == 18


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\xff\xff\xff no graph")
    with pytest.raises(BundleError, match="no ONNX graph"):
        count_file(path, {})


def linear(rows: int, width: int, out: int) -> int:
    return rows * width * out


def transformer_layer(rows: int, width: int, inner: int) -> int:
    """Query, key, value and output projections, scores and context of all heads, two-layer perceptron."""
    return 4 * linear(rows, width, width) + 2 * rows * rows * width + 2 * linear(rows, width, inner)


def counted(folder, name: str, sizes: dict[str, int]):
    bundle = Bundle.open(folder)
    spec = bundle.manifest.graphs[name]
    found = count_file(bundle.file(f"{name}.onnx"), spec.sizes(sizes)).cost
    assert found.note == ""
    return found


@pytest.mark.parametrize(("batch", "sound", "frames"), [(1, 299, 180), (3, 17, 5)])
def test_the_fusion_graph_costs_what_its_architecture_says(demo_bundle, batch, sound, frames):
    config = Bundle.open(demo_bundle).manifest.model
    hidden, inner, heads = config["hidden"], config["feed_forward"], config["heads"]
    assert (hidden, inner, heads) == (512, 1024, 4)
    expected = linear(1, config["text_dim"], hidden)
    for width, rows in ((config["audio_dim"], sound), (config["vision_dim"], frames)):
        expected += linear(rows, width, hidden)
        expected += transformer_layer(rows, hidden, inner)
        # Cross-attention as exported (docs/exact-rewrites.md): one query for each head, as wide as all of
        # them; keys of the whole sequence; the weighted mean of the sequence is projected, not each value.
        expected += linear(1, hidden, hidden) + linear(rows, hidden, hidden)
        expected += 2 * heads * rows * hidden
        expected += linear(heads, hidden, hidden) + linear(1, hidden, hidden)
    expected += linear(1, 3 * hidden, config["head_hidden"]) + linear(1, config["head_hidden"], 6)
    found = counted(demo_bundle, "fusion", {"batch": batch, "audio_len": sound, "vision_len": frames})
    assert found.multiply_adds == batch * expected


def vit(frames: int, width: int, inner: int, layers: int) -> int:
    """ViT on 224 x 224 pixels in patches of 16: 196 of them and one class token."""
    return frames * (linear(196, 3 * 16 * 16, width) + layers * transformer_layer(197, width, inner))


def test_a_vision_transformer_costs_what_its_architecture_says(demo_bundle):
    found = counted(demo_bundle, "vision", {"frames": 3})
    assert found.multiply_adds == vit(3, width=48, inner=96, layers=2)


def wav2vec2(samples: int, channels: int, width: int, inner: int, layers: int, outputs: int) -> int:
    """Baevski et al. 2020: seven convolutions over time, a projection, positions by a grouped one."""
    total, length, before = 0, samples, 1
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        length = (length - kernel) // stride + 1
        total += length * channels * before * kernel
        before = channels
    total += linear(length, channels, width)
    # "Same" padding of 64 at both ends and an even kernel give one place more, which is cut off again.
    total += (length + 1) * width * (width // 16) * 128
    total += layers * transformer_layer(length, width, inner)
    return total + linear(length, width, width) + linear(length, width, outputs)


def test_wav2vec2_costs_what_its_architecture_says(demo_bundle):
    found = counted(demo_bundle, "audio", {"batch": 1, "samples": 16_000})
    assert found.multiply_adds == wav2vec2(16_000, channels=32, width=64, inner=128, layers=2, outputs=3)
    convolutions = next(cost for cost in found.operators if cost.operator == "Conv")
    assert convolutions.nodes == 8


@pytest.mark.slow
def test_vit_b_16_at_224_pixels_costs_17_6_billion_multiply_adds_a_frame():
    """Dosovitskiy et al. 2021; 17.6 G is what their successors' tables give for it."""
    from taemi.encoder_graphs import vision_graph
    from taemi.encoder_sets import PAPER
    from taemi.encoders import load_vision_encoder
    from taemi_export.onnx_graph import trace_graph

    traced = trace_graph(vision_graph(load_vision_encoder(PAPER["vision"], random_weights=True)))
    found = count_graph(traced.model, "vision.onnx", {"frames": 8}).cost
    assert found.multiply_adds == vit(8, width=768, inner=3072, layers=12)
    assert found.multiply_adds / 8 == pytest.approx(17.6e9, rel=0.02)
