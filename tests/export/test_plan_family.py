"""The real network's graphs through TensorRT's importer and compiler, for compute capability 8.0.

A compile check on the CPU with TensorRT for RTX, never a run: it proves that the graphs are accepted. The
published sizes, with random weights, are marked slow: ``make test-all``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from taemi.config import VARIANTS, variant
from taemi.exportable import ExportGraph, ExportSource
from taemi.fusion_graph import fusion_graph
from taemi.model import Taemi
from taemi_export.bundle_writer import write_graph
from taemi_export.conversion import convert_to_half
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.plans.builder import BuildOptions, BuiltPlan, build_plan
from taemi_export.plans.library import open_library
from taemi_export.plans.profiles import plan_profiles
from taemi_export.plans.targets import parse_target

pytestmark = pytest.mark.tensorrt
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

A100 = BuildOptions(parse_target("a100", "rtx"))
Compile = Callable[..., BuiltPlan]


@pytest.fixture
def compile_graph(tmp_path: Path) -> Compile:
    """Export a graph, convert it if asked to, and build its plan with some or all of its profiles."""
    written: dict[str, Path] = {}

    def build(graph: ExportGraph, precision: str, profiles: int = 3) -> BuiltPlan:
        spec = graph.spec
        if spec.name not in written:
            source = ExportSource("taemi", (graph,), {}, {}, trained=False)
            written[spec.name] = tmp_path / write_graph(tmp_path, graph, source, debug=False).file
        path = written[spec.name]
        if precision == "fp16":
            half = convert_to_half(onnx.load(path), spec)
            finish_model(half.model, GraphFacts("taemi", spec, "fp16", trained=False))
            path = tmp_path / f"{spec.name}.fp16.onnx"
            path.write_bytes(half.model.SerializeToString())
        chosen = plan_profiles({spec.name: spec})[spec.name][:profiles]
        return build_plan(open_library("rtx"), path, chosen, A100)

    return build


def check(built: BuiltPlan, graph: ExportGraph, precision: str) -> None:
    half = precision == "fp16"
    assert built.inputs == {
        item.name: "float16" if half and item.half else item.dtype for item in graph.spec.inputs
    }
    assert built.outputs == {item.name: item.dtype for item in graph.spec.outputs}
    assert ("float16" in built.layer_types) == half
    weights = sum(tensor.numel() for tensor in graph.weights.values())
    # The weights are in the plan: nothing was optimised away for want of an output.
    assert len(built.plan) > 0.5 * weights * (2 if half else 4)


# Graphs of every shape are compiled in each run of the tests, the others with the slow ones.
_SHAPES = ("paper", "concat", "self-attention", "audio-anchored")


@pytest.mark.parametrize(
    "name", [name if name in _SHAPES else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_the_fusion_graph_of_every_variant_compiles_in_both_precisions(
    compile_graph: Compile, name: str
) -> None:
    torch.manual_seed(5)
    config = variant(name, hidden=64, heads=4, feed_forward=64, head_hidden=32, audio_dim=67, vision_dim=48)
    graph = fusion_graph(Taemi(config).eval(), attention=True)
    for precision in ("fp32", "fp16"):
        # Each profile compiles everything anew; all three are built at published size below.
        check(compile_graph(graph, precision, profiles=1), graph, precision)


def test_the_published_fusion_graph_compiles_with_every_profile_in_seconds(compile_graph: Compile) -> None:
    torch.manual_seed(5)
    graph = fusion_graph(Taemi(variant("paper")).eval())
    compile_graph(graph, "fp32", profiles=1)
    # Processor time: how long the wall says depends on what else is running.
    start = time.process_time()
    built = compile_graph(graph, "fp16")
    seconds = time.process_time() - start
    check(built, graph, "fp16")
    # 5 s of two cores are the aim; the conversion to half precision is in here, too.
    assert seconds < 20
    print(f"fusion fp16, three profiles: parse and build {seconds:.1f} s of processor time")


@pytest.mark.parametrize("name", ["audio", "text", "vision"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_tiny_encoders_compile(
    compile_graph: Compile, demo_checkpoint: Path, name: str, precision: str
) -> None:
    from taemi.exportable import open_source

    graph = open_source(demo_checkpoint).graph(name)
    check(compile_graph(graph, precision, profiles=1), graph, precision)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["audio", "text", "vision"])
def test_the_encoders_of_published_size_compile(compile_graph: Compile, part: str) -> None:
    from taemi.encoder_graphs import audio_graph, text_graph, vision_graph
    from taemi.encoder_sets import PAPER
    from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder

    if part == "audio":
        graph = audio_graph(
            load_audio_encoder(PAPER["audio"], mask_in_encoder=True, random_weights=True, seed=3)
        )
    elif part == "text":
        graph = text_graph(load_text_encoder(PAPER["text"], random_weights=True, seed=3))
    else:
        graph = vision_graph(load_vision_encoder(PAPER["vision"], random_weights=True, seed=3))
    for precision in ("fp32", "fp16"):
        built = compile_graph(graph, precision)
        check(built, graph, precision)
        print(f"{part} {precision}: parse {built.parse_seconds:.1f} s, build {built.build_seconds:.1f} s")
