"""Checkpoints: tensors and plain values in one file that ``torch.load(weights_only=True)`` reads.

A checkpoint holds everything that export and inference need: the config, the preprocessing, the
fusion weights, and each encoder whole (its configuration and its weights), or only its hub id when
it is a frozen, published one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taemi.config import config_from_plain
from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder, rebuild
from taemi.exportable import read_checkpoint
from taemi.model import Taemi
from taemi.system import TaemiSystem
from taemi_runtime.atomic import atomic_file
from taemi_runtime.errors import CheckpointError
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import from_plain, to_plain

FORMAT = 1
FAMILY = "taemi"


@dataclass(frozen=True)
class Progress:
    """Where a checkpoint stands in its training.

    Args:
        trained: ``False`` marks random weights; every result made from them says so.
        epoch: Finished epochs.
        rho: Mean validation correlation, ``None`` before the first validation.
        recipe: The training config as plain values.
        corpus: What it was trained on, e.g. ``synthetic, 120 clips, seed 1``.
        resume: Optimiser and schedule state, in ``last.pt`` only.
    """

    trained: bool
    epoch: int = 0
    rho: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    resume: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, system: TaemiSystem, progress: Progress) -> None:
    """Write a checkpoint atomically; an interrupted write leaves the previous file whole.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    encoders = {
        "audio": _pack(system.audio_encoder),
        "text": _pack(system.text_encoder),
        "vision": _pack(system.vision_encoder, frozen=True),
    }
    data = {
        "format": FORMAT,
        "family": FAMILY,
        "model": system.config.to_plain(),
        "preprocessing": to_plain(system.preprocessing),
        "encoders": encoders,
        "fusion": _cpu(system.fusion.state_dict()),
        "progress": dict(vars(progress)),
    }
    write_tensors(path, data)


def write_tensors(path: Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically, for ``torch.load(weights_only=True)``.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    with atomic_file(path) as part:
        try:
            torch.save(data, part)
        except RuntimeError as error:
            # PyTorch's writer reports a full disk as a mismatch of positions.
            if shutil.disk_usage(part.parent).free < _tensor_bytes(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(_tensor_bytes(item) for item in items)


def load_system(path: Path) -> tuple[TaemiSystem, Progress]:
    """Rebuild the system that a checkpoint holds, in evaluation mode on the CPU.

    Raises:
        CheckpointError: The file is no TAEMI checkpoint of this format, or its parts do not fit.
    """
    return system_from_data(read_checkpoint(path), path)


def system_from_data(data: Mapping[str, Any], path: Path) -> tuple[TaemiSystem, Progress]:
    """Rebuild the system from what ``read_checkpoint`` gave.

    Raises:
        CheckpointError: The data are of another format or contradict themselves.
    """
    with _checking(data, path):
        config = config_from_plain(data["model"])
        preprocessing = from_plain(data["preprocessing"], Preprocessing)
        masked = preprocessing.audio.padded_samples is None
        encoders = {
            name: _unpack(name, data["encoders"][name], masked) for name in ("audio", "text", "vision")
        }
        system = TaemiSystem(config, encoders["audio"], encoders["text"], encoders["vision"], preprocessing)
        system.fusion.load_state_dict(data["fusion"])
        progress = Progress(**data["progress"])
    return system.eval(), progress


@dataclass(frozen=True)
class FusionPart:
    """What a checkpoint says without its encoders.

    Args:
        model: The fusion network, in evaluation mode.
        preprocessing: What the encoders' inputs are made with.
        progress: Where the checkpoint stands.
        tokenizer: The text encoder's ``tokenizer.json``; empty where the checkpoint holds only its id.
    """

    model: Taemi
    preprocessing: Preprocessing
    progress: Progress
    tokenizer: str


def fusion_from_data(data: Mapping[str, Any], path: Path) -> FusionPart:
    """Rebuild the fusion network alone: no encoder is built, read or fetched.

    Raises:
        CheckpointError: The data are of another format or contradict themselves.
    """
    with _checking(data, path):
        model = Taemi(config_from_plain(data["model"]))
        model.load_state_dict(data["fusion"])
        preprocessing = from_plain(data["preprocessing"], Preprocessing)
        description = data["encoders"]["text"].get("description", {})
        return FusionPart(
            model.eval(), preprocessing, Progress(**data["progress"]), description.get("tokenizer", "")
        )


@contextlib.contextmanager
def _checking(data: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Turn what damaged data make of a rebuild into one clear message."""
    asked = f"cannot load checkpoint {path}"
    if data.get("family") != FAMILY or data.get("format") != FORMAT:
        raise CheckpointError(
            asked,
            f"got family {data.get('family')!r} format {data.get('format')!r}, "
            f"expected {FAMILY!r} format {FORMAT}",
            "Load it with the version of taemi that wrote it",
        )
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        # load_state_dict spreads its findings over many lines; the first two say which weight and why.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(
            asked, reason, "The file is damaged or was edited: train or init again"
        ) from error


def _pack(encoder: Any, *, frozen: bool = False) -> dict[str, Any]:
    if frozen and encoder.hub_id is not None:
        return {"id": encoder.hub_id}
    return {"description": encoder.describe(), "weights": _cpu(encoder.state_dict())}


def _unpack(name: str, packed: Mapping[str, Any], masked: bool) -> Any:
    if "id" not in packed:
        return rebuild(packed["description"], packed["weights"])
    if name == "audio":
        return load_audio_encoder(packed["id"], mask_in_encoder=masked)
    return load_text_encoder(packed["id"]) if name == "text" else load_vision_encoder(packed["id"])


def _cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
