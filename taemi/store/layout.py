"""What a training store says: the metadata of a clip's file, and the index. Version 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from taemi_runtime.feature_files.layout import TRAINING_FORMAT
from taemi_runtime.strict import from_plain, to_plain

VERSION = 1
INDEX_NAME = "index.json"
FROM_FILE, FROM_NOWHERE = "file", "none"
"""Where a transcript comes from; else it is the name of a recogniser."""


@dataclass(frozen=True)
class EncoderFacts:
    """Which encoder made features.

    Args:
        name: The hub id or folder name that it was loaded from.
        sha256: Digest of its weights: two encoders with one digest give one result.
        dim: Width of its features.
    """

    name: str
    sha256: str
    dim: int


@dataclass(frozen=True)
class MadeWith:
    """What everything in a store was made with: one store, one set of these.

    Args:
        vision_encoder: Made ``vision``, or says how wide ready-made features have to be.
        preprocessing: What of the preprocessing the stored arrays depend on, as plain values.
        vision_from: Where vision comes from, as in ``Layout``.
        audio_encoder: Made ``audio``; ``None`` where that is not kept.
        text_encoder: Made ``text`` and ``text_tokens``; ``None`` where these are not kept.
    """

    vision_encoder: EncoderFacts
    preprocessing: dict[str, Any]
    vision_from: str = "raw"
    audio_encoder: EncoderFacts | None = None
    text_encoder: EncoderFacts | None = None


@dataclass(frozen=True)
class ClipFacts:
    """What a store says of one clip.

    Args:
        stamps: For each file that the clip has, its name, size and time of change: a cheap sign of change.
        sha256: For each file that was read, the digest of its content; empty for one that is not there.
        transcript: The transcript, stripped; empty when there is none.
        source: Where it comes from: ``file``, the name of a recogniser, or ``none``.
        why: Why there is no transcript, where that is known.
        asr: What was asked for to recognise speech (``--asr``); ``None`` where there was a file or nobody
            asked.
        remarks: Parts of the clip that could not be read though the rest was.
    """

    stamps: dict[str, str]
    sha256: dict[str, str]
    transcript: str = ""
    source: str = FROM_NOWHERE
    why: str = ""
    asr: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitRow:
    """One row of a split.

    Args:
        name: The clip.
        labels: Six intensities in the order of ``EMOTIONS``; ``None`` where there are none.
    """

    name: str
    labels: tuple[float, ...] | None

    @classmethod
    def of(cls, name: str, labels: tuple[float, ...]) -> SplitRow:
        """Make a row; JSON has no NaN, which stands for labels that are not there."""
        return cls(name, None if any(map(math.isnan, labels)) else labels)


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """A store's table of contents.

    Args:
        format: What it is.
        version: The format's version.
        corpus: The name of the corpus.
        synthetic: Whether that is synthetic.
        made_with: What everything was made with.
        splits: Each split's rows in the corpus's order, those of clips that failed included.
        clips: What is known of each clip, by name; a file that is not listed is found by its name.
        failures: Why a clip is not there, by name.
    """

    format: str = TRAINING_FORMAT
    version: int = VERSION
    corpus: str = ""
    synthetic: bool = False
    made_with: MadeWith
    splits: dict[str, tuple[SplitRow, ...]] = field(default_factory=dict)
    clips: dict[str, ClipFacts] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _FileFacts:
    """What a clip's file says: the value of the one key of its metadata."""

    version: int
    clip: str
    made_with: MadeWith
    facts: ClipFacts


def to_metadata(name: str, made_with: MadeWith, facts: ClipFacts) -> dict[str, str]:
    """Return the metadata of a clip's file.

    One key alone: safetensors writes several in any order, and files of one content would differ.
    """
    text = json.dumps(
        to_plain(_FileFacts(VERSION, name, made_with, facts)), ensure_ascii=False, separators=(",", ":")
    )
    return {TRAINING_FORMAT: text}


def from_metadata(metadata: Mapping[str, str]) -> tuple[MadeWith, ClipFacts]:
    """Read the metadata of a clip's file.

    Raises:
        ValueError: It is of another format or version, or damaged.
    """
    if TRAINING_FORMAT not in metadata:
        raise ValueError(f"it is no file of a training store: its metadata lacks {TRAINING_FORMAT}")
    try:
        data = msgspec.json.decode(metadata[TRAINING_FORMAT])
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise ValueError(f"it is of version {version!r}, this taemi reads {VERSION}")
        found = from_plain(data, _FileFacts)
    except RecursionError as error:
        raise ValueError("its metadata is damaged") from error
    return found.made_with, found.facts
