"""Where the anchor looks: attention weights of one clip over its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from taemi.checkpoint import load_system
from taemi_runtime.pipeline import ClipFeatures
from taemi_runtime.results import AudioUse, VisionUse


@dataclass(frozen=True)
class AttentionTrace:
    """Attention of one modality over the clip.

    Args:
        seconds: [length] float64, the middle of each frame from the clip's start, in seconds.
        weights: [length] float32, mean over the heads; they sum to 1.
    """

    seconds: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float32]


def trace_attention(checkpoint: Path, features: ClipFeatures) -> dict[str, AttentionTrace]:
    """Return the attention weights that a checkpoint gives a clip's frames.

    Args:
        checkpoint: The checkpoint that the features' engines were exported from.
        features: The clip, encoded.

    Returns:
        A trace for each sequence that is attended to and present, by modality. Frames are taken as
        evenly spread over the seconds that were used.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    system, _ = load_system(checkpoint)
    inputs = {name: torch.from_numpy(array) for name, array in features.inputs.items()}
    text = inputs["text_tokens" if system.config.text_is_sequence else "text"]
    with torch.inference_mode():
        scores = system.fusion(
            inputs["audio"],
            inputs["audio_mask"],
            inputs["vision"],
            inputs["vision_mask"],
            text,
            inputs["present"],
            inputs.get("text_mask"),
        )
    used: dict[str, AudioUse | VisionUse] = {"audio": features.audio, "vision": features.vision}
    traces = {}
    for name, weights in scores.attention.items():
        use = used.get(name)
        if use is None or not use.present:
            continue
        mean = weights[0].mean(0)[inputs[f"{name}_mask"][0]].numpy()
        used_s = use.seconds_used or 0.0
        seconds = (np.arange(len(mean), dtype=np.float64) + 0.5) * (used_s / len(mean))
        traces[name] = AttentionTrace(seconds, mean)
    return traces
