"""The fusion network as an export graph: its GraphSpec, and the module with the graph's signature."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taemi.config import ModelConfig
from taemi.exportable import ExportGraph
from taemi.fusion_rewrite import rewritten
from taemi.model import MODALITIES, Taemi
from taemi_runtime.spec import Axis, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

# Absolute, on scores of order 1: ONNX Runtime's and PyTorch's float32 kernels differ by some 1e-6 there, a
# wrong mask or weight by 1e-2 and more. Half precision: docs/deploy.md.
GATES = {
    "fp32": Gate(max_abs=1e-4, mean_abs=1e-5, min_cosine=0.99999),
    "fp16": Gate(max_abs=2e-2, mean_abs=2e-3, min_cosine=0.9995),
    "int8": Gate(mean_abs=1e-2),
}
# What int8 does to the scores when the encoders are int8, too, within each presence combination.
CHAIN_GATES = {"int8": Gate(mean_abs=1e-2, min_rho=0.995)}


def fusion_spec(config: ModelConfig, *, attention: bool = False) -> GraphSpec:
    """Describe the fusion graph of a config.

    Args:
        config: The model's config.
        attention: Whether the attention weights are outputs, too (where the variant has them).

    Returns:
        A spec whose batch, audio and vision axes are independent symbols from 1 up; ``flatten``
        pooling has static lengths.
    """
    static = config.pooling == "flatten"
    audio_len: Axis = config.max_audio if static else "audio_len"
    vision_len: Axis = config.max_vision if static else "vision_len"
    symbols = [Symbol("batch")]
    if not static:
        symbols += [
            Symbol("audio_len", typical=min(299, config.max_audio), maximum=config.max_audio),
            Symbol("vision_len", typical=min(180, config.max_vision), maximum=config.max_vision),
        ]
    inputs = [
        InputSpec("audio", "float32", ("batch", audio_len, config.audio_dim), half=True),
        InputSpec("audio_mask", "bool", ("batch", audio_len), role="mask", masks="audio"),
        InputSpec("vision", "float32", ("batch", vision_len, config.vision_dim), half=True),
        InputSpec("vision_mask", "bool", ("batch", vision_len), role="mask", masks="vision"),
    ]
    if config.text_is_sequence:
        symbols.append(Symbol("text_len", typical=min(16, config.max_text), maximum=config.max_text))
        inputs += [
            InputSpec("text_tokens", "float32", ("batch", "text_len", config.text_dim), half=True),
            InputSpec("text_mask", "bool", ("batch", "text_len"), role="mask", masks="text_tokens"),
        ]
    else:
        inputs.append(InputSpec("text", "float32", ("batch", config.text_dim), half=True))
    text = "text_tokens" if config.text_is_sequence else "text"
    governs = (("audio",), ("vision",), (text,))
    inputs.append(InputSpec("present", "bool", ("batch", 3), role="presence", governs=governs))
    outputs = [OutputSpec("intensities", "float32", ("batch", len(config.outputs)), labels=config.outputs)]
    if attention:
        outputs += [
            OutputSpec(f"{name}_attention", "float32", ("batch", config.heads, f"{name}_len"))
            for name in attended(config)
        ]
    return GraphSpec("fusion", tuple(symbols), tuple(inputs), tuple(outputs), dict(GATES), dict(CHAIN_GATES))


def attended(config: ModelConfig) -> tuple[str, ...]:
    """Return the modalities whose attention weights exist, in the order of the outputs."""
    if config.pooling != "cross_attention":
        return ()
    return tuple(name for name in MODALITIES if name != config.anchor)


class FusionModule(nn.Module):
    """The network with a vector as text input, with a tuple of tensors as its result, and with less work."""

    def __init__(self, model: Taemi, attention: bool) -> None:
        super().__init__()
        self.model = rewritten(model)
        self.attention = attended(model.config) if attention else ()

    def forward(
        self,
        audio: Tensor,
        audio_mask: Tensor,
        vision: Tensor,
        vision_mask: Tensor,
        text: Tensor,
        present: Tensor,
    ) -> tuple[Tensor, ...]:
        """Take the graph's inputs in order and return its outputs in order."""
        scores = self.model(audio, audio_mask, vision, vision_mask, text, present)
        return scores.intensities, *(scores.attention[name] for name in self.attention)


class TokenFusionModule(FusionModule):
    """The same for variants that attend to text tokens."""

    def forward(  # type: ignore[override]
        self,
        audio: Tensor,
        audio_mask: Tensor,
        vision: Tensor,
        vision_mask: Tensor,
        text_tokens: Tensor,
        text_mask: Tensor,
        present: Tensor,
    ) -> tuple[Tensor, ...]:
        """Take the graph's inputs in order and return its outputs in order."""
        scores = self.model(audio, audio_mask, vision, vision_mask, text_tokens, present, text_mask)
        return scores.intensities, *(scores.attention[name] for name in self.attention)


def fusion_graph(model: Taemi, *, attention: bool = False) -> ExportGraph:
    """Make the fusion network ready for export.

    Args:
        model: The network in evaluation mode; it is itself the reference.
        attention: Whether the attention weights are outputs, too.
    """
    spec = fusion_spec(model.config, attention=attention)
    kind = TokenFusionModule if model.config.text_is_sequence else FusionModule
    names = [item.name for item in spec.outputs]

    def reference(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        text = inputs["text_tokens" if model.config.text_is_sequence else "text"]
        with torch.inference_mode():
            scores = model(
                inputs["audio"],
                inputs["audio_mask"],
                inputs["vision"],
                inputs["vision_mask"],
                text,
                inputs["present"],
                inputs.get("text_mask"),
            )
        found = {f"{name}_attention": weights for name, weights in scores.attention.items()}
        return {name: scores.intensities if name == "intensities" else found[name] for name in names}

    return ExportGraph(spec, kind(model, attention).eval(), reference, dict(model.state_dict()))
