"""From a mono waveform to the audio encoder's inputs, as the wav2vec2 feature extractor does it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from taemi_runtime.errors import InputError
from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.spec import Array

# Added to the variance under the root, so that silence stays silence (transformers,
# Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm).
_EPSILON = 1e-7


def normalise(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Give a waveform zero mean and unit variance: (x - mean) / sqrt(variance + 1e-7).

    Args:
        waveform: [samples], float32, valid samples only.

    Returns:
        [samples], float32; equal to the last bit to ``Wav2Vec2FeatureExtractor`` with
        ``do_normalize`` and ``return_attention_mask`` over the same samples.
    """
    scale = np.sqrt(waveform.var() + _EPSILON)
    return np.asarray((waveform - waveform.mean()) / scale, dtype=np.float32)


def prepare_waveform(
    waveform: npt.NDArray[np.float32], preprocessing: AudioPreprocessing
) -> dict[str, Array]:
    """Build the audio graph's inputs for one clip.

    The waveform is cut to the longest that the preprocessing allows, normalised over what is left,
    and only then filled up with zeros: to the fixed length where the encoder was trained with one, else
    just far enough to make one frame. With ``statistics`` set to ``padded`` filling up comes first.

    Args:
        waveform: [samples], float32, mono at ``preprocessing.rate_hz``, not normalised, at least 1 sample.
        preprocessing: What the model was trained with.

    Returns:
        ``waveform`` float32 [1, padded_samples] and ``frame_mask`` bool [1, frames], true for the frames
        that rest on valid samples (at least the first).

    Raises:
        InputError: The waveform is no such array, is empty, or holds a number that is not finite.
    """
    if waveform.dtype != np.float32 or waveform.ndim != 1 or not waveform.size:
        raise InputError(
            "cannot prepare a waveform",
            f"got {waveform.dtype} {list(waveform.shape)}, expected float32 [samples] with at least 1 sample",
            "Give one mono channel; for a clip without sound leave audio out instead",
        )
    longest = preprocessing.max_samples
    if preprocessing.padded_samples is not None:
        longest = min(longest, preprocessing.padded_samples)
    valid = waveform[:longest]
    bad = int(np.count_nonzero(~np.isfinite(valid)))
    if bad:
        raise InputError(
            "cannot prepare a waveform",
            f"{bad} of its {valid.size} samples are NaN or infinite",
            "Give finite samples",
        )
    samples = preprocessing.padded_samples or max(valid.size, preprocessing.min_samples)
    padded = np.zeros((1, samples), dtype=np.float32)
    if preprocessing.normalise and preprocessing.statistics == "padded":
        window = np.zeros(preprocessing.padded_samples or preprocessing.max_samples, dtype=np.float32)
        window[: valid.size] = valid
        padded[0] = normalise(window)[:samples]
    else:
        padded[0, : valid.size] = normalise(valid) if preprocessing.normalise else valid
    frame_mask = np.zeros((1, preprocessing.frames(samples)), dtype=np.bool_)
    frame_mask[0, : preprocessing.frames(valid.size)] = True
    return {"waveform": padded, "frame_mask": frame_mask}
