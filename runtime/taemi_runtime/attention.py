"""Attention over time: what a fusion network looked at, where its graph gives that, too.

Source: the outputs ``audio_attention`` [batch, heads, audio_len] and their like; the weights of a head sum to
1 over the valid positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from taemi_runtime.errors import BundleError
from taemi_runtime.spec import Array, GraphSpec

Weights = dict[str, list[list[float]]]
"""For each modality that is present the weights of every head, one for each valid position."""

_SUFFIX = "_attention"
# Of up to 599 weights the smallest ones matter to nobody, and a line of JSON holds thousands.
_DIGITS = 5


def attention_outputs(spec: GraphSpec) -> dict[str, str]:
    """Return the attention outputs of a fusion graph by modality."""
    names = [item.name for item in spec.outputs if item.name.endswith(_SUFFIX)]
    return {name.removesuffix(_SUFFIX): name for name in names}


def require_attention(spec: GraphSpec, path: Path) -> None:
    """Refuse a fusion graph that gives no attention.

    Args:
        spec: The graph.
        path: What the user named as engine.

    Raises:
        BundleError: It has no such output; the command that adds them is named.
    """
    if not attention_outputs(spec):
        raise BundleError(
            f"cannot give the attention of {path}",
            f"its fusion graph has only the outputs {', '.join(item.name for item in spec.outputs)}",
            "Export it with them: taemi-export onnx CKPT --attention --force",
        )


def cut_attention(spec: GraphSpec, outputs: Mapping[str, Array], lengths: Mapping[str, int]) -> Weights:
    """Return the weights of one clip, rounded.

    Args:
        spec: The fusion graph.
        outputs: The clip's outputs by name, without the batch axis; attention is [heads, length].
        lengths: Valid positions of each modality that is present.
    """
    return {
        modality: [
            [round(float(weight), _DIGITS) for weight in head[: lengths[modality]]] for head in outputs[name]
        ]
        for modality, name in attention_outputs(spec).items()
        if lengths.get(modality)
    }
