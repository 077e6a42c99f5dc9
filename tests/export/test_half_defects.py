"""Defects that only half precision has: found, named, and mended by putting their block into float32."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from taemi_export import mending
from taemi_export.bisection import Jump, find_jump, relative_error, split_blocks
from taemi_export.mending import convert_and_mend
from taemi_export.precision import DEFAULT_KEEP, convert_to_half
from taemi_export.rounding import RoundedGraph
from taemi_runtime.errors import ParityError
from taemi_runtime.spec import Gate


def test_a_sound_graph_needs_no_mending(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network())
    mended = convert_and_mend(judged.model, graphs.SPEC, judged.calls)
    assert mended.mends == ()
    assert mended.outputs[0].passed
    assert mended.cases == len(judged.calls) >= 5
    assert mended.outputs[0].max_abs > 0


def test_an_intermediate_of_1e5_is_found_named_and_mended(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network("overflow"))
    inputs = judged.calls[0].inputs
    inner = RoundedGraph(judged.model, ["large"]).run(inputs)
    assert np.abs(inner["large"]).max() > 1e5
    assert np.abs(inner["scores"]).max() < 10
    broken = convert_to_half(judged.model, graphs.SPEC)
    assert not np.isfinite(RoundedGraph(broken.model).run(inputs)["scores"]).all()

    mended = convert_and_mend(judged.model, graphs.SPEC, judged.calls)
    (mend,) = mended.mends
    assert mend.block == "blocks.1"
    assert "to inf, first at node node_large" in mend.found
    kept = mended.graph.kept["error jumps in block blocks.1"]
    assert "node_large" in kept
    assert not any(name.startswith("node_layernorm") for name in kept)  # it had its reason before
    assert mended.outputs[0].passed
    # The other blocks still compute in half precision.
    assert mended.graph.counts["float16"] > 10


def test_a_variance_that_overflows_silently_is_found_named_and_mended(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network("variance"))
    broken = convert_to_half(judged.model, graphs.SPEC).model
    for call in judged.calls:
        got = RoundedGraph(broken).run(call.inputs)["scores"]
        assert np.isfinite(got).all()  # a search for NaN and Inf in the output finds nothing
    mended = convert_and_mend(judged.model, graphs.SPEC, judged.calls)
    (mend,) = mended.mends
    assert mend.block == "blocks.1"
    assert "first at node node_square" in mend.found
    assert "node_square" in mended.graph.kept["error jumps in block blocks.1"]
    assert mended.outputs[0].passed


def test_an_overflow_that_no_output_shows_is_mended_too(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network("variance"))
    blind = replace(graphs.SPEC, gates={"fp16": Gate(max_abs=1e3, mean_abs=1e3)})
    mended = convert_and_mend(judged.model, blind, judged.calls)
    (mend,) = mended.mends
    assert mend.block == "blocks.1"
    assert "Mul (node node_square) gives inf in half precision" in mend.found


def test_the_square_of_a_decomposed_norm_is_kept_when_it_says_so(graphs: ModuleType) -> None:
    """With Pow in place of the product the default list alone is enough."""
    model = graphs.network("variance")
    for node in model.graph.node:
        if node.name == "node_square":
            node.op_type = "Pow"
            node.input[1] = "exponent"
    model.graph.initializer.append(graphs.numpy_helper.from_array(np.float32(2), "exponent"))
    judged = graphs.judged(model)
    assert convert_and_mend(judged.model, graphs.SPEC, judged.calls).mends == ()
    keep = replace(
        DEFAULT_KEEP, operators={"softmax": ("Softmax",), "normalisation": ("LayerNormalization",)}
    )
    bare = convert_and_mend(judged.model, graphs.SPEC, judged.calls, keep=keep)
    assert [mend.block for mend in bare.mends] == ["blocks.1"]


def test_a_gate_that_float32_cannot_meet_fails_with_everything_that_was_tried(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network())
    for call in judged.calls:
        call.expected["scores"][...] += 1
    with pytest.raises(
        ParityError, match=r"graph 'net' cannot be converted.*scores in case .*max 1.* > 0\.02.*Tried: block"
    ):
        convert_and_mend(judged.model, graphs.SPEC, judged.calls)


def test_a_tight_gate_puts_blocks_back_until_it_holds(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network())
    plain = convert_and_mend(judged.model, graphs.SPEC, judged.calls, half_inputs=False)
    limit = plain.outputs[0].max_abs * 0.7
    tight = replace(graphs.SPEC, gates={"fp16": Gate(max_abs=limit)})
    mended = convert_and_mend(judged.model, tight, judged.calls, half_inputs=False)
    assert mended.mends
    assert mended.outputs[0].max_abs <= limit
    assert mended.graph.counts["float32"] > plain.graph.counts["float32"]


@pytest.mark.parametrize("share", [0.6, 0.4])
def test_no_block_stays_in_float32_that_need_not(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    judged = graphs.judged(graphs.network())
    plain = convert_and_mend(judged.model, graphs.SPEC, judged.calls, half_inputs=False)
    tight = replace(graphs.SPEC, gates={"fp16": Gate(max_abs=plain.outputs[0].max_abs * share)})
    # Whatever the search names first, here the blocks from the last to the first, what helps is what stays.
    monkeypatch.setattr(
        mending,
        "find_jump",
        lambda single, half, blocks, inputs, passed: next(
            (Jump(block, 0.0, 0.0, "", "") for block in reversed(blocks) if block.name not in passed), None
        ),
    )
    mended = convert_and_mend(judged.model, tight, judged.calls, half_inputs=False)
    assert mended.mends
    blocks = {block.name: block.nodes for block in split_blocks(judged.model)}
    for mend in mended.mends:
        others = {other.block: blocks[other.block] for other in mended.mends if other is not mend}
        half = convert_to_half(judged.model, tight, extra_fp32=others, half_inputs=False)
        run = RoundedGraph(half.model).run
        worst = max(
            float(np.abs(run(call.inputs)["scores"] - call.expected["scores"]).max()) for call in judged.calls
        )
        assert worst > tight.gates["fp16"].max_abs, f"{mend.block} is not needed"


def test_a_graph_that_holds_only_in_float32_is_no_half_precision_graph(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network())
    # Nothing but float32 itself comes as close as this.
    exact = replace(graphs.SPEC, gates={"fp16": Gate(max_abs=2e-6)})
    with pytest.raises(ParityError, match=r"every block in float32.*--graph net --precision fp32; name"):
        convert_and_mend(judged.model, exact, judged.calls, half_inputs=False)


def test_blocks_are_called_after_their_modules(graphs: ModuleType) -> None:
    names = [block.name for block in split_blocks(graphs.network())]
    assert names == ["inputs", "project", "blocks.0", "blocks.1", "blocks.2", "head"]
    model = graphs.network()
    for tensor in model.graph.initializer:
        new = tensor.name.replace(".", "_")
        for node in model.graph.node:
            node.input[:] = [new if name == tensor.name else name for name in node.input]
        tensor.name = new
    blocks = split_blocks(model)
    assert max(len(block.nodes) for block in blocks) <= 8
    assert sum(len(block.nodes) for block in blocks) == len(model.graph.node)
    assert any(" to " in block.name for block in blocks)


def test_nothing_jumps_where_nothing_differs(graphs: ModuleType) -> None:
    judged = graphs.judged(graphs.network())
    assert find_jump(judged.model, judged.model, split_blocks(judged.model), judged.calls[0].inputs) is None


def test_relative_error_knows_infinities() -> None:
    expected = np.array([1.0, 2.0, np.inf], np.float32)
    assert relative_error(expected, expected) == 0
    assert relative_error(np.array([1.0, np.inf, np.inf]), expected) == np.inf
    assert relative_error(np.array([1.0, 2.5, np.nan]), expected) == pytest.approx(0.5 / np.sqrt(5))
