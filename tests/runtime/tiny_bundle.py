"""A small bundle whose graphs are built by hand, so that every score can be computed with numpy.

The graphs have the signatures of the real ones and nothing learned: a strided convolution, two
means and a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, Source, describe_file, format_manifest
from taemi_runtime.media import read_clip
from taemi_runtime.preprocessing import (
    AudioPreprocessing,
    Preprocessing,
    TextPreprocessing,
    VisionPreprocessing,
)
from taemi_runtime.spec import Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol
from taemi_runtime.strict import to_plain

WINDOW, HOP, SIDE = 400, 320, 8
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
GATES = {"fp32": Gate(1e-4, 1e-5)}
WORDS = ("<unk>", "i", "won", "the", "race", "today")


def tensor(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def model(spec: GraphSpec, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    """Wrap nodes into a checked model with the inputs and outputs of a spec."""
    inputs = [helper.make_tensor_value_info(item.name, TYPES[item.dtype], item.shape) for item in spec.inputs]
    outputs = [
        helper.make_tensor_value_info(item.name, TYPES[item.dtype], item.shape) for item in spec.outputs
    ]
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def audio_spec() -> GraphSpec:
    return GraphSpec(
        "audio",
        (
            Symbol("batch"),
            Symbol("samples", minimum=WINDOW, typical=16_000, maximum=192_000),
            Symbol("frames", typical=49, maximum=599, source="samples", convs=((WINDOW, HOP),)),
        ),
        (
            InputSpec("waveform", "float32", ("batch", "samples"), padding="zero"),
            InputSpec("frame_mask", "bool", ("batch", "frames"), role="mask", masks="waveform"),
        ),
        (OutputSpec("audio", "float32", ("batch", "frames", 3), mask="frame_mask"),),
        GATES,
    )


def vision_spec() -> GraphSpec:
    draw = Draw("integers", 0, 256)
    return GraphSpec(
        "vision",
        (Symbol("frames", typical=8, maximum=400),),
        (InputSpec("pixels", "uint8", ("frames", 3, SIDE, SIDE), draw=draw),),
        (OutputSpec("vision", "float32", ("frames", 3)),),
        GATES,
    )


def text_spec(*, tokens: bool) -> GraphSpec:
    outputs = [OutputSpec("text", "float32", ("batch", 2))]
    if tokens:
        outputs.append(OutputSpec("text_tokens", "float32", ("batch", "tokens", 2)))
    return GraphSpec(
        "text",
        (Symbol("batch"), Symbol("tokens", typical=5, maximum=12)),
        (
            InputSpec("input_ids", "int64", ("batch", "tokens"), draw=Draw("integers", 0, len(WORDS))),
            InputSpec("attention_mask", "int64", ("batch", "tokens"), role="mask", masks="input_ids"),
        ),
        tuple(outputs),
        GATES,
    )


def fusion_spec(*, tokens: bool = False, fixed: bool = False, attention: bool = False) -> GraphSpec:
    audio_len: Any = 599 if fixed else "audio_len"
    vision_len: Any = 400 if fixed else "vision_len"
    symbols = [Symbol("batch")]
    if not fixed:
        symbols += [Symbol("audio_len", maximum=599), Symbol("vision_len", maximum=400)]
    text: tuple[InputSpec, ...] = (InputSpec("text", "float32", ("batch", 2)),)
    if tokens:
        symbols.append(Symbol("text_len", maximum=12))
        text = (
            InputSpec("text_tokens", "float32", ("batch", "text_len", 2)),
            InputSpec("text_mask", "bool", ("batch", "text_len"), role="mask", masks="text_tokens"),
        )
    name = text[0].name
    governs = (("audio",), ("vision",), (name,))
    outputs = [OutputSpec("intensities", "float32", ("batch", len(EMOTIONS)), labels=EMOTIONS)]
    if attention:
        outputs.append(OutputSpec("audio_attention", "float32", ("batch", 1, audio_len)))
    return GraphSpec(
        "fusion",
        tuple(symbols),
        (
            InputSpec("audio", "float32", ("batch", audio_len, 3), half=True),
            InputSpec("audio_mask", "bool", ("batch", audio_len), role="mask", masks="audio"),
            InputSpec("vision", "float32", ("batch", vision_len, 3), half=True),
            InputSpec("vision_mask", "bool", ("batch", vision_len), role="mask", masks="vision"),
            *text,
            InputSpec("present", "bool", ("batch", 3), role="presence", governs=governs),
        ),
        tuple(outputs),
        GATES,
    )


# Three features of a window: its mean, its alternating sum, its first sample.
KERNELS = np.stack(
    [np.full(WINDOW, 1 / WINDOW), np.where(np.arange(WINDOW) % 2, -0.01, 0.01), np.eye(1, WINDOW)[0] * 0.1]
).astype(np.float32)
WEIGHTS = np.linspace(-0.9, 1.1, 8 * len(EMOTIONS), dtype=np.float32).reshape(8, len(EMOTIONS))
BIAS = np.linspace(0.2, 0.5, len(EMOTIONS), dtype=np.float32)
MISSING = 0.25


def audio_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "one"], ["signal"]),
        helper.make_node("Conv", ["signal", "kernels"], ["rows"], strides=[HOP]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Cast", ["frame_mask"], ["valid"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["valid", "two"], ["valid3"]),
        helper.make_node("Mul", ["columns", "valid3"], ["audio"]),
    ]
    constants = [
        tensor("kernels", KERNELS[:, None]),
        tensor("one", [1], np.int64),
        tensor("two", [2], np.int64),
    ]
    return model(audio_spec(), nodes, constants)


def vision_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "white"], ["vision"]),
    ]
    return model(vision_spec(), nodes, [tensor("axes", [2, 3], np.int64), tensor("white", 255.0)])


def text_model(*, tokens: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ids", "mask"], ["used"]),
        helper.make_node("Unsqueeze", ["used", "two"], ["used3"]),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask3"]),
        helper.make_node("Concat", ["used3", "mask3"], ["pairs"], axis=2),
        helper.make_node("Mul", ["pairs", "tenth"], ["text_tokens"]),
        helper.make_node("ReduceSum", ["text_tokens", "one"], ["text"], keepdims=0),
    ]
    constants = [tensor("two", [2], np.int64), tensor("one", [1], np.int64), tensor("tenth", 0.1)]
    return model(text_spec(tokens=tokens), nodes, constants)


def _mean_nodes(name: str, mask: str) -> list[onnx.NodeProto]:
    """Mean over the valid frames; what stands in padding is replaced before any arithmetic."""
    return [
        helper.make_node("Unsqueeze", [mask, "two"], [f"{name}_m3"]),
        helper.make_node("Where", [f"{name}_m3", name, "zero"], [f"{name}_clean"]),
        helper.make_node("ReduceSum", [f"{name}_clean", "one"], [f"{name}_sum"], keepdims=0),
        helper.make_node("Cast", [mask], [f"{name}_mf"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", [f"{name}_mf", "one"], [f"{name}_n0"], keepdims=1),
        helper.make_node("Max", [f"{name}_n0", "unit"], [f"{name}_n"]),
        helper.make_node("Div", [f"{name}_sum", f"{name}_n"], [f"{name}_vector"]),
    ]


def fusion_model(
    *, tokens: bool = False, fixed: bool = False, attention: bool = False, bias: Any = BIAS
) -> onnx.ModelProto:
    nodes = _mean_nodes("audio", "audio_mask") + _mean_nodes("vision", "vision_mask")
    vectors = ["audio_vector", "vision_vector", "text"]
    if tokens:
        nodes += _mean_nodes("text_tokens", "text_mask")
        vectors[2] = "text_tokens_vector"
    nodes.append(helper.make_node("Split", ["present"], ["p0", "p1", "p2"], axis=1, num_outputs=3))
    for index, vector in enumerate(vectors):
        nodes.append(helper.make_node("Where", [f"p{index}", vector, "missing"], [f"part{index}"]))
    nodes += [
        helper.make_node("Concat", ["part0", "part1", "part2"], ["joint"], axis=1),
        helper.make_node("MatMul", ["joint", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["intensities"]),
    ]
    if attention:
        # What a mean attends to: every valid frame alike.
        nodes += [
            helper.make_node("Div", ["audio_mf", "audio_n"], ["audio_share"]),
            helper.make_node("Unsqueeze", ["audio_share", "one"], ["audio_attention"]),
        ]
    constants = [
        tensor("weights", WEIGHTS),
        tensor("bias", bias),
        tensor("missing", MISSING),
        tensor("zero", 0.0),
        tensor("unit", 1.0),
        tensor("one", [1], np.int64),
        tensor("two", [2], np.int64),
    ]
    return model(fusion_spec(tokens=tokens, fixed=fixed, attention=attention), nodes, constants)


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


PREPROCESSING = Preprocessing(
    AudioPreprocessing(convs=((WINDOW, HOP),)),
    VisionPreprocessing(height=SIDE, width=SIDE),
    TextPreprocessing(max_tokens=12),
)


@dataclass(frozen=True)
class Made:
    """A bundle on disk, and what its scores should be."""

    folder: Path
    preprocessing: Preprocessing
    tokens: bool
    bias: np.ndarray

    def audio_vector(self, clip: Path) -> np.ndarray | None:
        waveform = read_clip(clip, self.preprocessing).waveform
        if waveform is None:
            return None
        signal = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        if len(signal) < WINDOW:
            signal = np.pad(signal, (0, WINDOW - len(signal)))
        starts = range(0, len(signal) - WINDOW + 1, HOP)
        frames = np.stack([KERNELS @ signal[start : start + WINDOW] for start in starts])
        return frames.mean(0)

    def vision_vector(self, clip: Path) -> np.ndarray | None:
        frames = read_clip(clip, self.preprocessing).frames
        return None if frames is None else frames.astype(np.float64).mean((2, 3)).mean(0) / 255

    def text_vector(self, transcript: str | None) -> np.ndarray | None:
        if transcript is None or not transcript.strip():
            return None
        ids = [WORDS.index(word) if word in WORDS else 0 for word in transcript.lower().split()]
        pairs = np.array([[index, 1] for index in ids[:12]]) / 10
        return pairs.mean(0) if self.tokens else pairs.sum(0)

    def expected(self, clip: Path, transcript: str | None = None) -> np.ndarray:
        """The unclipped scores, computed here."""
        vectors = [self.audio_vector(clip), self.vision_vector(clip), self.text_vector(transcript)]
        parts = [
            np.full(size, MISSING) if vector is None else vector
            for vector, size in zip(vectors, (3, 3, 2), strict=True)
        ]
        return np.concatenate(parts) @ WEIGHTS + self.bias


def save_manifest(folder: Path, **changes: Any) -> Manifest:
    """Write the manifest again with other values."""
    from taemi_runtime.manifest import read_manifest

    manifest = replace(read_manifest(folder), **changes)
    (folder / MANIFEST_NAME).write_text(format_manifest(manifest))
    return manifest


def make_bundle(
    folder: Path,
    *,
    tokens: bool = False,
    fixed: bool = False,
    attention: bool = False,
    trained: bool = True,
    preprocessing: Preprocessing = PREPROCESSING,
    bias: Any = BIAS,
) -> Made:
    folder.mkdir(parents=True)
    models = {
        "fusion": fusion_model(tokens=tokens, fixed=fixed, attention=attention, bias=bias),
        "audio": audio_model(),
        "text": text_model(tokens=tokens),
        "vision": vision_model(),
    }
    specs = {
        "fusion": fusion_spec(tokens=tokens, fixed=fixed, attention=attention),
        "audio": audio_spec(),
        "text": text_spec(tokens=tokens),
        "vision": vision_spec(),
    }
    if not tokens:
        del models["text"].graph.output[1:]
    files: dict[str, FileEntry] = {}
    for name, made in models.items():
        path = folder / f"{name}.onnx"
        onnx.save(made, path)
        files[path.name] = describe_file(path, graph=name, precision="fp32")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer_json())
    files[tokenizer.name] = describe_file(tokenizer)
    manifest = Manifest(
        family="taemi",
        graphs=specs,
        files=files,
        model={"hidden": 8},
        preprocessing=to_plain(preprocessing),
        trained=trained,
        source=Source("best.pt", "0" * 64),
        tools={"onnx": onnx.__version__},
        created="2026-01-01T00:00:00Z",
    )
    (folder / MANIFEST_NAME).write_text(format_manifest(manifest))
    return Made(folder, preprocessing, tokens, np.asarray(bias))
