"""int8 in a bundle: accepted by its numbers, all of it or nothing, and run as a whole when it is named."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from taemi.exportable import ExportSource
from taemi_export import export_onnx
from taemi_export.cli import app
from taemi_export.facts import read_facts
from taemi_export.onnx_file import read_onnx
from taemi_export.quantize import QuantizeRequest, quantize_bundle
from taemi_export.speed import compare_speed
from taemi_export.verify import verify_bundle
from taemi_runtime import engine_choice
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, ParityError, UsageError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import format_manifest, read_manifest
from taemi_runtime.spec import Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

CPU = EngineOptions(device="cpu")
CHAIN = Gate(mean_abs=1e-2, min_rho=0.995)
LOOKER = GraphSpec(
    "looker",
    (Symbol("shots", typical=4, maximum=64),),
    (InputSpec("picture", "uint8", ("shots", 24, 64), draw=Draw("integers", 0, 256)),),
    (OutputSpec("frames", "float32", ("shots", 6)),),
    {"fp32": Gate(1e-4, 1e-5, 0.99999), "int8": Gate(min_cosine=0.999, relative=True)},
)


class Looker(nn.Module):
    """Pictures to the features that the tagger takes."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 256)
        self.narrow = nn.Linear(256, 6)

    def forward(self, picture: Tensor) -> Tensor:
        hidden = torch.relu(self.wide(picture.float() / 64 - 2))
        return self.narrow(hidden.mean(1)) * 4


def source_of(toy: ModuleType) -> ExportSource:
    torch.manual_seed(3)
    gates = {"fp32": toy.GATE, "int8": Gate(mean_abs=1e-2)}
    tagger = replace(toy.tagger_spec(), gates=gates, chain_gates={"int8": CHAIN})
    front = replace(toy.front_spec(), gates={**toy.front_spec().gates, "int8": Gate(min_cosine=0.999)})
    return ExportSource(
        family="toy",
        graphs=(
            toy.graph_of(tagger, toy.Tagger(width=160)),
            toy.graph_of(LOOKER, Looker()),
            toy.graph_of(front, toy.Front()),
        ),
        model={},
        preprocessing={},
        trained=False,
    )


