"""What is measured: correlation, NaN, relative scale, padding, the largest batch."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from taemi_export.compare import compare_output, pearson
from taemi_export.padding import cut_rows, padding_difference
from taemi_export.sizes import Case
from taemi_runtime.draw import draw_inputs
from taemi_runtime.spec import Gate, GraphSpec, OutputSpec


def difference(toy: ModuleType, got: np.ndarray, expected: np.ndarray) -> object:
    spec = toy.front_spec()
    item = replace(spec.outputs[0], mask=None)
    return compare_output(spec, item, Case("c", {"batch": 1, "samples": 150}, 0), {}, got, expected)


def test_correlation_is_pearsons_and_is_unknown_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(500), rng.standard_normal(500)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert pearson(-b, b) == pytest.approx(-1)
    assert pearson(a, np.full(500, 0.25)) is None
    assert pearson(np.full(500, 0.25), b) == 0
    assert pearson(np.where(np.arange(500) == 3, np.nan, b), b) == 0
    # Float32 rounding around a constant is no variation.
    noise = np.float32(0.25) * (1 + 1e-7 * np.sign(rng.standard_normal(500)))
    assert pearson(a, noise) is None


def test_relative_gates_divide_by_the_deviation_and_never_by_less_than_one(toy: ModuleType) -> None:
    rng = np.random.default_rng(1)
    gate = Gate(max_abs=1e-2, relative=True)
    for scale, passes in ((0.01, False), (1.0, False), (100.0, True)):
        expected = (scale * rng.standard_normal((1, 14, 12))).astype(np.float32)
        got = expected.copy()
        got[0, 2, 3] += np.float32(0.05)
        found = difference(toy, got, expected)
        assert found.scale == pytest.approx(max(1.0, float(expected.astype(np.float64).std())))
        assert found.passes(gate) is passes
        assert not found.passes(replace(gate, relative=False))


def test_every_limit_is_judged_and_named(toy: ModuleType) -> None:
    rng = np.random.default_rng(2)
    expected = rng.standard_normal((1, 14, 12)).astype(np.float32)
    got = expected + np.float32(0.1) * rng.standard_normal((1, 14, 12)).astype(np.float32)
    found = difference(toy, got, expected)
    for gate, word in (
        (Gate(max_abs=0.01), "max "),
        (Gate(mean_abs=0.01), "mean "),
        (Gate(min_cosine=0.9999), "cosine "),
        (Gate(min_rho=0.9999), "rho "),
    ):
        assert [text for text in found.failures(gate) if text.startswith(word)], gate
        assert len(found.failures(gate)) == 1
    assert found.passes(Gate())
    got[0, 0, :2] = np.nan
    broken = difference(toy, got, expected)
    assert broken.nans == 2
    assert broken.failures(Gate()) == ["2 values are not finite"]


def test_rows_are_cut_out_of_their_padding_and_lose_nothing_else(toy: ModuleType) -> None:
    spec = toy.front_spec()
    inputs = draw_inputs(spec, {"batch": 4, "samples": 333}, seed=5)
    cuts = {cut.row: cut for cut in cut_rows(spec, inputs)}
    assert 0 not in cuts, "the first row is never padded"
    assert len(cuts) >= 2
    for row, cut in cuts.items():
        length = cut.sizes["samples"]
        assert cut.sizes["hops"] == int(inputs["signal_mask"][row].sum())
        assert cut.inputs["signal"].shape == (1, length)
        assert cut.inputs["signal_mask"].all()
        assert spec.check(cut.inputs) == cut.sizes
        # Nothing but padding was cut off, and all of it.
        assert inputs["signal"][row, length - 1] != 0 or length == 20
        assert not inputs["signal"][row, length:].any()


def test_graphs_of_fixed_length_or_without_masks_have_nothing_to_cut(toy: ModuleType) -> None:
    spec = toy.front_spec()
    fixed = replace(
        spec,
        symbols=tuple(
            replace(symbol, minimum=150, maximum=150) if symbol.name == "samples" else symbol
            for symbol in spec.symbols
        ),
    )
    assert cut_rows(fixed, draw_inputs(fixed, {"batch": 3}, seed=1)) == []
    bare = GraphSpec("bare", (spec.symbols[0],), (replace(spec.inputs[0], shape=("batch", 9)),), (), {})
    assert cut_rows(bare, draw_inputs(bare, {"batch": 3}, seed=1)) == []


class Leaky(torch.nn.Module):
    """Takes the mean over padding, too."""

    def forward(self, signal: Tensor, signal_mask: Tensor) -> Tensor:
        hops = signal.unfold(1, 20, 10)[:, : signal_mask.shape[1]].mean(-1, keepdim=True)
        return (hops - signal.mean(1)[:, None, None]).expand(-1, -1, 12)


def test_a_graph_that_reads_padding_is_caught_and_a_sound_one_is_not(toy: ModuleType) -> None:
    spec = toy.front_spec()
    item: OutputSpec = spec.outputs[0]
    inputs = draw_inputs(spec, {"batch": 4, "samples": 333}, seed=5)
    torch.manual_seed(3)
    for module, leaks in ((toy.Front().eval(), False), (Leaky(), True)):

        def run(arrays: dict[str, np.ndarray], module: torch.nn.Module = module) -> dict[str, np.ndarray]:
            with torch.inference_mode():
                return {"features": module(**{k: torch.from_numpy(v) for k, v in arrays.items()}).numpy()}

        padded = run(inputs)
        worst = max(
            padding_difference(spec, item, cut, padded, run(cut.inputs)) for cut in cut_rows(spec, inputs)
        )
        assert (worst > 1e-3) is leaks, worst
