"""Ranges of shapes: what a plan is built for, and every range that cannot be."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from taemi_export.plans.profiles import plan_profiles
from taemi_runtime.errors import UsageError
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec, Symbol


@pytest.fixture
def specs(toy: ModuleType) -> dict[str, GraphSpec]:
    frames = GraphSpec(
        "frames",
        (Symbol("rows", typical=8),),
        (InputSpec("pixels", "uint8", ("rows", 3, 4, 4)),),
        (OutputSpec("out", "float32", ("rows", 2)),),
        {},
    )
    return {"tagger": toy.tagger_spec(), "front": toy.front_spec(), "frames": frames}


def ranges(profiles, name: str) -> dict[str, str]:
    return {profile.name: str(profile.inputs[name]) for profile in profiles}


def test_defaults_are_tuned_for_one_a_batch_and_long_inputs(specs: dict[str, GraphSpec]) -> None:
    found = plan_profiles(specs)
    assert ranges(found["tagger"], "frames") == {
        "one": "1x1x6:1x12x6:1x60x6",
        "batch": "1x1x6:8x12x6:32x60x6",
        "long": "1x1x6:1x60x6:1x60x6",
    }
    # The graph takes no more than 16 rows, whatever the default range is.
    assert ranges(found["front"], "signal") == {
        "one": "1x20:1x150:1x600",
        "batch": "1x20:8x150:16x600",
        "long": "1x20:1x600:1x600",
    }
    # Nothing but rows: a profile for long inputs would be the one for single ones once more.
    assert ranges(found["frames"], "pixels") == {
        "one": "1x3x4x4:1x3x4x4:1x3x4x4",
        "batch": "1x3x4x4:8x3x4x4:32x3x4x4",
    }


def test_inputs_that_share_an_axis_have_one_range_in_every_corner(specs: dict[str, GraphSpec]) -> None:
    found = plan_profiles(specs, batch="1:3:7", shapes=["tagger.frames=2:20:40", "front.signal=30:100:200"])
    for name, spec in specs.items():
        for profile, corner in itertools.product(found[name], ("minimum", "optimum", "maximum")):
            sizes: dict[str, int] = {}
            for item in spec.inputs:
                for axis, length in zip(item.shape, getattr(profile.inputs[item.name], corner), strict=True):
                    if isinstance(axis, int):
                        assert axis == length
                    else:
                        assert sizes.setdefault(axis, length) == length
            for symbol in spec.symbols:
                if symbol.source is not None:
                    assert sizes[symbol.name] == symbol.derive(sizes[symbol.source])
    assert ranges(found["tagger"], "frames_mask")["batch"] == "1x2:3x20:7x40"
    assert ranges(found["tagger"], "given")["batch"] == "1x2:3x2:7x2"


@pytest.mark.parametrize(
    "given",
    ["tagger.frames=1x5:2x9:4x30", "tagger.frames=1x5x6:2x9x6:4x30x6", "tagger.frames_mask=1x5:2x9:4x30"],
)
def test_shapes_may_name_every_axis_or_the_dynamic_ones(specs: dict[str, GraphSpec], given: str) -> None:
    found = plan_profiles(specs, batch="1:1:16", shapes=[given])["tagger"]
    assert ranges(found, "frames")["batch"] == "1x5x6:2x9x6:4x30x6", "shapes go before --batch"


def test_one_length_is_the_axis_beside_the_batch_or_the_batch_itself(specs: dict[str, GraphSpec]) -> None:
    found = plan_profiles(specs, shapes=["frames.pixels=2:16:64", "tagger.ids=3:4:5"])
    assert ranges(found["frames"], "pixels") == {
        "one": "2x3x4x4:2x3x4x4:2x3x4x4",
        "batch": "2x3x4x4:16x3x4x4:64x3x4x4",
    }
    assert ranges(found["tagger"], "ids")["batch"] == "1x3:8x4:32x5"


def test_a_mask_may_repeat_what_follows_from_its_data(specs: dict[str, GraphSpec]) -> None:
    hops = [specs["front"].symbol("hops").derive(length) for length in (20, 150, 600)]
    follows = ":".join(map(str, hops))
    shapes = ["front.signal=20:150:600", f"front.signal_mask={follows}"]
    assert plan_profiles(specs, shapes=shapes) == plan_profiles(specs)


def test_an_axis_without_a_bound_gets_one() -> None:
    spec = GraphSpec(
        "free",
        (Symbol("rows"), Symbol("steps", typical=50)),
        (InputSpec("x", "float32", ("rows", "steps")),),
        (OutputSpec("y", "float32", ("rows",)),),
        {},
    )
    assert ranges(plan_profiles({"free": spec})["free"], "x")["batch"] == "1x1:8x50:32x100"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": "8:4:32"}, "minimum 8, optimum 4 and maximum 32 do not ascend"),
        ({"batch": "0:4:32"}, "do not ascend from 1"),
        ({"batch": "1:8"}, "it is not MIN:OPT:MAX"),
        ({"batch": "1:8:many"}, "it is not MIN:OPT:MAX"),
        ({"batch": "1:-8:32"}, "it is not MIN:OPT:MAX"),
        ({"batch": "1:8:17"}, "it makes batch 1:8:17, and the graph takes 1 to 16"),
        ({"shapes": ["tagger.frames=1:20:61"]}, "it makes steps 1:20:61, and the graph takes 1 to 60"),
        (
            {"shapes": ["front.signal=10:150:600"]},
            "it makes samples 10:150:600, and the graph takes 20 to 600",
        ),
        (
            {"shapes": ["tagger.frames=9:5:20"]},
            "axis steps: minimum 9, optimum 5 and maximum 20 do not ascend",
        ),
        ({"shapes": ["smell.x=1:2:3"]}, "there is no graph 'smell'"),
        ({"shapes": ["tagger.smell=1:2:3"]}, "graph 'tagger' has no input 'smell'"),
        ({"shapes": ["tagger=1:2:3"]}, "it is not GRAPH.INPUT=MIN:OPT:MAX"),
        ({"shapes": ["tagger.frames=1:2"]}, "'1:2' is not MIN:OPT:MAX"),
        ({"shapes": ["tagger.frames=1x5x7:2x9x7:4x30x7"]}, "axis 2 of frames [batch, steps, 6] is fixed"),
        ({"shapes": ["tagger.frames=1x5x6x1:2x9x6x1:4x30x6x1"]}, "its shapes have 4 axes"),
        ({"shapes": ["tagger.frames=1:2x9:4x30"]}, "its shapes have 1 and 2 axes"),
        (
            {"shapes": ["tagger.frames=1:20:40", "tagger.frames_mask=1:20:30"]},
            "it makes steps 1:20:30, and tagger.frames makes it 1:20:40",
        ),
        (
            {"shapes": ["front.signal_mask=2:14:59"]},
            "it makes hops 2:14:59, and 1:14:59 follows from samples 20:150:600",
        ),
    ],
)
def test_impossible_ranges_are_one_sentence_each(
    specs: dict[str, GraphSpec], options: dict, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_profiles(specs, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_an_input_whose_axes_are_all_fixed_takes_no_range() -> None:
    spec = GraphSpec(
        "g",
        (Symbol("rows"),),
        (InputSpec("x", "float32", ("rows",)), InputSpec("table", "float32", (3, 4))),
        (OutputSpec("y", "float32", ("rows",)),),
        {},
    )
    with pytest.raises(UsageError, match=r"every axis of table \[3, 4\] is fixed"):
        plan_profiles({"g": spec}, shapes=["g.table=3:3:3"])
