"""GTE models in their original format, read by transformers' own GTE classes.

The repositories ``Alibaba-NLP/gte-*`` describe their architecture as Python code (``model_type: new``),
which taemi does not run and which recent versions of transformers break. Transformers has had the
architecture natively since 5.18 and converts the weights' names itself; only the config is in the way.
Defaults and meanings of the original fields: ``NewConfig`` in Alibaba-NLP/new-impl. Its NTK scaling
with factor f and base b has the fixed frequencies (b f)^(-2i/d) / f^(2/d), which is linear scaling by
f^(2/d) over base b f (modular_gte.py of transformers says so, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GteConfig

from taemi_runtime.errors import CheckpointError

OLD_MODEL_TYPE = "new"

# Fields that mean the same in both formats, with the original's defaults.
_SHARED: dict[str, Any] = {
    "vocab_size": 30528,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 2048,
    "type_vocab_size": 1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
# Fields that change what is computed, and the only value that the native classes compute.
_REQUIRED: dict[str, Any] = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}
_DEFAULT_THETA = 10_000.0


def is_old_gte(config: Mapping[str, Any]) -> bool:
    """Say whether a ``config.json`` is of the original format."""
    code = str((config.get("auto_map") or {}).get("AutoConfig", ""))
    return config.get("model_type") == OLD_MODEL_TYPE and (not code or code.endswith(".NewConfig"))


def native_gte_config(old: Mapping[str, Any], name: str) -> GteConfig:
    """Translate an original config.

    Args:
        old: Content of ``config.json``.
        name: The model's name, for messages.

    Raises:
        CheckpointError: The model uses something that the native classes do not compute.
    """
    scaling = old.get("rope_scaling") or {}
    deviating = {key: old[key] for key, value in _REQUIRED.items() if old.get(key, value) != value}
    if scaling and (scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None):
        deviating["rope_scaling"] = scaling
    if deviating:
        raise CheckpointError(
            f"cannot load encoder {name}",
            f"its config (model_type {OLD_MODEL_TYPE!r}, code in the repository) has {deviating}, which "
            "transformers' GTE does not compute, and code of a repository is never run here",
            "Use a version of the model with model_type gte, or Alibaba-NLP/gte-modernbert-base",
        )
    fields = {key: old.get(key, default) for key, default in _SHARED.items()}
    theta = float(old.get("rope_theta", _DEFAULT_THETA))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling:
        factor = float(scaling["factor"])
        head_dim = fields["hidden_size"] // fields["num_attention_heads"]
        rope = {"rope_type": "linear", "factor": factor ** (2 / head_dim), "rope_theta": theta * factor}
    return GteConfig(**fields, rope_parameters=rope)
