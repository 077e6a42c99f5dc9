"""The text encoder: a vector for each transcript, and one for each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from taemi.encoder_sets import published_config
from taemi.networks import (
    base_class,
    config_from_plain,
    inner_state,
    load_config,
    load_weights,
    plain_config,
    random_model,
    restored_model,
)
from taemi.sources import Source, loading, read_json, resolve
from taemi.wordpiece import synthetic_tokenizer
from taemi_runtime.errors import CheckpointError
from taemi_runtime.strict import from_plain, to_plain

TextPooling = Literal["cls", "mean"]
MODULES_NAME = "modules.json"

# The modes of sentence-transformers' Pooling module: old files have one flag each, new ones a name.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Their position table starts after the padding token's row (fairseq's convention).
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm")


@dataclass(frozen=True)
class TextDescription:
    """What a text encoder is, as plain values; with its weights, all that is needed to rebuild it.

    Args:
        name: Hub id or folder name that it was made from.
        config: The transformers config.
        tokenizer: The tokenizer as the content of a ``tokenizer.json``, without padding and truncation.
        pad_id: The padding token.
        pooling: How token vectors become one: ``cls``, the first token's, or ``mean`` over valid tokens.
        random_weights: Whether it was made with random weights.
        notes: What a user should know of it.
        kind: Marks the type of description.
    """

    name: str
    config: dict[str, Any]
    tokenizer: str
    pad_id: int
    pooling: TextPooling = "cls"
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    kind: Literal["text"] = "text"


class TextEncoder(nn.Module):
    """A transformer over word pieces.

    Args:
        model: A network that maps ``input_ids`` to ``last_hidden_state`` [batch, tokens, width].
        description: What it is.
        hub_id: The id whose published weights it holds unchanged, if any.
    """

    def __init__(
        self, model: PreTrainedModel, description: TextDescription, hub_id: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.description = description
        self.hub_id = hub_id
        config = model.config
        self.dim: int = config.hidden_size
        self.pooling = description.pooling
        self.tokenizer_json = description.tokenizer
        self.pad_id = description.pad_id
        self.notes = description.notes
        self.vocabulary: int = config.vocab_size
        self.max_tokens = _max_tokens(config)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            input_ids: [batch, tokens] int64, special tokens included.
            attention_mask: [batch, tokens] int64, 1 = valid; padding stands on the right.

        Returns:
            The pooled vectors [batch, dim] and the token vectors [batch, tokens, dim], float32; token
            vectors of padding are zero.
        """
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        valid = attention_mask.bool()[:, :, None]
        tokens = torch.where(valid, hidden, 0.0)
        if self.pooling == "mean":
            count = attention_mask.sum(dim=1, keepdim=True).clamp(min=1).to(tokens.dtype)
            return tokens.sum(dim=1) / count, tokens
        return tokens[:, 0], tokens

    def describe(self) -> dict[str, Any]:
        """Return the description as plain values."""
        plain: dict[str, Any] = to_plain(self.description)
        return plain


def load_text_encoder(id_or_dir: str | Path, *, random_weights: bool = False, seed: int = 0) -> TextEncoder:
    """Load a text encoder: BERT, GTE, ModernBERT, or any other that transformers has by itself.

    Args:
        id_or_dir: Hub id or local folder.
        random_weights: Build it with seeded random weights instead; a published id then needs no
            download and gets a synthetic vocabulary of the published size.
        seed: Seed of random weights.

    Raises:
        CheckpointError: It cannot be read, needs code of its repository, or pools in a way that taemi
            does not offer.
    """
    config = published_config(id_or_dir) if random_weights else None
    if config is not None:
        name = str(id_or_dir)
        model_class = base_class(config, name, "input_ids")
        description = TextDescription(
            name,
            plain_config(config),
            synthetic_tokenizer(config.vocab_size).to_str(),
            pad_id=0,
            random_weights=True,
            notes=(_SYNTHETIC.format(size=config.vocab_size),),
        )
        return TextEncoder(random_model(model_class, config, seed), description)
    source = resolve(id_or_dir)
    config = load_config(source)
    model_class = base_class(config, source.name, "input_ids")
    pooling, notes = _read_pooling(source)
    tokenizer, pad_id = _read_tokenizer(source, config)
    if random_weights:
        model = random_model(model_class, config, seed)
    else:
        model, _ = load_weights(model_class, source, config)
    description = TextDescription(
        source.name, plain_config(config), tokenizer, pad_id, pooling, random_weights, notes
    )
    return TextEncoder(model, description, None if random_weights else source.hub_id)


def rebuild_text_encoder(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> TextEncoder:
    """Rebuild an encoder from ``describe()`` and its state dict; nothing is downloaded.

    Raises:
        ValueError: The description is damaged.
        RuntimeError: The weights do not fit it.
        CheckpointError: The installed transformers cannot build it.
    """
    parsed = from_plain(dict(description), TextDescription)
    config = config_from_plain(parsed.config)
    model_class = base_class(config, parsed.name, "input_ids")
    return TextEncoder(restored_model(model_class, config, inner_state(state, "model.")), parsed)


_SYNTHETIC = (
    "its tokenizer has a synthetic vocabulary of {size} entries, made for measuring speed: the published "
    "vocabulary is not part of taemi"
)


def _max_tokens(config: PreTrainedConfig) -> int | None:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in _OFFSET_POSITIONS:
        return positions - int(config.pad_token_id or 0) - 1
    return positions


def _read_pooling(source: Source) -> tuple[TextPooling, tuple[str, ...]]:
    """Read how the source's own sentence-transformers config pools; the first token where it has none."""
    modules = read_json(source, MODULES_NAME) or []
    pooling: TextPooling = "cls"
    left_out = []
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling_mode(source, read_json(source, f"{module['path']}/config.json") or {})
        elif kind != "Transformer":
            left_out.append(kind)
    if not left_out:
        return pooling, ()
    note = (
        f"{source.name} ends in {', '.join(left_out)}, which is left out: the pooled vector is used as it is"
    )
    return pooling, (note,)


def _pooling_mode(source: Source, config: Mapping[str, Any]) -> TextPooling:
    modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    named = config.get("pooling_mode")
    if named:
        modes = [named] if isinstance(named, str) else list(named)
    if modes == ["cls"]:
        return "cls"
    if modes == ["mean"]:
        return "mean"
    raise CheckpointError(
        f"cannot use text encoder {source.name}",
        f"it pools by {' and '.join(modes) or 'nothing'}, possible are cls and mean",
        "Choose another model, e.g. Alibaba-NLP/gte-modernbert-base",
    )


def _read_tokenizer(source: Source, config: PreTrainedConfig) -> tuple[str, int]:
    """Return the tokenizer as JSON and its padding token."""
    asked = f"cannot use text encoder {source.name}"
    with loading(source):
        wrapped = AutoTokenizer.from_pretrained(
            source.location, local_files_only=source.local_only, trust_remote_code=False
        )
    backend = getattr(wrapped, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            asked,
            f"its tokenizer ({type(wrapped).__name__}) has no tokenizer.json form",
            "Choose a model with a fast tokenizer",
        )
    tokenizer = Tokenizer.from_str(backend.to_str())
    # Lengths are the pipeline's business: a file may ask for padding to a fixed length.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise CheckpointError(
            asked,
            f"its tokenizer has {size} entries, its embedding table {config.vocab_size}",
            "Name a folder whose tokenizer belongs to its model",
        )
    pad_id = wrapped.pad_token_id
    return tokenizer.to_str(), int(pad_id) if pad_id is not None else 0
