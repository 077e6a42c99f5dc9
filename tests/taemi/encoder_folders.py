"""Small encoders on disk, changed copies of them, and inputs for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    Wav2Vec2FeatureExtractor,
)

from taemi.encoder_sets import tiny_audio_config
from taemi.gte import native_gte_config
from taemi.wav2vec2 import Wav2Vec2ForFrameRegression

SENTENCES = ["I am so happy for you!", "no", "That must have hurt; I am sorry to hear about the accident."]


def sound(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in enumerate(lengths):
        waveform[row, length:] = 0
    return waveform, torch.tensor(lengths)


def copy_with(folder: Path, target: Path, name: str, **changes) -> Path:
    """Copy an encoder folder with changed fields in one of its JSON files; ``None`` deletes a field."""
    shutil.copytree(folder, target)
    data = json.loads((target / name).read_text())
    data.update(changes)
    (target / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return target


def tokenizer_files(source: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)
    return target


def save_audio(folder: Path, model=None, **extractor) -> Path:
    (model or Wav2Vec2ForFrameRegression(tiny_audio_config())).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**{"return_attention_mask": True, **extractor}).save_pretrained(folder)
    return folder


# -- vision -----------------------------------------------------------------------------------------


def frames(count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=generator)


# -- text -------------------------------------------------------------------------------------------


def tokens(folder: Path) -> dict[str, torch.Tensor]:
    return AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")


def old_gte(folder: Path, tokenizer: Path, **changes) -> tuple[Path, GteModel]:
    """Write a model as the original repositories have it: packed weights, ``model_type`` new."""
    old = {
        "model_type": "new",
        "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
        "vocab_size": 1_100,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.1,
        "rope_theta": 500_000,
        "rope_scaling": {"type": "ntk", "factor": 2.0},
        **changes,
    }
    torch.manual_seed(0)
    model = GteModel(native_gte_config({**old, "rope_scaling": None, "logn_attention_scale": False}, "old"))
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("layers."):
            state[f"new.{name}"] = tensor
    for index, layer in enumerate(model.layers):
        attention, prefix = layer.self_attn, f"new.encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = [getattr(attention, f"{part}_proj").get_parameter(kind) for part in "qkv"]
            state[f"{prefix}.attention.qkv_proj.{kind}"] = torch.cat(parts)
            state[f"{prefix}.attention.o_proj.{kind}"] = attention.o_proj.get_parameter(kind)
            state[f"{prefix}.mlp.down_proj.{kind}"] = layer.mlp.down_proj.get_parameter(kind)
            state[f"{prefix}.attn_ln.{kind}"] = layer.post_attention_layernorm.get_parameter(kind)
            state[f"{prefix}.mlp_ln.{kind}"] = layer.post_mlp_layernorm.get_parameter(kind)
        packed = [layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight]
        state[f"{prefix}.mlp.up_gate_proj.weight"] = torch.cat(packed)
    tokenizer_files(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(old))
    state = {name: tensor.detach().clone() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, model.eval()


# -- checkpoints ------------------------------------------------------------------------------------


def modernbert(folder: Path, tokenizer: Path) -> Path:
    config = ModernBertConfig(
        vocab_size=1_100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        local_attention=8,
        pad_token_id=0,
    )
    ModernBertModel(config).save_pretrained(folder)
    return tokenizer_files(tokenizer, folder)
