"""The encoders as export graphs: GraphSpec, export module and reference for each.

References are the encoders themselves, i.e. the unmodified transformers classes. wav2vec2 has an export
module of its own: the class marks padding by boolean assignment and derives its frame mask by indexing
(NonZero, ScatterND and CumSum in a graph), and normalises the weights of its position convolution anew
in every call.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taemi.encoders import AudioEncoder, TextEncoder, VisionEncoder
from taemi.exportable import ExportGraph
from taemi_runtime.preprocessing import AudioPreprocessing, TextPreprocessing
from taemi_runtime.spec import Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

# All relative to max(1, standard deviation of the reference), as trained encoders have outputs of any
# scale. ONNX Runtime's and PyTorch's float32 kernels differ by some 1e-6 of it, 12 layers of full width by
# up to 1e-5; a wrong mask or weight shows from 1e-2 up. int8 moves single features by several percent of
# the deviation: it is judged by direction here, and by the scores of the whole chain.
GATES = {
    "fp32": Gate(max_abs=1e-4, mean_abs=1e-5, min_cosine=0.99999, relative=True),
    "fp16": Gate(max_abs=2e-2, mean_abs=2e-3, min_cosine=0.9995, relative=True),
    "int8": Gate(min_cosine=0.999, relative=True),
}

# What benchmarks and optimisation profiles are tuned for. Vidmimic2 clips have a mean length of 6.92 s.
_TYPICAL_SECONDS = 6.0
_TYPICAL_FRAMES = 8
_TYPICAL_TOKENS = 16

_TRAINING_ONLY = ("masked_spec_embed",)


class AudioModule(nn.Module):
    """wav2vec2 with a frame mask as its input, built from the encoder's own submodules.

    Args:
        encoder: The encoder; nothing of it is changed.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        network = encoder.model.wav2vec2
        self.feature_extractor = network.feature_extractor
        self.feature_projection = network.feature_projection
        self.layers = network.encoder.layers
        self.layer_norm = network.encoder.layer_norm
        self.classifier = encoder.model.classifier
        self.norm_first: bool = network.config.do_stable_layer_norm
        self.mask_in_encoder = encoder.mask_in_encoder
        self.position = network.encoder.pos_conv_embed
        self.position_conv = _fused(self.position.conv)

    def forward(self, waveform: Tensor, frame_mask: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            waveform: [batch, samples] float32, normalised over valid samples, zeros after them.
            frame_mask: [batch, frames] bool, true = valid.

        Returns:
            [batch, frames, dim] float32, zero where the mask is false.
        """
        hidden, _ = self.feature_projection(self.feature_extractor(waveform).transpose(1, 2))
        valid = frame_mask[:, :, None]
        keys = None
        if self.mask_in_encoder:
            hidden = torch.where(valid, hidden, 0.0)
            keys = frame_mask[:, None, None, :]
        position = self.position.padding(self.position_conv(hidden.transpose(1, 2)))
        hidden = hidden + self.position.activation(position).transpose(1, 2)
        if not self.norm_first:
            hidden = self.layer_norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=keys)
        if self.norm_first:
            hidden = self.layer_norm(hidden)
        features = torch.cat([hidden, self.classifier(hidden)], dim=-1)
        return torch.where(valid, features, 0.0)


def _fused(conv: nn.Conv1d) -> nn.Conv1d:
    """Return a plain convolution with the weight that weight normalisation computes.

    Built anew: ``remove_parametrizations`` on a deep copy also breaks the original, because the copy
    shares its class, whose ``weight`` property it deletes (torch 2.13).
    """
    assert not isinstance(conv.padding, str)
    plain = nn.Conv1d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        plain.weight.copy_(conv.weight)
        if plain.bias is not None and conv.bias is not None:
            plain.bias.copy_(conv.bias)
    return plain


class TextModule(nn.Module):
    """The text encoder with the outputs that a graph has.

    Args:
        encoder: The encoder.
        with_tokens: Whether the token vectors are an output, too.
    """

    def __init__(self, encoder: TextEncoder, *, with_tokens: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.with_tokens = with_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the vectors [batch, dim] and, if asked for, the token vectors [batch, tokens, dim]."""
        vectors, tokens = self.encoder(input_ids, attention_mask)
        return (vectors, tokens) if self.with_tokens else vectors


def audio_graph(encoder: AudioEncoder, preprocessing: AudioPreprocessing | None = None) -> ExportGraph:
    """Make an audio encoder ready for export; it is set to evaluation mode.

    Args:
        encoder: The encoder.
        preprocessing: What its waveforms are prepared with; the default for its convolutions when
            ``None``. A model that was trained without a mask takes waveforms of ``padded_samples``
            (``max_samples`` where that is unset) and of no other length.
    """
    encoder.eval()
    preprocessing = preprocessing or AudioPreprocessing(convs=encoder.convs)
    shortest, longest = preprocessing.min_samples, preprocessing.max_samples
    typical = min(longest, max(shortest, round(_TYPICAL_SECONDS * preprocessing.rate_hz)))
    if not encoder.mask_in_encoder:
        shortest = typical = longest = preprocessing.padded_samples or longest
    frames = preprocessing.frames
    spec = GraphSpec(
        name="audio",
        symbols=(
            Symbol("batch"),
            Symbol("samples", minimum=shortest, typical=typical, maximum=longest),
            Symbol(
                "frames",
                minimum=frames(shortest),
                typical=frames(typical),
                maximum=frames(longest),
                source="samples",
                convs=encoder.convs,
            ),
        ),
        inputs=(
            InputSpec("waveform", "float32", ("batch", "samples"), padding="zero"),
            InputSpec("frame_mask", "bool", ("batch", "frames"), role="mask", masks="waveform"),
        ),
        outputs=(OutputSpec("audio", "float32", ("batch", "frames", encoder.dim)),),
        gates=dict(GATES),
    )

    def reference(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = inputs["frame_mask"]
        # The fewest samples that make as many frames: the class derives the same frame mask from them.
        lengths = encoder.valid_samples(mask.sum(dim=1).clamp(min=1))
        with torch.inference_mode():
            features = encoder(inputs["waveform"], lengths)
            return {"audio": torch.where(mask[:, :, None], features, 0.0)}

    return ExportGraph(spec, AudioModule(encoder).eval(), reference, _audio_weights(encoder))


def _audio_weights(encoder: AudioEncoder) -> dict[str, Tensor]:
    """Return the weights that inference reads, with the normalised one in place of its two factors."""
    weights = {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if ".parametrizations." not in name and not name.endswith(_TRAINING_ONLY)
    }
    conv = encoder.model.wav2vec2.encoder.pos_conv_embed.conv
    weights["model.wav2vec2.encoder.pos_conv_embed.conv.weight"] = conv.weight.detach().clone()
    return weights


def vision_graph(encoder: VisionEncoder) -> ExportGraph:
    """Make a vision encoder ready for export; it is set to evaluation mode."""
    encoder.eval()
    spec = GraphSpec(
        name="vision",
        symbols=(Symbol("frames", typical=_TYPICAL_FRAMES),),
        inputs=(
            InputSpec(
                "pixels",
                "uint8",
                ("frames", 3, encoder.height, encoder.width),
                draw=Draw("integers", 0, 256),
            ),
        ),
        outputs=(OutputSpec("vision", "float32", ("frames", encoder.dim)),),
        gates=dict(GATES),
    )

    def reference(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            return {"vision": encoder(inputs["pixels"])}

    return ExportGraph(spec, encoder, reference, dict(encoder.state_dict()))


def text_graph(
    encoder: TextEncoder, *, with_tokens: bool = False, preprocessing: TextPreprocessing | None = None
) -> ExportGraph:
    """Make a text encoder ready for export; it is set to evaluation mode.

    Args:
        encoder: The encoder.
        with_tokens: Whether the token vectors are an output, too.
        preprocessing: Gives the longest sequence; the default when ``None``.
    """
    encoder.eval()
    longest = (preprocessing or TextPreprocessing()).max_tokens
    if encoder.max_tokens is not None:
        longest = min(longest, encoder.max_tokens)
    outputs = [OutputSpec("text", "float32", ("batch", encoder.dim))]
    if with_tokens:
        outputs.append(OutputSpec("text_tokens", "float32", ("batch", "tokens", encoder.dim)))
    spec = GraphSpec(
        name="text",
        symbols=(
            Symbol("batch"),
            Symbol("tokens", typical=min(_TYPICAL_TOKENS, longest), maximum=longest),
        ),
        inputs=(
            InputSpec(
                "input_ids", "int64", ("batch", "tokens"), draw=Draw("integers", 0, encoder.vocabulary)
            ),
            InputSpec("attention_mask", "int64", ("batch", "tokens"), role="mask", masks="input_ids"),
        ),
        outputs=tuple(outputs),
        gates=dict(GATES),
    )
    names = [item.name for item in outputs]

    def reference(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            found = encoder(inputs["input_ids"], inputs["attention_mask"])
        return dict(zip(names, found, strict=False))

    module = TextModule(encoder, with_tokens=with_tokens).eval()
    return ExportGraph(spec, module, reference, dict(encoder.state_dict()))
