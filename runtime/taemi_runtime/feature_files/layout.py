"""What a feature file says of itself: the metadata beside its tensors.

Version 1. One safetensors file a clip, with the tensors ``audio`` [frames, D_a], ``vision`` [frames, D_v]
and ``text`` [D_t] or ``text_tokens`` [tokens, D_t], float16 or float32; a missing modality is a tensor that
is not there. Every value of the metadata is a string, as safetensors wants it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from taemi_runtime.results import AudioUse, TextUse, VisionUse
from taemi_runtime.strict import from_plain, to_plain

FORMAT = "taemi-features"
VERSION = 1
SUFFIX = ".safetensors"
AUDIO, VISION, TEXT, TOKENS = "audio", "vision", "text", "text_tokens"
WAVEFORM = "waveform"
"""What a training store holds: sound that no encoder has seen yet."""
TRAINING_FORMAT = "taemi-training-features"
"""The format of a training store and of its files."""


@dataclass(frozen=True)
class EncoderId:
    """Which encoder made a modality's features.

    Args:
        sha256: Digest of its fp32 graph in the bundle that it was taken from; empty where there was none.
        precision: What it ran in: ``fp32``, ``fp16`` or ``int8``.
    """

    sha256: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Origin:
    """What made features: enough to tell whether two models have the same encoders.

    Args:
        checkpoint: Digest of the checkpoint that the encoders come from; empty where it is not known.
        encoders: The encoder of each modality.
    """

    checkpoint: str = ""
    encoders: dict[str, EncoderId] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureFacts:
    """What a feature file says of its clip.

    Args:
        clip: The clip's file name; empty where the file does not say.
        clip_seconds: Its length; ``None`` where the file does not say.
        clip_sha256: Digest of its content; empty where nobody computed it.
        origin: What made the features; ``None`` where the file does not say.
        audio: What was used of the sound; ``None`` where the file does not say.
        vision: What was used of the picture; likewise.
        text: What was used of the transcript; likewise.
        warnings: What was worth knowing about the clip.
    """

    clip: str = ""
    clip_seconds: float | None = None
    clip_sha256: str = ""
    origin: Origin | None = None
    audio: AudioUse | None = None
    vision: VisionUse | None = None
    text: TextUse | None = None
    warnings: tuple[str, ...] = ()


_PLAIN = ("clip", "clip_sha256")
_TREES: dict[str, Any] = {
    "origin": Origin,
    "audio": AudioUse,
    "vision": VisionUse,
    "text": TextUse,
    "warnings": tuple[str, ...],
}


def to_metadata(facts: FeatureFacts) -> dict[str, str]:
    """Return the metadata of a feature file."""
    found = {"format": FORMAT, "version": str(VERSION)}
    for name in _PLAIN:
        if getattr(facts, name):
            found[name] = getattr(facts, name)
    if facts.clip_seconds is not None:
        found["clip_seconds"] = repr(float(facts.clip_seconds))
    for name in _TREES:
        value = getattr(facts, name)
        if value is not None and value != ():
            found[name] = json.dumps(to_plain(value), ensure_ascii=False, separators=(",", ":"))
    return found


def from_metadata(metadata: Mapping[str, str]) -> FeatureFacts:
    """Read the metadata of a feature file.

    A file without the key ``format`` is taken as bare tensors, of which nothing is known.

    Raises:
        ValueError: It is of another format or version, or a value cannot be read.
    """
    if TRAINING_FORMAT in metadata:
        raise ValueError("it is of a training store, which says nothing of a bundle's encoders")
    if "format" not in metadata:
        return FeatureFacts()
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, expected {FORMAT!r}")
    if metadata.get("version") != str(VERSION):
        raise ValueError(f"its version is {metadata.get('version')!r}, this taemi reads '{VERSION}'")
    known = {item.name for item in fields(FeatureFacts)} | {"format", "version"}
    if extra := sorted(set(metadata) - known):
        raise ValueError(f"unknown metadata {', '.join(extra)}")
    values: dict[str, Any] = {name: metadata[name] for name in _PLAIN if name in metadata}
    if "clip_seconds" in metadata:
        values["clip_seconds"] = _seconds(metadata["clip_seconds"])
    for name, kind in _TREES.items():
        if name in metadata:
            try:
                # The files of a store are all of one origin.
                read = _read_origin if kind is Origin else _read_tree
                values[name] = read(metadata[name], kind)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"its {name} cannot be read: {error}") from error
    return FeatureFacts(**values)


def _read_tree(text: str, kind: Any) -> Any:
    return from_plain(msgspec.json.decode(text), kind)


_read_origin = functools.lru_cache(maxsize=64)(_read_tree)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"its clip_seconds is {text!r}, expected a number from 0 up")
    return seconds
