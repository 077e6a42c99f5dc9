"""What the published models compute, written out from their papers over weights by their published names.

Straightforward, for one input at a time; nothing of transformers is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.taemi.published_weights import LAYERS

Weights = dict[str, Tensor]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def normalised(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[length, width] each."""

    def split(x: Tensor) -> Tensor:
        return x.view(len(x), heads, -1).transpose(0, 1)

    query, key, value = split(query), split(key), split(value)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def wav2vec2(weights: Weights, waveform: Tensor) -> Tensor:
    """[samples] to [frames, 1027]: layer-normalised convolutions, pre-norm layers, a head on each frame."""
    x = waveform[None]
    for number, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        conv = f"wav2vec2.feature_extractor.conv_layers.{number}"
        x = F.conv1d(x, weights[f"{conv}.conv.weight"], weights[f"{conv}.conv.bias"], stride)
        x = F.gelu(normalised(weights, f"{conv}.layer_norm", x.T, 1e-5)).T
    x = normalised(weights, "wav2vec2.feature_projection.layer_norm", x.T, 1e-5)
    x = linear(weights, "wav2vec2.feature_projection.projection", x)
    position = "wav2vec2.encoder.pos_conv_embed.conv"
    direction, length = weights[f"{position}.weight_v"], weights[f"{position}.weight_g"]
    kernel = length * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    places = F.conv1d(x.T, kernel, weights[f"{position}.bias"], padding=64, groups=16)
    # An even kernel gives one place too many.
    x = x + F.gelu(places[:, :-1]).T
    for number in range(LAYERS):
        layer = f"wav2vec2.encoder.layers.{number}"
        inner = normalised(weights, f"{layer}.layer_norm", x, 1e-5)
        parts = [linear(weights, f"{layer}.attention.{part}_proj", inner) for part in "qkv"]
        x = x + linear(weights, f"{layer}.attention.out_proj", attend(*parts, heads=16))
        inner = normalised(weights, f"{layer}.final_layer_norm", x, 1e-5)
        inner = F.gelu(linear(weights, f"{layer}.feed_forward.intermediate_dense", inner))
        x = x + linear(weights, f"{layer}.feed_forward.output_dense", inner)
    x = normalised(weights, "wav2vec2.encoder.layer_norm", x, 1e-5)
    logits = linear(weights, "classifier.out_proj", linear(weights, "classifier.dense", x).tanh())
    return torch.cat([x, logits], 1)


def vit(weights: Weights, pixels: Tensor, prefix: str) -> Tensor:
    """[3, 224, 224], normalised, to [197, 768]: pre-norm layers and a last norm."""
    patches = f"{prefix}embeddings.patch_embeddings.projection"
    x = F.conv2d(pixels[None], weights[f"{patches}.weight"], weights[f"{patches}.bias"], stride=16)
    x = torch.cat([weights[f"{prefix}embeddings.cls_token"][0], x.flatten(2)[0].T])
    x = x + weights[f"{prefix}embeddings.position_embeddings"][0]
    for number in range(LAYERS):
        layer = f"{prefix}encoder.layer.{number}"
        inner = normalised(weights, f"{layer}.layernorm_before", x, 1e-12)
        parts = [
            linear(weights, f"{layer}.attention.attention.{part}", inner)
            for part in ("query", "key", "value")
        ]
        x = x + linear(weights, f"{layer}.attention.output.dense", attend(*parts, heads=12))
        inner = normalised(weights, f"{layer}.layernorm_after", x, 1e-12)
        inner = F.gelu(linear(weights, f"{layer}.intermediate.dense", inner))
        x = x + linear(weights, f"{layer}.output.dense", inner)
    return normalised(weights, f"{prefix}layernorm", x, 1e-12)


def gte(weights: Weights, ids: Tensor, prefix: str, *, theta: float, ntk: float) -> Tensor:
    """[tokens] to [tokens, 768]: rotary positions, gated feed-forward, post-norm layers."""
    x = weights[f"{prefix}embeddings.word_embeddings.weight"][ids]
    types = weights.get(f"{prefix}embeddings.token_type_embeddings.weight")
    if types is not None:
        x = x + types[0]
    x = normalised(weights, f"{prefix}embeddings.LayerNorm", x, 1e-12)
    width = 64
    rates = (theta * ntk) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width) / ntk ** (2 / width)
    angles = (torch.arange(len(ids))[:, None] * rates).repeat(1, 2).float()[:, None]

    def rotated(x: Tensor) -> Tensor:
        heads = x.view(len(x), 12, width)
        turned = torch.cat([-heads[..., width // 2 :], heads[..., : width // 2]], -1)
        return (heads * angles.cos() + turned * angles.sin()).flatten(1)

    for number in range(LAYERS):
        layer = f"{prefix}encoder.layer.{number}"
        query, key, value = linear(weights, f"{layer}.attention.qkv_proj", x).chunk(3, -1)
        seen = attend(rotated(query), rotated(key), value, heads=12)
        x = normalised(
            weights, f"{layer}.attn_ln", x + linear(weights, f"{layer}.attention.o_proj", seen), 1e-12
        )
        up, gate = linear(weights, f"{layer}.mlp.up_gate_proj", x).chunk(2, -1)
        inner = linear(weights, f"{layer}.mlp.down_proj", up * F.gelu(gate))
        x = normalised(weights, f"{layer}.mlp_ln", x + inner, 1e-12)
    return x
