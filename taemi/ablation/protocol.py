"""What all runs of an ablation share, and the refusal to add runs that were made otherwise."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from taemi.corpus import Corpus
from taemi.encoders import Encoder
from taemi.features import encoder_digest
from taemi.recipe import FREE_TO_CHANGE, Recipe
from taemi.resume import data_digest
from taemi.system import TaemiSystem
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError
from taemi_runtime.strict import to_json, to_plain

PROTOCOL_NAME = "protocol.json"
# What a run has of its own, its seed and, through its row, what it sees; and what changes no weight.
_NOT_SHARED = FREE_TO_CHANGE | {"seed", "modalities"}
_SHOWN = 6
_DIGEST_SHOWN = 12


@dataclass(frozen=True)
class Protocol:
    """What may not differ between two runs of one table.

    Args:
        recipe: The training recipe without seed and modalities, and without what changes no weight.
        encoders: Of each encoder its name, whether its weights are random, and their digest before training;
            of the text encoder the tokenizer's digest, too.
        preprocessing: What the encoders' inputs are made with.
        data: How many clips each split has, where vision comes from, and a digest of names, labels, words
            and file sizes.
        device: ``cpu`` or ``cuda``, which compute in other precisions unless told otherwise.
    """

    recipe: dict[str, Any]
    encoders: dict[str, dict[str, Any]]
    preprocessing: dict[str, Any]
    data: dict[str, Any]
    device: str


def protocol_of(system: TaemiSystem, corpus: Corpus, recipe: Recipe, device: torch.device) -> Protocol:
    """Describe what a system would be trained with.

    Args:
        system: A system as it is before training; which row it is of does not matter.
        corpus: What it is trained on.
        recipe: How.
        device: Where.
    """
    encoders: dict[str, Encoder] = {
        "audio": system.audio_encoder,
        "vision": system.vision_encoder,
        "text": system.text_encoder,
    }
    described: dict[str, dict[str, Any]] = {
        part: {
            "name": encoder.description.name,
            "random_weights": encoder.description.random_weights,
            "weights": encoder_digest(encoder),
        }
        for part, encoder in encoders.items()
    }
    described["text"]["tokenizer"] = hashlib.sha256(system.text_encoder.tokenizer_json.encode()).hexdigest()
    return Protocol(
        recipe={name: value for name, value in asdict(recipe).items() if name not in _NOT_SHARED},
        encoders=described,
        preprocessing=to_plain(system.preprocessing),
        data={
            "clips": {split: len(corpus.split(split)) for split in ("train", "valid")},
            "vision": corpus.vision,
            "synthetic": corpus.synthetic,
            "digest": _data_digest(corpus),
        },
        device=device.type,
    )


def settle(folder: Path, protocol: Protocol) -> None:
    """Write a folder's protocol, or compare with the one that is there.

    Raises:
        DataError: The folder holds runs of another protocol, or its protocol cannot be read.
    """
    path = folder / PROTOCOL_NAME
    asked = f"cannot go on with the ablation in {folder}"
    if not path.exists():
        write_text(path, to_json(protocol))
        return
    try:
        there = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, OSError) as error:
        raise DataError(asked, f"{PROTOCOL_NAME} cannot be read ({error})", "Choose another --out") from error
    here = dict(_leaves(json.loads(to_json(protocol))))
    differing = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if differing:
        parts = [
            f"{name} was {_short(there.get(name))}, now {_short(here.get(name))}"
            for name in differing[:_SHOWN]
        ]
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise DataError(
            asked,
            f"its runs were made otherwise: {'; '.join(parts)}{more}",
            "Give what was given then, or choose another --out: one table compares what differs in its rows "
            "only",
        )


def _data_digest(corpus: Corpus) -> str:
    splits = [corpus.split(split) for split in ("train", "valid")]
    sha = hashlib.sha256(data_digest(*splits).encode())
    for row in itertools.chain(*splits):
        for path in (row.media, row.audio, row.pictures):
            # A file of another length is another file; reading a corpus whole takes too long.
            size = path.stat().st_size if path is not None and path.is_file() else None
            sha.update(f"{row.name} {path.name if path is not None else None} {size} ".encode())
    return sha.hexdigest()


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{place}.{name}" if place else name)
    else:
        yield place, value


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2:
        return value[:_DIGEST_SHOWN]
    return json.dumps(value)
