from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from taemi_export.sizes import MAX_INPUT_ELEMENTS, plan_cases, trace_sizes
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol


def spec_of(*symbols: Symbol, width: int = 4) -> GraphSpec:
    shape = (*(symbol.name for symbol in symbols if symbol.source is None), width)
    return GraphSpec(
        "g",
        symbols,
        (InputSpec("x", "float32", shape),),
        (OutputSpec("y", "float32", shape),),
        {"fp32": Gate(1e-4, 1e-5)},
    )


def all_lengths(spec: GraphSpec, chosen: dict[str, int]) -> list[int]:
    shapes = [item.shape for item in spec.inputs] + [item.shape for item in spec.outputs]
    return [
        *spec.sizes(chosen).values(),
        *{axis for shape in shapes for axis in shape if isinstance(axis, int)},
    ]


def test_trace_lengths_differ_from_each_other_from_fixed_axes_and_from_one(toy: ModuleType) -> None:
    for spec in (toy.tagger_spec(), toy.front_spec()):
        lengths = all_lengths(spec, trace_sizes(spec))
        assert len(set(lengths)) == len(lengths)
        assert min(spec.sizes(trace_sizes(spec)).values()) >= 2


def test_trace_length_avoids_a_fixed_axis_of_the_same_length() -> None:
    spec = spec_of(Symbol("batch", typical=3), Symbol("steps", typical=3), width=3)
    chosen = trace_sizes(spec)
    assert 3 not in chosen.values()
    assert chosen["batch"] != chosen["steps"]


def test_axis_that_can_only_be_one_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match="'batch'"):
        trace_sizes(spec_of(Symbol("batch", maximum=1)))


def test_cases_cover_presence_lengths_and_ragged_rows(toy: ModuleType) -> None:
    cases = {case.name: case for case in plan_cases(toy.tagger_spec(), 10**6)}
    everything = set(itertools.product((True, False), repeat=2))
    assert set(cases["presence"].present) == everything
    assert set(cases["presence-shortest"].present) == everything
    assert cases["shortest"].sizes == {"batch": 1, "tokens": 1, "steps": 1}
    assert cases["longest"].sizes == {"batch": 1, "tokens": 40, "steps": 60}
    assert cases["shortest-tokens"].sizes["steps"] > cases["shortest-tokens"].sizes["tokens"] == 1
    assert cases["ragged"].ragged
    assert cases["ragged"].sizes["batch"] > 1
    assert len({case.seed for case in cases.values()}) == len(cases)


def test_presence_patterns_are_cut_to_the_batch_that_the_graph_takes() -> None:
    spec = GraphSpec(
        "g",
        (Symbol("batch", maximum=3),),
        (
            *(InputSpec(name, "float32", ("batch", 2)) for name in "abc"),
            InputSpec("given", "bool", ("batch", 3), role="presence", governs=(("a",), ("b",), ("c",))),
        ),
        (OutputSpec("y", "float32", ("batch",)),),
        {"fp32": Gate(1e-4, 1e-5)},
    )
    parts = [case.present for case in plan_cases(spec, 10**6) if case.present is not None]
    assert all(len(part) == 3 for part in parts)
    assert {row for part in parts for row in part} == set(itertools.product((True, False), repeat=3))


def test_stored_outputs_fit_the_budget(toy: ModuleType) -> None:
    spec = toy.tagger_spec()

    def stored(budget: int) -> tuple[int, int]:
        cases = plan_cases(spec, budget)
        sizes = [spec.sizes(case.sizes) for case in cases]
        return len(cases), sum(4 * size["batch"] * size["steps"] * 8 for size in sizes)

    few, small = stored(2000)
    many, large = stored(10**6)
    assert small <= 2000
    assert few < many
    assert large <= 10**6
    with pytest.raises(ExportError, match="reference cases"):
        plan_cases(spec, 100)


def test_cases_with_huge_inputs_are_left_out_or_cut() -> None:
    spec = GraphSpec(
        "g",
        (Symbol("rows", typical=8, maximum=400),),
        (InputSpec("x", "uint8", ("rows", 3, 500, 500), draw=Draw("integers", 0, 256)),),
        (OutputSpec("y", "float32", ("rows", 5)),),
        {"fp32": Gate(1e-4, 1e-5)},
    )
    cases = plan_cases(spec, 10**6)
    assert {case.name for case in cases} >= {"typical", "ragged"}
    assert all(case.sizes["rows"] * 3 * 500 * 500 <= MAX_INPUT_ELEMENTS for case in cases)


def test_many_presence_columns_are_sampled_not_multiplied() -> None:
    names = "abcdefghij"
    spec = GraphSpec(
        "g",
        (Symbol("batch"),),
        (
            *(InputSpec(name, "float32", ("batch", 2)) for name in names),
            InputSpec(
                "given", "bool", ("batch", 10), role="presence", governs=tuple((name,) for name in names)
            ),
        ),
        (OutputSpec("y", "float32", ("batch",)),),
        {"fp32": Gate(1e-4, 1e-5)},
    )
    rows = {row for case in plan_cases(spec, 10**6) if case.present for row in case.present}
    assert len(rows) == 22
    assert {sum(row) for row in rows} == {0, 1, 9, 10}
