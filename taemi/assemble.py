"""Putting a system together from a variant's name and a choice of encoders."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from taemi.choice import EncoderChoice
from taemi.config import variant
from taemi.encoder_sets import PAPER, write_tiny_encoders
from taemi.encoders import (
    AudioEncoder,
    TextEncoder,
    VisionEncoder,
    load_audio_encoder,
    load_text_encoder,
    load_vision_encoder,
)
from taemi.system import TaemiSystem, preprocessing_for


def assemble(
    name: str,
    choice: EncoderChoice,
    *,
    seed: int,
    max_fps: float | None = None,
    faces: str = "none",
    tiny: Mapping[str, Path] | None = None,
    modality_dropout: float | None = None,
) -> TaemiSystem:
    """Load encoders and put a fresh fusion network behind them.

    Args:
        name: A variant of ``taemi.config.VARIANTS``.
        choice: The encoders.
        seed: Seed of the fusion network's weights and of random or tiny encoders.
        max_fps: Sampling rate of vision features in frames a second; ``None`` is every frame.
        faces: How frames are cropped, as in ``VisionPreprocessing.faces``.
        tiny: Folders of tiny encoders by name; where none are given they are made.
        modality_dropout: Chance of dropping a modality; as the variant says when ``None``.

    Raises:
        SpecError: There is no such variant.
        CheckpointError: An encoder cannot be loaded.
    """
    variant(name)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # What a loader warns of stands in the encoder's notes, too, and is said by whoever asked.
        warnings.simplefilter("ignore", UserWarning)
        if choice.base == "tiny":
            folders = tiny or write_tiny_encoders(Path(scratch), seed)
            ids = {part: str(folder) for part, folder in folders.items()}
        else:
            ids = dict(PAPER)
        ids |= {part: own for part in ids if (own := getattr(choice, part)) is not None}
        # A tiny encoder has its weights on disk already; random weights are for published sizes.
        random = choice.random_weights and choice.base == "paper"
        audio = load_audio_encoder(
            ids["audio"], mask_in_encoder=choice.mask_in_encoder, random_weights=random, seed=seed
        )
        text = load_text_encoder(ids["text"], random_weights=random, seed=seed)
        vision = load_vision_encoder(ids["vision"], random_weights=random, seed=seed)
        if choice.base == "tiny":
            _mark_random(choice, audio, text, vision)
    # The encoders' loaders leave the generator wherever it is; the fusion network has its own seed.
    torch.manual_seed(seed)
    changes = {} if modality_dropout is None else {"modality_dropout": modality_dropout}
    config = variant(name, audio_dim=audio.dim, text_dim=text.dim, vision_dim=vision.dim, **changes)
    preprocessing = preprocessing_for(audio, vision, config, max_fps=max_fps, faces=faces, pad_id=text.pad_id)
    return TaemiSystem(config, audio, text, vision, preprocessing)


def _mark_random(
    choice: EncoderChoice, audio: AudioEncoder, text: TextEncoder, vision: VisionEncoder
) -> None:
    # Tiny encoders lie in folders like trained ones; only here is it known that their weights are random.
    if choice.audio is None:
        audio.description = replace(audio.description, random_weights=True)
    if choice.text is None:
        text.description = replace(text.description, random_weights=True)
    if choice.vision is None:
        vision.description = replace(vision.description, random_weights=True)


def encoder_notes(system: TaemiSystem) -> list[str]:
    """Return what is unusual about a system's encoders, one sentence each."""
    return [
        f"{name} encoder: {note}"
        for name in ("audio", "vision", "text")
        for note in getattr(system, f"{name}_encoder").notes
    ]
