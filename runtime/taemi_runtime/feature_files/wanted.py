"""What a fusion graph wants of a feature file: one input for each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taemi_runtime.contract import text_input
from taemi_runtime.errors import BundleError
from taemi_runtime.feature_files.layout import AUDIO, TEXT, VISION
from taemi_runtime.spec import GraphSpec


@dataclass(frozen=True)
class WantedInput:
    """One modality's input.

    Args:
        modality: ``audio``, ``vision`` or ``text``.
        name: The graph's input, and the tensor of a feature file.
        mask: The input that says which of its positions are valid; empty for a single vector.
        width: Length of a feature vector.
        fixed: The sequence's length where the graph has a fixed one.
        most: The longest sequence that the engine takes; ``None`` is unbounded.
    """

    modality: str
    name: str
    mask: str
    width: int
    fixed: int | None = None
    most: int | None = None

    @property
    def is_sequence(self) -> bool:
        """Whether it has an axis of time."""
        return bool(self.mask)


def wanted_inputs(spec: GraphSpec, limits: Mapping[str, int], path: Path) -> tuple[WantedInput, ...]:
    """Return the inputs of a fusion graph in the order of its presence flags.

    Args:
        spec: The fusion graph.
        limits: The longest length of every axis that the engine takes.
        path: What the user named as engine, for messages.

    Raises:
        BundleError: The graph is no fusion graph.
    """
    text = text_input(spec, path)
    found = []
    for modality, name in ((AUDIO, AUDIO), (VISION, VISION), (TEXT, text)):
        item, mask = spec.input(name), spec.mask_of(name)
        width = item.shape[-1]
        if not isinstance(width, int):
            raise BundleError(
                f"cannot score features with {path}",
                f"the width of its input {name} is not fixed: {list(item.shape)}",
                "Export it again: taemi-export onnx CKPT --force",
            )
        axis = item.shape[1] if mask is not None else 1
        fixed = axis if isinstance(axis, int) else None
        bounds = [fixed]
        if isinstance(axis, str):
            bounds = [spec.symbol(axis).maximum, limits.get(axis)]
        known = [bound for bound in bounds if bound is not None]
        most = min(known) if known else None
        found.append(WantedInput(modality, name, mask.name if mask is not None else "", width, fixed, most))
    return tuple(found)
