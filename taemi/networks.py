"""Transformers models: loading them strictly, initialising them from a seed, rebuilding them from values."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from taemi.gte import is_old_gte, native_gte_config
from taemi.sources import Source, loading, read_config
from taemi_runtime.errors import CheckpointError

Model = TypeVar("Model", bound=PreTrainedModel)

# Fields of a config that say where it was once saved, not what the model is.
_PROVENANCE = ("_name_or_path", "name_or_path", "auto_map")


def load_config(source: Source) -> PreTrainedConfig:
    """Read a source's config without running any code of it.

    Raises:
        CheckpointError: The architecture is not one of transformers' own.
    """
    data = read_config(source)
    asked = f"cannot load encoder {source.name}"
    if is_old_gte(data):
        return native_gte_config(data, source.name)
    if data["model_type"] not in CONFIG_MAPPING:
        found = f"transformers has no architecture {data['model_type']!r}"
        if data.get("auto_map"):
            found = f"its architecture {data['model_type']!r} is Python code in the repository"
        raise CheckpointError(
            asked,
            f"{found}, and code of a repository is never run here",
            "Choose a model whose architecture transformers has by itself, such as "
            "Alibaba-NLP/gte-modernbert-base or thenlper/gte-base for text",
        )
    with loading(source):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source.location, local_files_only=source.local_only, trust_remote_code=False
        )
    return config


def base_class(config: PreTrainedConfig, name: str, takes: str) -> type[PreTrainedModel]:
    """Return the class that computes hidden states for a config.

    Args:
        config: The config.
        name: The model's name, for messages.
        takes: Its main input, ``input_ids`` or ``pixel_values``.

    Raises:
        CheckpointError: Transformers has none that takes this input and nothing else.
    """
    found: Any = MODEL_MAPPING.get(type(config), None)
    classes: list[type[PreTrainedModel]] = list(found) if isinstance(found, tuple) else [found]
    if found is None or config.is_encoder_decoder or classes[0].main_input_name != takes:
        raise CheckpointError(
            f"cannot load encoder {name}",
            f"a model of type {config.model_type!r} is no encoder of {takes}",
            "Choose BERT, GTE, ModernBERT or the like for text (input_ids), a ViT for vision (pixel_values)",
        )
    return classes[0]


def load_weights(
    model_class: type[Model], source: Source, config: PreTrainedConfig, *, optional: str = "\0"
) -> tuple[Model, tuple[str, ...]]:
    """Load a pretrained model in float32 and evaluation mode.

    Args:
        model_class: What to build.
        source: Where the weights are.
        config: The config, already read.
        optional: Prefix of weights that the source may lack; they are then initialised afresh.

    Returns:
        The model, and the names of the weights that were initialised afresh.

    Raises:
        CheckpointError: Other weights are missing or of another shape; never filled in silently.
    """
    with loading(source), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded: Any = model_class.from_pretrained(
            source.location,
            config=config,
            local_files_only=source.local_only,
            output_loading_info=True,
            # A mismatch is reported below, in one message with everything else that is missing.
            ignore_mismatched_sizes=True,
            **_arguments(model_class),
        )
    model: Model = loaded[0]
    info: dict[str, Any] = loaded[1]
    absent = sorted({*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])})
    essential = [name for name in absent if not name.startswith(optional)]
    if essential:
        raise CheckpointError(
            f"cannot load encoder {source.name}",
            f"weights that a {model_class.__name__} needs are missing or of another shape "
            f"({len(essential)} in all, first {essential[0]})",
            "Name a model of this architecture with its weights, or ask for random weights",
        )
    model.eval()
    return model, tuple(absent)


def random_model(model_class: type[Model], config: PreTrainedConfig, seed: int) -> Model:
    """Build a model with seeded random weights; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(model_class, config)


def restored_model(model_class: type[Model], config: PreTrainedConfig, state: Mapping[str, Tensor]) -> Model:
    """Build a model with given weights.

    Raises:
        RuntimeError: The weights do not fit the config.
    """
    with no_init_weights():
        model = _build(model_class, config)
    model.load_state_dict(dict(state), strict=True)
    return model


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a config as plain JSON values, without paths."""
    data: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in data.items() if key not in _PROVENANCE}


def config_from_plain(data: Mapping[str, Any]) -> PreTrainedConfig:
    """Rebuild a config from ``plain_config``'s values.

    Raises:
        CheckpointError: The installed transformers does not know its type.
    """
    kind = str(data.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(
            "cannot rebuild an encoder",
            f"the installed transformers has no architecture {kind!r}; "
            f"it was saved with {data.get('transformers_version')}",
            f"Install that version: pip install transformers=={data.get('transformers_version')}",
        )
    config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(dict(data))
    return config


def inner_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose names start with ``prefix``, without it.

    Raises:
        RuntimeError: An entry has another name.
    """
    foreign = [name for name in state if not name.startswith(prefix)]
    if foreign:
        raise RuntimeError(f"unexpected weight {foreign[0]}, expected names that start with {prefix}")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _build(model_class: type[Model], config: PreTrainedConfig) -> Model:
    model: Model = model_class._from_config(config, **_arguments(model_class))
    model.eval()
    return model


def _arguments(model_class: type[PreTrainedModel]) -> dict[str, Any]:
    # The pooler is never read: without it no weight is trained, stored or exported in vain.
    pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    # Half-precision files are widened: training, references and the fp32 graphs are float32.
    arguments: dict[str, Any] = {"dtype": torch.float32}
    if model_class._supports_sdpa:
        arguments["attn_implementation"] = "sdpa"
    return {**arguments, "add_pooling_layer": False} if pooler else arguments
