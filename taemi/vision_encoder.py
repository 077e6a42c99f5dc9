"""The vision encoder: one vector for each frame, the mean over all output tokens of a ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedModel

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
from taemi.sources import PREPROCESSOR_NAME, Source, find_file, loading, resolve
from taemi_runtime.errors import CheckpointError
from taemi_runtime.strict import from_plain, to_plain

_CHANNELS = 3


@dataclass(frozen=True)
class VisionDescription:
    """What a vision encoder is, as plain values; with its weights, all that is needed to rebuild it.

    Args:
        name: Hub id or folder name that it was made from.
        config: The transformers config.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        mean: Subtracted from each channel (RGB) after scaling.
        std: Divides each channel after that.
        scale: Factor from grey levels to the range that ``mean`` is in, usually 1/255.
        random_weights: Whether it was made with random weights.
        notes: What a user should know of it.
        kind: Marks the type of description.
    """

    name: str
    config: dict[str, Any]
    height: int
    width: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    scale: float = 1 / 255
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    kind: Literal["vision"] = "vision"


class VisionEncoder(nn.Module):
    """A vision transformer that takes grey levels.

    Args:
        model: A network that maps ``pixel_values`` to ``last_hidden_state`` [frames, tokens, width].
        description: What it is.
        hub_id: The id whose published weights it holds unchanged, if any.
    """

    # Buffers that are no state: they follow from the description.
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: PreTrainedModel, description: VisionDescription, hub_id: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.description = description
        self.hub_id = hub_id
        self.dim: int = model.config.hidden_size
        self.height = description.height
        self.width = description.width
        self.scale = description.scale
        self.notes = description.notes
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale and normalise frames as the model's image processor does.

        Args:
            pixels: [frames, 3, height, width] uint8 RGB.

        Returns:
            float32 of the same shape.
        """
        return (pixels.to(self.mean.dtype) * self.scale - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode frames.

        Args:
            pixels: [frames, 3, height, width] uint8 RGB, resized but not normalised.

        Returns:
            [frames, dim] float32: the mean over all output tokens, the class token included.
        """
        hidden: Tensor = self.model(pixel_values=self.normalise(pixels)).last_hidden_state
        return hidden.mean(dim=1)

    def describe(self) -> dict[str, Any]:
        """Return the description as plain values."""
        plain: dict[str, Any] = to_plain(self.description)
        return plain


def load_vision_encoder(
    id_or_dir: str | Path, *, random_weights: bool = False, seed: int = 0
) -> VisionEncoder:
    """Load a vision transformer.

    Args:
        id_or_dir: Hub id or local folder.
        random_weights: Build it with seeded random weights instead; a published id then needs no
            download.
        seed: Seed of random weights.

    Raises:
        CheckpointError: It cannot be read, is no vision transformer, or its images are prepared in a
            way that taemi does not reproduce.
    """
    config = published_config(id_or_dir) if random_weights else None
    if config is not None:
        name = str(id_or_dir)
        model_class = base_class(config, name, "pixel_values")
        height, width = _image_size(config, name)
        description = VisionDescription(name, plain_config(config), height, width, random_weights=True)
        return VisionEncoder(random_model(model_class, config, seed), description)
    source = resolve(id_or_dir)
    config = load_config(source)
    model_class = base_class(config, source.name, "pixel_values")
    height, width = _image_size(config, source.name)
    mean, std, scale = _read_processor(source, height, width)
    if random_weights:
        model = random_model(model_class, config, seed)
    else:
        model, _ = load_weights(model_class, source, config)
    description = VisionDescription(
        source.name, plain_config(config), height, width, mean, std, scale, random_weights
    )
    return VisionEncoder(model, description, None if random_weights else source.hub_id)


def rebuild_vision_encoder(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> VisionEncoder:
    """Rebuild an encoder from ``describe()`` and its state dict; nothing is downloaded.

    Raises:
        ValueError: The description is damaged.
        RuntimeError: The weights do not fit it.
        CheckpointError: The installed transformers cannot build it.
    """
    parsed = from_plain(dict(description), VisionDescription)
    config = config_from_plain(parsed.config)
    model_class = base_class(config, parsed.name, "pixel_values")
    return VisionEncoder(restored_model(model_class, config, inner_state(state, "model.")), parsed)


def _image_size(config: PreTrainedConfig, name: str) -> tuple[int, int]:
    asked = f"cannot use vision encoder {name}"
    size = getattr(config, "image_size", None)
    if size is None or not hasattr(config, "hidden_size") or not hasattr(config, "patch_size"):
        raise CheckpointError(
            asked,
            f"a model of type {config.model_type!r} is no vision transformer of one size",
            "Choose a ViT, e.g. google/vit-base-patch16-224-in21k",
        )
    if config.num_channels != _CHANNELS:
        raise CheckpointError(asked, f"it takes {config.num_channels} channels, expected {_CHANNELS} (RGB)")
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _read_processor(
    source: Source, height: int, width: int
) -> tuple[tuple[float, float, float], tuple[float, float, float], float]:
    """Read mean, std and scale, and refuse a preparation that is not resize, rescale, normalise."""
    asked = f"cannot use vision encoder {source.name}"
    if find_file(source, PREPROCESSOR_NAME) is None:
        raise CheckpointError(
            asked,
            f"it has no {PREPROCESSOR_NAME}, which says how images are normalised",
            "Save its image processor beside it: AutoImageProcessor...save_pretrained(FOLDER)",
        )
    with loading(source):
        processor = AutoImageProcessor.from_pretrained(
            source.location, local_files_only=source.local_only, trust_remote_code=False
        )
        facts = processor.to_dict()
    size = dict(facts.get("size") or {})
    resample = facts.get("resample", Image.Resampling.BILINEAR)
    wanted = {
        "do_resize": (bool(facts.get("do_resize", True)), True),
        "size": (size, {"height": height, "width": width}),
        "resample": (Image.Resampling(resample).name.lower(), "bilinear"),
        "do_center_crop": (bool(facts.get("do_center_crop")), False),
        "do_pad": (bool(facts.get("do_pad")), False),
    }
    for field, (found, expected) in wanted.items():
        if found != expected:
            raise CheckpointError(
                asked,
                f"its image processor has {field} {found!r}; frames are resized to the model's "
                f"{height} x {width} pixels, bilinear, i.e. {field} {expected!r}",
                f"Choose another model, or set {field} to {expected!r} in its {PREPROCESSOR_NAME} if that is "
                "how it should be used",
            )
    scale = float(facts["rescale_factor"]) if facts.get("do_rescale", True) else 1.0
    if not facts.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale
    return _triple(facts["image_mean"]), _triple(facts["image_std"]), scale


def _triple(values: Any) -> tuple[float, float, float]:
    numbers = [float(value) for value in values] if isinstance(values, list | tuple) else [float(values)] * 3
    red, green, blue = numbers
    return red, green, blue
