"""What is done to clips to see how much of it a model bears: noise, covered frames, words left out.

Everything random depends on a seed and the clip's name alone. Levels are nested: the frames that are covered
at one share are among those at the next, and so are the words; noise is one draw a clip at several levels.
So a curve shows the level and not the draw.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

COVERED_SIDE = 0.7
"""Side of the block that covers a frame, of the frame's: it hides 49 % of the picture."""
COVER_VALUE = 128
"""The block's grey level: the middle of the range, which the usual normalisation turns into 0."""


def add_noise(
    waveform: npt.NDArray[np.float32], snr_db: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Add white Gaussian noise.

    SNR = 10 log10(P_signal / P_noise), P the mean square over the waveform's samples; the noise is scaled so
    that this holds exactly and not on average. Nothing is clipped: the encoder normalises the sum.

    Args:
        waveform: [samples] float32, valid samples only.
        snr_db: Signal-to-noise ratio in dB.
        rng: Where the noise comes from; one in the same state gives the same noise at every level.

    Returns:
        [samples] float32; ``waveform`` itself where it is silent, which has no SNR.
    """
    signal = waveform.astype(np.float64)
    power = float(np.mean(signal**2)) if signal.size else 0.0
    if not power > 0:
        return waveform
    noise = rng.standard_normal(signal.size)
    noise *= math.sqrt(power / (10 ** (snr_db / 10) * float(np.mean(noise**2))))
    return (signal + noise).astype(np.float32)


def cover_frames(
    frames: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Cover a part of every frame with a grey block at a random place within it.

    Args:
        frames: [frames, 3, height, width] uint8, as the encoder is given them.
        rng: Where places and order come from.

    Returns:
        The covered frames, and the order in which frames are covered: of a share s of n frames the first
        ``count_of(s, n)``.
    """
    covered = frames.copy()
    height, width = frames.shape[2:]
    tall, wide = (round(COVERED_SIDE * side) for side in (height, width))
    for frame in covered:
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        frame[:, top : top + tall, left : left + wide] = COVER_VALUE
    return covered, rng.permutation(len(frames))


def drop_words(transcript: str, share: float, rng: np.random.Generator) -> str:
    """Leave words out at random; those that stay keep their order.

    Args:
        transcript: Words between blanks.
        share: How many are left out, in [0, 1].
        rng: Where the choice comes from; one in the same state leaves the same words out, and more, at a
            larger share.

    Returns:
        The rest; empty where nothing is left, which counts as no words.
    """
    words = transcript.split()
    dropped = set(rng.permutation(len(words))[: count_of(share, len(words))].tolist())
    return " ".join(word for place, word in enumerate(words) if place not in dropped)


def count_of(share: float, count: int) -> int:
    """Return how many of ``count`` things a share of them is, halves rounded up."""
    return math.floor(share * count + 0.5)


def generator(seed: int, name: str, purpose: str) -> np.random.Generator:
    """Return what is random about one thing that is done to a clip.

    Args:
        seed: The evaluation's.
        name: The clip's name.
        purpose: What is done, so that two things are not random in the same way.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(purpose.encode())])
