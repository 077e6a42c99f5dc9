"""Encoders by set: the paper's published ones, and tiny ones for tests and the demo.

The sizes of the published models are built in, so that a network of that size with random weights can
be made, exported and timed on a machine that has no hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    GteConfig,
    GteModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from taemi.networks import random_model
from taemi.sources import quiet
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression
from taemi.wordpiece import CLS, MASK, PAD, SEP, UNK, word_tokenizer
from taemi_runtime.atomic import atomic_folder

PAPER = {
    "audio": "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
    "vision": "google/vit-base-patch16-224-in21k",
    "text": "Alibaba-NLP/gte-en-mlm-base",
}
"""Hub ids of the set ``paper``. The audio model's licence is CC-BY-NC-SA-4.0."""

_LABELS = {0: "arousal", 1: "dominance", 2: "valence"}

# Kernels and strides of every wav2vec2 (Baevski et al. 2020): 400 samples make a frame, 320 one more.
_CONVS: dict[str, Any] = {
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def published_config(id_or_dir: str | Path) -> PreTrainedConfig | None:
    """Return the built-in config of a published model; ``None`` for a folder or another id.

    Sources of the numbers. Audio: the model's card and Wagner et al. 2023: wav2vec2-large-robust cut
    to 12 layers of width 1024 with 16 heads and feed-forward 4096, 512 channels in 7 convolutions,
    layer-normalised; dropouts as in facebook/wav2vec2-large-robust. Vision: Dosovitskiy et al. 2021,
    ViT-B/16 at 224 pixels, 197 tokens of width 768. Text: Zhang et al. 2024 (mGTE, arXiv 2407.19669),
    768 wide, 12 layers, 12 heads, rotary positions to 8192 tokens, the vocabulary of
    bert-base-uncased (30,522); rotary base and absent token types as in gte-base-en-v1.5, which
    matter to no measurement.
    """
    if isinstance(id_or_dir, Path) or Path(id_or_dir).expanduser().is_dir():
        return None
    build = _PUBLISHED.get(id_or_dir)
    return build() if build is not None else None


def _audeering() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        **_CONVS,
        conv_dim=(512,) * 7,
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        intermediate_size=4096,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        feat_proj_dropout=0.1,
        final_dropout=0.1,
        layerdrop=0.1,
        id2label=_LABELS,
    )


def _vit_base() -> ViTConfig:
    return ViTConfig(
        image_size=224, patch_size=16, hidden_size=768, num_hidden_layers=12, num_attention_heads=12
    )


def _gte_base() -> GteConfig:
    return GteConfig(
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=8192,
        type_vocab_size=0,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )


_PUBLISHED = {PAPER["audio"]: _audeering, PAPER["vision"]: _vit_base, PAPER["text"]: _gte_base}


def tiny_audio_config() -> Wav2Vec2Config:
    """Return wav2vec2 with the real convolutions and 123 thousand weights."""
    return Wav2Vec2Config(
        **_CONVS,
        conv_dim=(32,) * 7,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        initializer_range=_spread(64),
        id2label=_LABELS,
    )


def tiny_vision_config() -> ViTConfig:
    """Return a ViT of 224 pixels and 197 tokens with 84 thousand weights."""
    return ViTConfig(
        image_size=224,
        patch_size=16,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        initializer_range=_spread(48),
    )


def tiny_text_config(vocabulary: int) -> GteConfig:
    """Return a GTE of 2 layers and width 64."""
    return GteConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512,
        type_vocab_size=0,
        pad_token_id=0,
        initializer_range=_spread(64),
    )


def _spread(width: int) -> float:
    # With the usual 0.02 a network this narrow hardly mixes anything: attention would be uniform, and
    # a wrong mask or weight would not show in its outputs. 1/sqrt(fan-in) keeps the scale of signals.
    return float(width**-0.5)


def write_tiny_encoders(folder: Path, seed: int) -> dict[str, Path]:
    """Write the set ``tiny`` as ordinary transformers folders.

    Args:
        folder: Gets the folders ``audio``, ``vision`` and ``text``; existing ones are replaced.
        seed: Seed of the weights; the same seed writes the same files.

    Returns:
        The folders by name.
    """
    folders = {name: folder / name for name in ("audio", "vision", "text")}
    with atomic_folder(folders["audio"], replace=True) as part:
        _save(random_model(Wav2Vec2ForFrameRegression, tiny_audio_config(), seed), part)
        Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(part)
    with atomic_folder(folders["vision"], replace=True) as part:
        _save(random_model(ViTModel, tiny_vision_config(), seed + 1), part)
        ViTImageProcessorPil(image_mean=(0.5,) * 3, image_std=(0.5,) * 3).save_pretrained(part)
    with atomic_folder(folders["text"], replace=True) as part:
        tokenizer = word_tokenizer()
        _save(random_model(GteModel, tiny_text_config(tokenizer.get_vocab_size()), seed + 2), part)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            unk_token=UNK,
            cls_token=CLS,
            sep_token=SEP,
            mask_token=MASK,
            model_max_length=512,
        ).save_pretrained(part)
    return folders


def tiny_encoders(folder: Path, seed: int) -> dict[str, Path]:
    """Return the set ``tiny`` of a folder, written there the first time.

    Args:
        folder: As in ``write_tiny_encoders``.
        seed: Seed of the weights where they are not there yet.
    """
    folders = {name: folder / name for name in PAPER}
    # Each appears whole or not at all.
    return folders if all(map(Path.is_dir, folders.values())) else write_tiny_encoders(folder, seed)


def _save(model: PreTrainedModel, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)
