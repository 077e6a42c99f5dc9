"""Feature files for the tiny bundle, and what they should score."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taemi_runtime.feature_files.layout import EncoderId, FeatureFacts, Origin
from taemi_runtime.feature_files.store import FeatureStoreWriter
from taemi_runtime.manifest import read_manifest
from tests.runtime.tiny_bundle import BIAS, MISSING, WEIGHTS, Made

WIDTHS = {"audio": 3, "vision": 3, "text": 2}
LONGEST = {"audio": 599, "vision": 400}


def draw(seed: int, *, audio: bool = True, vision: bool = True, text: bool = True, longest: float = 1.0):
    """Draw a clip's features, of lengths from 1 up."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, there in (("audio", audio), ("vision", vision)):
        if there:
            rows = rng.integers(1, max(2, int(LONGEST[name] * longest) + 1))
            found[name] = rng.normal(0, 1, (rows, 3)).astype(np.float16)
    if text:
        found["text"] = rng.normal(0, 1, 2).astype(np.float16)
    return found


def draw_many(count: int, **options) -> list[dict]:
    """Draw clips, of which some lack some of the modalities."""
    return [
        draw(seed, audio=seed % 7 != 3, vision=seed % 5 != 2, text=seed % 3 != 1, **options)
        for seed in range(count)
    ]


def expected(features: dict) -> np.ndarray:
    """The unclipped scores of a clip, computed here."""
    parts = []
    for name, width in WIDTHS.items():
        values = features.get(name)
        if values is None:
            parts.append(np.full(width, MISSING))
        else:
            parts.append(values.astype(np.float64) if values.ndim == 1 else values.astype(np.float64).mean(0))
    return np.concatenate(parts) @ WEIGHTS + BIAS


def origin_of_bundle(made: Made, **changes: str) -> Origin:
    """What a store made with a bundle says of its encoders."""
    manifest = read_manifest(made.folder)
    encoders = {
        name: EncoderId(changes.get(name) or manifest.files[f"{name}.onnx"].sha256, "fp32") for name in WIDTHS
    }
    return Origin(changes.get("checkpoint", manifest.source.sha256), encoders)


def write_store(folder: Path, made: Made, clips: list[dict], origin: Origin | None = None) -> Path:
    """Write a store of clips called 00000, 00001, ..."""
    preprocessing = read_manifest(made.folder).preprocessing
    with FeatureStoreWriter(folder, origin or origin_of_bundle(made), preprocessing) as writer:
        for number, features in enumerate(clips):
            facts = FeatureFacts(f"{number:05}.mp4", 2.0 + number, f"{number:064x}")
            writer.add(f"{number:05}", features, facts)
    return folder


def scores_of(outcome) -> np.ndarray:
    """The scores of a result or of its JSON object."""
    found = outcome["intensities"] if isinstance(outcome, dict) else outcome.intensities
    return np.array(list(found.values()))
