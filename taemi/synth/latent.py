"""What happens in a synthetic clip: one latent vector, what raters say of it, what each modality shows.

The constants come from published facts of the true corpus (docs/data.md): the share of clips in which
any rater marked an emotion, labels that are fractions k / N of raters, and the strongest correlations
between labels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi_runtime.emotions import EMOTIONS

Vector = npt.NDArray[np.float64]

# Share of training clips whose label is not zero, in the order of EMOTIONS.
NONZERO_SHARES = (0.447, 0.364, 0.325, 0.101, 0.382, 0.325)
# Correlations of the latents. Thresholds and raters weaken them in the labels, where the true corpus
# has Excitement-Joy +0.23 and Determination-Joy -0.14.
_LATENT_CORRELATIONS = {("Excitement", "Joy"): 0.4, ("Determination", "Joy"): -0.25}
# How many people rate a clip, and how often.
_RATERS = (2, 3, 4, 5)
_RATER_SHARES = (0.15, 0.4, 0.25, 0.2)
# Standard deviation of a rater's own opinion, and of each modality's deviation from the latent (whose
# own is 1): the words tell most, the face least.
_RATER_NOISE = 0.6
_TEXT_NOISE = 0.25
_VOICE_NOISE = 0.7
_FACE_NOISE = 1.2
# Words express an emotion in three grades, from these distances above the raters' threshold upwards.
_GRADES = (-0.2, 0.4, 1.0)
# Which clips lack something: index modulo the period gives the residue. Fixed places instead of chance,
# so that even a small corpus has some of each.
_LACK_PERIOD = 32
_EMPTY_TRANSCRIPT, _NO_TRANSCRIPT, _NO_AUDIO = 7, 19, 27


@dataclass(frozen=True)
class Scene:
    """Everything that is decided about a clip before anything is drawn.

    Args:
        labels: [6] intensities k / N in the order of ``EMOTIONS``.
        grades: [6] how strongly the words express each emotion, 0 (not at all) to 3.
        voice: [6] what the voice shows of the latent, mean 0, standard deviation about 1.2.
        face: [6] what the face shows of it, mean 0, standard deviation about 1.6.
        seconds: Length of the clip.
        fps: Frame rate.
        has_audio: Whether the clip has an audio track.
        transcript: ``"given"``, ``"empty"`` (a file with nothing in it) or ``"missing"`` (no file).
    """

    labels: tuple[float, ...]
    grades: tuple[int, ...]
    voice: Vector
    face: Vector
    seconds: float
    fps: int
    has_audio: bool
    transcript: str


def draw_scene(seed: int, index: int) -> Scene:
    """Decide what happens in clip ``index`` of the corpus with this seed.

    The same pair always gives the same scene, whatever other clips are drawn and wherever.
    """
    rng = generator(seed, index, "scene")
    latent = _latent_mixing() @ rng.standard_normal(len(EMOTIONS))
    raters = int(rng.choice(_RATERS, p=_RATER_SHARES))
    opinions = latent + _RATER_NOISE * rng.standard_normal((raters, len(EMOTIONS)))
    votes = (opinions > thresholds()).sum(axis=0)
    words = latent + _TEXT_NOISE * rng.standard_normal(len(EMOTIONS))
    grades = sum((words > thresholds() + step).astype(int) for step in _GRADES)
    residue = index % _LACK_PERIOD
    transcript = {_EMPTY_TRANSCRIPT: "empty", _NO_TRANSCRIPT: "missing"}.get(residue, "given")
    return Scene(
        labels=tuple((votes / raters).tolist()),
        grades=tuple(np.asarray(grades).tolist()),
        voice=latent + _VOICE_NOISE * rng.standard_normal(len(EMOTIONS)),
        face=latent + _FACE_NOISE * rng.standard_normal(len(EMOTIONS)),
        seconds=round(float(rng.uniform(2.0, 4.0)), 2),
        fps=int(rng.choice((10, 12))),
        has_audio=residue != _NO_AUDIO,
        transcript=transcript,
    )


def generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one clip for one purpose, independent of every other."""
    return np.random.default_rng([seed, index, *purpose.encode()])


@functools.cache
def _latent_mixing() -> Vector:
    """Return [6, 6] with which independent normal numbers become correlated ones."""
    covariance = np.eye(len(EMOTIONS))
    for (one, other), value in _LATENT_CORRELATIONS.items():
        row, column = EMOTIONS.index(one), EMOTIONS.index(other)
        covariance[row, column] = covariance[column, row] = value
    return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)


@functools.cache
def thresholds() -> Vector:
    """Return [6] how strong a latent must be for a rater to mark the emotion.

    Solved by bisection so that the share of clips marked by any of their raters is the published one.
    """
    found = []
    for share in NONZERO_SHARES:
        low, high = -4.0, 4.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _marked_share(middle) > share else (low, middle)
        found.append((low + high) / 2)
    return np.array(found)


def _marked_share(threshold: float) -> float:
    """Return the share of clips that some rater marks: 1 - E[P(one rater does not) ^ N].

    The expectation over the standard normal latent is a Gauss-Hermite quadrature.
    """
    nodes, weights = _quadrature()
    unmarked = np.array([_normal_cdf((threshold - node) / _RATER_NOISE) for node in nodes])
    nobody = sum(share * unmarked**count for count, share in zip(_RATERS, _RATER_SHARES, strict=True))
    return 1.0 - float(np.sum(weights * nobody))


@functools.cache
def _quadrature() -> tuple[Vector, Vector]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return nodes, weights / weights.sum()


def _normal_cdf(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
