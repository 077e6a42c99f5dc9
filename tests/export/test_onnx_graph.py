from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import onnx
import pytest
import torch
from torch import Tensor, nn

from taemi_export.onnx_graph import check_size, name_axes, trace_graph
from taemi_export.rules import check_model
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol


class FixedRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 1, 4)


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class PicksRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum(2) > 0]


class CountsRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x


class TakesFew(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 20:
            raise ValueError("too long")
        return x + 1


class Cuts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


def simple_spec(out: tuple[str | int, ...] = ("batch", "steps", 4)) -> GraphSpec:
    return GraphSpec(
        "g",
        (Symbol("batch", typical=2), Symbol("steps", typical=9, maximum=60), Symbol("picked", typical=5)),
        (InputSpec("x", "float32", ("batch", "steps", 4)),),
        (OutputSpec("y", "float32", out),),
        {"fp32": Gate(1e-4, 1e-5)},
    )


def test_axis_that_became_static_is_refused(toy: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"static shape of 2 for dimension inputs\['x'\].shape\[0\]"):
        trace_graph(toy.graph_of(simple_spec(), FixedRows()))


def test_static_axis_is_refused_even_if_the_exporter_lets_it_pass() -> None:
    spec = simple_spec()
    kinds = {"x": ["batch", 11, 4], "y": ["batch", 11, 4]}
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in kinds.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", values[:1], values[1:]))
    with pytest.raises(ExportError, match=r"axis 1 of g\.x became static.*has 11.*dynamic \(steps\)"):
        name_axes(spec, model)


def test_output_of_another_length_is_refused(toy: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"axis 1 of g\.y has the wrong length: it is 2 for .*steps = 9"):
        trace_graph(toy.graph_of(simple_spec(), Cuts()))


def test_length_that_follows_from_another_is_checked_and_named(toy: ModuleType) -> None:
    front = toy.toy_source().graphs[1]
    model = trace_graph(front).model
    assert [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [
        "batch",
        "hops",
        12,
    ]
    hops = front.spec.symbol("hops")
    wrong = replace(hops, convs=((10, 5), (3, 1)), typical=26, maximum=117)
    symbols = tuple(wrong if symbol is hops else symbol for symbol in front.spec.symbols)
    signal = front.spec.inputs[:1]
    spec = replace(
        front.spec, symbols=symbols, inputs=signal, outputs=(replace(front.spec.outputs[0], mask=None),)
    )

    class Unmasked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front = front.module

        def forward(self, signal: Tensor) -> Tensor:
            return self.front.second(self.front.first(signal[:, None])).transpose(1, 2)

    with pytest.raises(ExportError, match=r"axis 1 of front\.features has the wrong length: .*hops ="):
        trace_graph(toy.graph_of(spec, Unmasked()))


def test_output_axis_that_should_be_fixed_is_refused(toy: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"axis 1 of g\.y is not fixed"):
        trace_graph(toy.graph_of(simple_spec(("batch", 9, 4)), Plain()))


def test_data_dependent_operator_is_refused_by_name(toy: ModuleType) -> None:
    spec = simple_spec(("picked", 4))
    model = trace_graph(toy.graph_of(spec, PicksRows())).model
    with pytest.raises(ExportError, match="NonZero"):
        check_model(model, spec)


def test_branch_on_values_is_refused_quietly(toy: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"cannot export graph 'g'.*--debug"):
        trace_graph(toy.graph_of(simple_spec(), CountsRows()))
    assert capfd.readouterr() == ("", "")


def test_length_check_inside_the_module_is_refused(toy: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"lengths from .* to 20.*promises 1 to 60"):
        trace_graph(toy.graph_of(simple_spec(), TakesFew()))


def test_training_mode_is_refused(toy: ModuleType) -> None:
    graph = toy.graph_of(simple_spec(), nn.Identity())
    graph.module.train()
    with pytest.raises(ExportError, match="training mode"):
        trace_graph(graph)


def test_graph_that_no_single_file_can_hold_is_refused_before_any_work(toy: ModuleType) -> None:
    with torch.device("meta"):
        module = nn.Linear(20_000, 30_000)
    graph = toy.graph_of(simple_spec(), module)
    with pytest.raises(ExportError, match=r"2\.40 GB"):
        check_size(graph)