@pytest.fixture(scope="module")
def made(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in float32; read only."""
    return export_onnx(source_of(toy), tmp_path_factory.mktemp("quantize") / "toy.taemi")


@pytest.fixture(scope="module")
def done(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with int8; read only."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("done") / "toy.taemi"))
    quantize_bundle(folder)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of the float32 bundle to do anything with."""
    return Path(shutil.copytree(made, tmp_path / "toy.taemi"))


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def regate(folder: Path, graph: str, change: Callable[[GraphSpec], GraphSpec]) -> None:
    manifest = read_manifest(folder)
    graphs = {**manifest.graphs, graph: change(manifest.graphs[graph])}
    (folder / "manifest.json").write_text(format_manifest(replace(manifest, graphs=graphs)))


def test_the_manifest_says_what_was_made_from_what_and_how_well_it_does(made: Path, bundle: Path):
    lines: list[str] = []
    found = quantize_bundle(bundle, QuantizeRequest(bits=7), say=lines.append)
    assert [graph.file for graph in found.graphs] == ["tagger.int8.onnx", "looker.int8.onnx"]
    assert lines == [f"front stays fp32: {found.left['front']}"]
    assert "none of its 3 products has a constant matrix" in found.left["front"]
    manifest = read_manifest(bundle)
    before = read_manifest(made)
    assert {name: manifest.files[name] for name in before.files} == before.files
    assert set(manifest.files) - set(before.files) == {"tagger.int8.onnx", "looker.int8.onnx"}
    for graph in ("tagger", "looker"):
        name = f"{graph}.int8.onnx"
        entry, conversion, parity = manifest.files[name], manifest.conversions[name], manifest.parity[name]
        assert (entry.graph, entry.precision, entry.operators["MatMulInteger"]) == (graph, "int8", 1)
        assert (conversion.source, conversion.weight_bits) == (f"{graph}.onnx", 7)
        assert conversion.source_sha256 == before.files[f"{graph}.onnx"].sha256
        assert conversion.counts["int8"] == 1
        assert parity.passed
        assert parity.min_cosine >= 0.999
        assert len(parity.chain) == 4
        assert all(item.rows >= 256 and item.mean_abs <= 1e-2 for item in parity.chain)
        facts = read_facts(read_onnx(bundle / name), name)
        assert (facts.precision, facts.graph) == ("int8", manifest.graphs[graph])
    assert all(set(graph.speed.median_ms) == {"fp32", "int8"} for graph in found.graphs)
    assert verify_bundle(bundle, options=CPU).passed


def test_nothing_is_replaced_without_force_and_the_same_bytes_come_again(done: Path, tmp_path: Path):
    folder = Path(shutil.copytree(done, tmp_path / "toy.taemi"))
    with pytest.raises(UsageError, match="is there already"):
        quantize_bundle(folder)
    assert listing(folder) == listing(done)
    quantize_bundle(folder, QuantizeRequest(force=True))
    after = listing(folder)
    assert {name: after[name] for name in after if name.endswith(".onnx")} == {
        name: content for name, content in listing(done).items() if name.endswith(".onnx")
    }


def test_a_graph_beyond_its_gate_stays_float32_and_the_others_go_on(bundle: Path):
    exact = Gate(min_cosine=1 - 1e-12, relative=True)
    regate(bundle, "looker", lambda spec: replace(spec, gates={**spec.gates, "int8": exact}))
    lines: list[str] = []
    found = quantize_bundle(bundle, say=lines.append)
    assert [graph.name for graph in found.graphs] == ["tagger"]
    assert any(line.startswith("looker stays fp32: case ") and "cosine" in line for line in lines)
    manifest = read_manifest(bundle)
    assert "looker.int8.onnx" not in {*manifest.files, *manifest.parity, *manifest.conversions}
    assert not (bundle / "looker.int8.onnx").exists()
    assert found.chain.files == ("tagger.int8.onnx",)


def test_when_no_graph_holds_the_bundle_stays_as_it_was(bundle: Path):
    regate(bundle, "looker", lambda spec: replace(spec, gates={**spec.gates, "int8": Gate(max_abs=1e-12)}))
    before = listing(bundle)
    with pytest.raises(
        ParityError, match=r"no graph gains and holds its gate.*the bundle is as it was"
    ) as caught:
        quantize_bundle(bundle, QuantizeRequest(graphs=("looker", "front")))
    assert ".part" not in str(caught.value)
    assert listing(bundle) == before


def test_scores_that_change_too_much_leave_the_bundle_as_it_was_and_name_the_worst(bundle: Path):
    strict = {"int8": Gate(mean_abs=1e-9)}
    regate(bundle, "tagger", lambda spec: replace(spec, chain_gates=strict))
    before = listing(bundle)
    with pytest.raises(ParityError) as caught:
        quantize_bundle(bundle)
    message = str(caught.value)
    for part in ("tagger.int8.onnx, looker.int8.onnx", "> 1e-09", "Worst is presence", "over 256 rows"):
        assert part in message
    assert "--graph tagger or --graph looker" in message
    assert listing(bundle) == before
    assert {path.name for path in bundle.parent.iterdir()} == {"toy.taemi"}


def test_an_interrupt_leaves_the_bundle_as_it_was(bundle: Path):
    before = listing(bundle)

    def interrupt(step: str, done: int, total: int) -> None:
        if step == "time":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(bundle, tick=interrupt)
    assert listing(bundle) == before
    assert {path.name for path in bundle.parent.iterdir()} == {"toy.taemi"}


def test_what_cannot_be_quantised_is_refused_before_any_work(bundle: Path):
    with pytest.raises(UsageError, match="no graph 'ear', it has tagger, looker, front"):
        quantize_bundle(bundle, QuantizeRequest(graphs=("ear",)))
    regate(bundle, "tagger", lambda spec: replace(spec, chain_gates={}))
    with pytest.raises(BundleError, match="has no gate for the whole chain in int8, it has none"):
        quantize_bundle(bundle)
    with (bundle / "looker.onnx").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xff")
    regate(bundle, "tagger", lambda spec: replace(spec, chain_gates={"int8": CHAIN}))
    with pytest.raises(BundleError, match=r"looker\.onnx"):
        quantize_bundle(bundle)


def test_naming_an_int8_engine_takes_the_other_graphs_in_int8_too(
    done: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    with open_model(done / "tagger.int8.onnx", options=CPU) as model:
        engines = {graph: model.engine(graph) for graph in ("tagger", "looker", "front")}
        paths = {graph: Path(engine.info.path).name for graph, engine in engines.items()}
        assert paths == {
            "tagger": "tagger.int8.onnx",
            "looker": "looker.int8.onnx",
            "front": "front.onnx",
        }
        assert engines["looker"].info.precision == "int8"
        inputs = draw_inputs(LOOKER, {"shots": 3})
        fast = engines["looker"].run(inputs)["frames"]
    assert sum("int8 runs beside it: looker.int8.onnx" in record.message for record in caplog.records) == 1
    with open_model(done, options=CPU) as model:
        assert Path(model.engine("looker").info.path).name == "looker.onnx"
        exact = model.engine("looker").run(inputs)["frames"]
    assert 0 < np.abs(fast - exact).max() < 0.05 * np.abs(exact).max()


def test_weights_of_eight_bits_are_warned_about_where_sums_saturate(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # A processor without VNNI cannot be had on demand.
    monkeypatch.setattr(engine_choice, "has_dot_products", lambda: False)
    folder = Path(shutil.copytree(done, tmp_path / "toy.taemi"))
    for bits, warned in ((8, True), (7, False)):
        quantize_bundle(folder, QuantizeRequest(force=True, bits=bits))
        caplog.clear()
        with open_model(folder / "tagger.int8.onnx", options=CPU) as model:
            model.engine("tagger")
        assert any("sums may saturate" in record.message for record in caplog.records) is warned


def test_graphs_with_derived_lengths_are_timed_against_pytorch_too(made: Path, toy: ModuleType):
    spec = toy.front_spec()
    files = {"fp32": made / "front.onnx", "int8": made / "front.onnx"}
    speed = compare_speed(spec, files, source_of(toy))
    assert speed.sizes == {"batch": 1, "samples": 150, "hops": spec.symbol("hops").typical}
    assert set(speed.ratio) == {"PyTorch", "fp32"}
    # One file against itself; scheduling noise on a busy machine stays far below this.
    assert 0.1 < speed.ratio["fp32"] < 10
    assert all(value > 0 for value in speed.median_ms.values())


def test_the_command_line(bundle: Path):
    runner = CliRunner()
    result = runner.invoke(app, ["quantize", str(bundle), "--graph", "tagger"])
    assert result.exit_code == 0, result.output
    for part in ("tagger.int8.onnx", "cosine", "times fp32", "whole chain", "rho at least", "random"):
        assert part in result.stdout
    assert "1 of 1 graphs" in result.stderr
    assert f"--engine {bundle / 'tagger.int8.onnx'}" in result.stderr
    again = runner.invoke(app, ["quantize", str(bundle), "--graph", "tagger"])
    assert isinstance(again.exception, UsageError)
    wrong = runner.invoke(app, ["quantize", str(bundle), "--weight-bits", "4"])
    assert isinstance(wrong.exception, UsageError)
    assert "possible are auto, 7, 8" in str(wrong.exception)
