"""GraphSpec: sizes, checks, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import InputError, SpecError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol, valid_lengths
from taemi_runtime.strict import from_plain, to_plain

WAV2VEC2 = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


def spec(**changes) -> GraphSpec:
    values = {
        "name": "g",
        "symbols": (
            Symbol("batch", maximum=8),
            Symbol("n", minimum=20, typical=40, maximum=100),
            Symbol("m", typical=8, maximum=20, source="n", convs=((5, 4), (2, 1))),
        ),
        "inputs": (
            InputSpec("x", "float32", ("batch", "n"), padding="zero"),
            InputSpec("x_mask", "bool", ("batch", "m"), role="mask", masks="x"),
            InputSpec("v", "float32", ("batch", 3)),
            InputSpec("on", "bool", ("batch", 2), role="presence", governs=(("x",), ("v",))),
        ),
        "outputs": (OutputSpec("y", "float32", ("batch", "m"), mask="x_mask"),),
        "gates": {},
    }
    return GraphSpec(**{**values, **changes})


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(16_000, 49), (96_000, 299), (128_000, 399), (192_000, 599), (400, 1), (399, 0), (1, 0)],
)
def test_lengths_follow_the_convolutions(samples, frames):
    assert Symbol("f", source="s", convs=WAV2VEC2).derive(samples) == frames


def test_valid_lengths_are_at_least_one():
    symbol = Symbol("f", source="s", convs=WAV2VEC2)
    np.testing.assert_array_equal(valid_lengths(symbol, np.array([1, 400, 16_000])), [1, 1, 49])
    np.testing.assert_array_equal(valid_lengths(None, np.array([7])), [7])


def test_sizes_complete_a_choice():
    assert spec().sizes() == {"batch": 1, "n": 40, "m": 8}
    assert spec().sizes({"n": 20, "batch": 2}) == {"batch": 2, "n": 20, "m": 3}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"n": 19}, "cannot take n = 19: expected 20 to 100"),
        ({"n": 101}, "cannot take n = 101: expected 20 to 100"),
        ({"batch": 0}, "cannot take batch = 0: expected 1 to 8"),
        ({"m": 3}, r"no free axis \['m'\]. Choose from: batch, n"),
        ({"k": 3}, r"no free axis \['k'\]"),
    ],
)
def test_sizes_out_of_range_are_refused(chosen, message):
    with pytest.raises(InputError, match=message):
        spec().sizes(chosen)


def test_a_whole_call_passes():
    assert spec().check(draw_inputs(spec(), {"batch": 3, "n": 50})) == {"batch": 3, "n": 50, "m": 11}


def broken(change):
    arrays = draw_inputs(spec(), {"batch": 2, "n": 50})
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("v"), r"missing \['v'\], unexpected \[\]. Give exactly: x, x_mask, v, on"),
        (lambda a: a.update(z=a["v"]), r"missing \[\], unexpected \['z'\]"),
        (
            lambda a: a.update(v=a["v"].astype("float64")),
            r"input g.v has the wrong type: got float64 \[2, 3\], expected float32 \[batch, 3\]",
        ),
        (lambda a: a.update(v=a["v"][0]), r"got float32 \[3\]"),
        (
            lambda a: a.update(v=a["v"][:, :2]),
            r"input g.v has the wrong shape: got float32 \[2, 2\], .* with 3 = 3",
        ),
        (lambda a: a.update(v=a["v"][:1]), r"with batch = 2"),
        (lambda a: a.update(x=a["x"][:, :19], x_mask=a["x_mask"][:, :2]), "n = 19: expected 20 to 100"),
        (lambda a: a.update(x_mask=a["x_mask"][:, :-1]), "m = 10: expected 11, which follows from n = 50"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_with_both_values(change, message):
    with pytest.raises(InputError, match=message):
        spec().check(broken(change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Symbol("a", minimum=0), "symbol 'a' is inconsistent: minimum 0"),
        (lambda: Symbol("a", minimum=3, typical=2), "minimum 3, typical 2"),
        (lambda: Symbol("a", typical=5, maximum=4), "typical 5, maximum 4"),
        (lambda: Symbol("a", source="b"), "source and convs go together"),
        (lambda: spec(inputs=(*spec().inputs, spec().inputs[0])), "clashing names"),
        (lambda: spec(symbols=(*spec().symbols, Symbol("n"))), "clashing names"),
        (lambda: spec(outputs=(OutputSpec("x", "float32", ("batch",)),)), "clashing names"),
        (
            lambda: spec(inputs=(InputSpec("x", "float32", ("nowhere",)),)),
            r"g.x has unknown axes: \['nowhere'\]",
        ),
        (
            lambda: spec(symbols=(*spec().symbols, Symbol("k", source="nothing", convs=((1, 1),)))),
            "symbol 'k' follows nothing",
        ),
        (
            lambda: spec(inputs=(InputSpec("q", "bool", ("batch", "n"), role="mask"),)),
            "g.q is a mask of nothing",
        ),
        (
            lambda: spec(inputs=(InputSpec("q", "bool", ("batch", 1), role="presence", governs=(("w",),)),)),
            "g.q refers to unknown inputs: {'w'}",
        ),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_a_spec_survives_plain_values():
    assert from_plain(to_plain(spec()), GraphSpec) == spec()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda plain: plain.update(colour=1), r"unknown field colour at \$"),
        (lambda plain: plain["inputs"][1].update(mask=1), r"unknown field mask at \$\.inputs\[1\]"),
        (lambda plain: plain["inputs"][0].update(dtype="float64"), r"\$\.inputs\[0\]\.dtype"),
        (lambda plain: plain.pop("outputs"), "missing required field `outputs`"),
        (lambda plain: plain["symbols"][0].update(minimum="1"), r"\$\.symbols\[0\]\.minimum"),
    ],
)
def test_reading_is_strict(place, message):
    plain = to_plain(spec())
    place(plain)
    with pytest.raises(ValueError, match=message):
        from_plain(plain, GraphSpec)


def test_lookups():
    made = spec()
    assert made.presence is made.input("on")
    assert made.mask_of("x") is made.input("x_mask")
    assert made.mask_of("v") is None
    assert replace(made, inputs=made.inputs[2:3], outputs=()).presence is None
    assert made.shape(made.input("x"), {"batch": 2, "n": 30, "m": 5}) == (2, 30)
