"""Whether two models have the same encoders: features of one mean nothing to the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taemi_runtime.contract import MODALITIES
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.find import FeatureInput
from taemi_runtime.feature_files.layout import EncoderId, FeatureFacts, Origin
from taemi_runtime.loading import LoadedModel
from taemi_runtime.manifest import Manifest, file_sha256

CheckOrigin = Callable[[FeatureFacts, FeatureInput], None]
"""Refuses features of other encoders."""

_FP32 = "fp32"


def origin_of(model: LoadedModel) -> Origin:
    """Describe a model's encoders without opening them.

    A bundle's encoders are known by the digests of their fp32 graphs, which every other form of them was
    made from; a checkpoint's by the checkpoint's own.
    """
    manifest = model.manifest
    if not manifest.files and model.path.is_file():
        return Origin(file_sha256(model.path), {name: EncoderId() for name in _encoders(manifest)})
    checkpoint = manifest.source.sha256 if manifest.source is not None else ""
    return Origin(checkpoint, {name: EncoderId(_digest(manifest, name)) for name in _encoders(manifest)})


def with_precisions(origin: Origin, model: LoadedModel) -> Origin:
    """Add what the encoders run in; opens their engines.

    Raises:
        TaemiError: An engine cannot be opened.
    """
    return Origin(
        origin.checkpoint,
        {
            name: EncoderId(item.sha256, model.engine(name).info.precision)
            for name, item in origin.encoders.items()
        },
    )


def differences(first: Origin, second: Origin, *, precision: bool = False) -> list[str]:
    """Name the encoders in which two origins differ, with both values; none where nobody can tell.

    Args:
        first: One origin.
        second: The other, called "here".
        precision: Whether another precision counts, too, and another checkpoint where nothing else is known.
    """
    found = []
    same_source = bool(first.checkpoint) and first.checkpoint == second.checkpoint
    for name in MODALITIES:
        one, other = first.encoders.get(name), second.encoders.get(name)
        if one is None or other is None:
            continue
        if not same_source and one.sha256 and other.sha256 and one.sha256 != other.sha256:
            found.append(f"{name} encoder {one.sha256}, here {other.sha256}")
        elif precision and one.precision != other.precision:
            found.append(f"{name} encoder in {one.precision or '?'}, here in {other.precision or '?'}")
    unknown = not same_source and not _comparable(first, second)
    if precision and unknown and not found and first.checkpoint and second.checkpoint:
        found.append(f"checkpoint {first.checkpoint}, here {second.checkpoint}")
    return found


def require_same(stored: Origin | None, here: Origin, what: str, engine: Path) -> str:
    """Refuse features of other encoders.

    Args:
        stored: What made the features; ``None`` where they do not say.
        here: The model that is to score them.
        what: The store or file, for the message.
        engine: What was named as engine, likewise.

    Returns:
        Why nobody can tell whether they fit; empty where they do.

    Raises:
        DataError: They are of other encoders; both digests are in the message.
    """
    if stored is None:
        return f"{what} does not say which encoders made its features: not compared with {engine}"
    different = differences(stored, here)
    if different:
        raise DataError(
            f"cannot score {what} with {engine}",
            f"its features are of other encoders: {'; '.join(different)}",
            "Score it with the bundle that made it, or make a store with this one: taemi-infer CLIP... "
            f"--engine {engine} --save-features STORE",
        )
    if (stored.checkpoint and stored.checkpoint == here.checkpoint) or _comparable(stored, here):
        return ""
    return (
        f"nobody can tell whether {what} fits {engine}, which has no encoders: its features are of "
        f"checkpoint {stored.checkpoint or 'unknown'}, the engine is of {here.checkpoint or 'unknown'}"
    )


def _comparable(first: Origin, second: Origin) -> bool:
    """Return whether there are digests of the same encoder on both sides, for every one of the first."""
    return bool(first.encoders) and all(
        item.sha256 and name in second.encoders and second.encoders[name].sha256
        for name, item in first.encoders.items()
    )


def _encoders(manifest: Manifest) -> list[str]:
    return [name for name in MODALITIES if name in manifest.graphs]


def _digest(manifest: Manifest, graph: str) -> str:
    for name, entry in manifest.files.items():
        if entry.graph == graph and entry.precision == _FP32 and name.endswith(".onnx"):
            return entry.sha256
    return ""
