"""The published models' folders, with few layers: configs as published, and weights listed by name and shape.

The lists are written down from the published files' layouts, not read off the classes that load them: a class
that renamed, lost or invented a weight would otherwise agree with itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
LAYERS = 2


def affine(name: str, out: int, *into: int) -> Shapes:
    """A weight and a bias; without ``into`` those of a normalisation."""
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}


# audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim: config.json as published, but for the layers.
AUDEERING_CONFIG: dict[str, Any] = {
    "_name_or_path": "torch",
    "activation_dropout": 0.1,
    "adapter_kernel_size": 3,
    "adapter_stride": 2,
    "add_adapter": False,
    "apply_spec_augment": True,
    "architectures": ["Wav2Vec2ForSpeechClassification"],
    "attention_dropout": 0.1,
    "bos_token_id": 1,
    "classifier_proj_size": 256,
    "codevector_dim": 768,
    "contrastive_logits_temperature": 0.1,
    "conv_bias": True,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "ctc_loss_reduction": "sum",
    "ctc_zero_infinity": False,
    "diversity_loss_weight": 0.1,
    "do_stable_layer_norm": True,
    "eos_token_id": 2,
    "feat_extract_activation": "gelu",
    "feat_extract_dropout": 0.0,
    "feat_extract_norm": "layer",
    "feat_proj_dropout": 0.1,
    "feat_quantizer_dropout": 0.0,
    "final_dropout": 0.1,
    "finetuning_task": "wav2vec2_reg",
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "id2label": {"0": "arousal", "1": "dominance", "2": "valence"},
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "label2id": {"arousal": 0, "dominance": 1, "valence": 2},
    "layer_norm_eps": 1e-05,
    "layerdrop": 0.1,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "mask_feature_prob": 0.0,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_time_prob": 0.05,
    "model_type": "wav2vec2",
    "num_adapter_layers": 3,
    "num_attention_heads": 16,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 320,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "num_feat_extract_layers": 7,
    "num_hidden_layers": LAYERS,
    "num_negatives": 100,
    "output_hidden_size": 1024,
    "pad_token_id": 0,
    "pooling_mode": "mean",
    "problem_type": "regression",
    "proj_codevector_dim": 768,
    "tdnn_dilation": [1, 2, 3, 1, 1],
    "tdnn_dim": [512, 512, 512, 512, 1500],
    "tdnn_kernel": [5, 3, 3, 1, 1],
    "torch_dtype": "float32",
    "transformers_version": "4.17.0.dev0",
    "use_weighted_layer_sum": False,
    "vocab_size": None,
    "xvector_output_dim": 512,
}
AUDEERING_EXTRACTOR = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def audeering_shapes() -> Shapes:
    """512 channels through seven convolutions, width 1024, feed-forward 4096, three regression outputs."""
    shapes: Shapes = {"wav2vec2.masked_spec_embed": (1024,)}
    for number, (channels, kernel) in enumerate(zip((1, *[512] * 6), (10, 3, 3, 3, 3, 2, 2), strict=True)):
        conv = f"wav2vec2.feature_extractor.conv_layers.{number}"
        shapes |= affine(f"{conv}.conv", 512, channels, kernel) | affine(f"{conv}.layer_norm", 512)
    shapes |= affine("wav2vec2.feature_projection.layer_norm", 512)
    shapes |= affine("wav2vec2.feature_projection.projection", 1024, 512)
    # One norm for each of 128 places of the kernel; 16 groups of 64 channels each.
    position = "wav2vec2.encoder.pos_conv_embed.conv"
    shapes |= {
        f"{position}.weight_g": (1, 1, 128),
        f"{position}.weight_v": (1024, 64, 128),
        f"{position}.bias": (1024,),
    }
    shapes |= affine("wav2vec2.encoder.layer_norm", 1024)
    for number in range(LAYERS):
        layer = f"wav2vec2.encoder.layers.{number}"
        for part in ("k", "v", "q", "out"):
            shapes |= affine(f"{layer}.attention.{part}_proj", 1024, 1024)
        shapes |= affine(f"{layer}.layer_norm", 1024) | affine(f"{layer}.final_layer_norm", 1024)
        shapes |= affine(f"{layer}.feed_forward.intermediate_dense", 4096, 1024)
        shapes |= affine(f"{layer}.feed_forward.output_dense", 1024, 4096)
    return shapes | affine("classifier.dense", 1024, 1024) | affine("classifier.out_proj", 3, 1024)


# google/vit-base-patch16-224-in21k and google/vit-base-patch16-224: ViT-B/16 at 224 pixels.
VIT_CONFIG: dict[str, Any] = {
    "_name_or_path": "google/vit-base-patch16-224-in21k",
    "architectures": ["ViTModel"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": LAYERS,
    "patch_size": 16,
    "qkv_bias": True,
    "transformers_version": "4.13.0.dev0",
}
VIT_PROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": 224,
}


def vit_shapes(prefix: str = "") -> Shapes:
    """196 patches of 16 x 16 and a class token, width 768, feed-forward 3072."""
    shapes: Shapes = {
        f"{prefix}embeddings.cls_token": (1, 1, 768),
        f"{prefix}embeddings.position_embeddings": (1, 197, 768),
    }
    shapes |= affine(f"{prefix}embeddings.patch_embeddings.projection", 768, 3, 16, 16)
    for number in range(LAYERS):
        layer = f"{prefix}encoder.layer.{number}"
        for part in ("query", "key", "value"):
            shapes |= affine(f"{layer}.attention.attention.{part}", 768, 768)
        shapes |= affine(f"{layer}.attention.output.dense", 768, 768)
        shapes |= affine(f"{layer}.intermediate.dense", 3072, 768)
        shapes |= affine(f"{layer}.output.dense", 768, 3072)
        shapes |= affine(f"{layer}.layernorm_before", 768) | affine(f"{layer}.layernorm_after", 768)
    return shapes | affine(f"{prefix}layernorm", 768)


# Alibaba-NLP/gte-en-mlm-base and gte-base-en-v1.5 in the layout of Alibaba-NLP/new-impl.
VOCABULARY = 30_528
GTE_CONFIG: dict[str, Any] = {
    "architectures": ["NewForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {
        "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
        "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
        "AutoModelForMaskedLM": "Alibaba-NLP/new-impl--modeling.NewForMaskedLM",
    },
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "max_position_embeddings": 8192,
    "model_type": "new",
    "num_attention_heads": 12,
    "num_hidden_layers": LAYERS,
    "pack_qkv": True,
    "pad_token_id": 0,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "rope_theta": 500000,
    "torch_dtype": "float32",
    "type_vocab_size": 0,
    "unpad_inputs": False,
    "use_memory_efficient_attention": False,
    "vocab_size": VOCABULARY,
}


def gte_shapes(prefix: str = "new.", types: int = 0) -> Shapes:
    """Width 768; queries, keys and values in one matrix, and so are the two of the gated feed-forward."""
    shapes: Shapes = {f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, 768)}
    if types:
        shapes[f"{prefix}embeddings.token_type_embeddings.weight"] = (types, 768)
    shapes |= affine(f"{prefix}embeddings.LayerNorm", 768)
    for number in range(LAYERS):
        layer = f"{prefix}encoder.layer.{number}"
        shapes |= affine(f"{layer}.attention.qkv_proj", 3 * 768, 768)
        shapes |= affine(f"{layer}.attention.o_proj", 768, 768)
        shapes[f"{layer}.mlp.up_gate_proj.weight"] = (2 * 3072, 768)
        shapes |= affine(f"{layer}.mlp.down_proj", 768, 3072)
        shapes |= affine(f"{layer}.attn_ln", 768) | affine(f"{layer}.mlp_ln", 768)
    return shapes


def gte_mlm_head() -> Shapes:
    """What the masked language model has beside the encoder; its decoder shares the embedding's weights."""
    return (
        affine("lm_head.dense", 768, 768)
        | affine("lm_head.norm", 768)
        | {"lm_head.decoder.bias": (VOCABULARY,)}
    )


def write_folder(folder: Path, shapes: Shapes, **files: dict[str, Any]) -> dict[str, Tensor]:
    """Write a model's folder with random weights, none of which is like another.

    Args:
        folder: Where to.
        shapes: The weights.
        files: JSON files by name without suffix.

    Returns:
        The weights by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    generator = torch.Generator().manual_seed(1)
    weights = {name: _drawn(name, shape, generator) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw at a scale at which signals neither die nor grow, so that every weight shows in the result."""
    noise = torch.empty(shape).normal_(generator=generator)
    if len(shape) == 1:
        return 0.1 * noise + float(name.endswith("weight"))
    if shape[0] == 1:
        return 0.3 * noise
    return noise * torch.tensor(shape[1:]).prod().item() ** -0.5
