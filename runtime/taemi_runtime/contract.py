"""What clips are scored with: the graphs, inputs and preprocessing that a TAEMI manifest must have."""

from __future__ import annotations

from pathlib import Path

from taemi_runtime.errors import BundleError, SpecError
from taemi_runtime.manifest import Manifest
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.spec import GraphSpec
from taemi_runtime.strict import from_plain

FAMILY = "taemi"
FUSION = "fusion"
# The order of the fusion graph's presence flags, and the names of the encoder graphs.
MODALITIES = ("audio", "vision", "text")
PRESENT = "present"
SCORES = "intensities"

_AGAIN = "Export it again: taemi-export onnx CKPT --force"


def read_preprocessing(manifest: Manifest, path: Path) -> Preprocessing:
    """Read the preprocessing of a model that scores clips.

    Args:
        manifest: The model's manifest.
        path: What the user named, for messages.

    Raises:
        BundleError: The model is of another family, lacks an encoder, or needs something that this
            version does not do.
    """
    asked = f"cannot score clips with {path}"
    if manifest.family != FAMILY:
        raise BundleError(
            asked,
            f"its model family is {manifest.family!r}, clips are scored by {FAMILY!r}",
            "Give a bundle or checkpoint of a TAEMI model",
        )
    lacking = [name for name in (FUSION, *MODALITIES) if name not in manifest.graphs]
    if lacking:
        raise BundleError(
            asked,
            f"it has no graph {', '.join(lacking)}",
            "Clips need the encoders, too: taemi-export onnx CKPT --force, without --fusion-only",
        )
    try:
        found = from_plain(manifest.preprocessing, Preprocessing)
    except (ValueError, SpecError) as error:
        raise BundleError(asked, f"its preprocessing cannot be read: {error}", _AGAIN) from error
    return found


def text_input(fusion: GraphSpec, path: Path) -> str:
    """Check the fusion graph's signature and return how text enters it.

    Args:
        fusion: The fusion graph.
        path: What the user named, for messages.

    Returns:
        ``text``, one vector that queries the other modalities, or ``text_tokens``, a sequence that is
        itself attended to.

    Raises:
        BundleError: The graph has other inputs or no scores.
    """
    names = {item.name for item in fusion.inputs}
    text = "text" if "text" in names else "text_tokens"
    expected = {"audio", "audio_mask", "vision", "vision_mask", text, PRESENT}
    if text == "text_tokens":
        expected.add("text_mask")
    flags = fusion.presence
    governed = flags.governs if flags is not None else ()
    outputs = [item.name for item in fusion.outputs]
    if names != expected or governed != (("audio",), ("vision",), (text,)) or SCORES not in outputs:
        raise BundleError(
            f"cannot score clips with {path}",
            f"its fusion graph takes {sorted(names)} and gives {outputs}, "
            f"expected {sorted(expected)} and {SCORES}, with one presence flag a modality",
            _AGAIN,
        )
    return text
