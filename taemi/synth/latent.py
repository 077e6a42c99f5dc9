"""What happens in a synthetic clip: one latent vector, what raters say of it, what each modality shows.

The constants come from published facts of the true corpus (docs/data.md): the share of clips in which
any rater marked an emotion, labels that are fractions k / N of raters, and the strongest correlations
between labels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

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
# Standard deviation of a rater's own opinion, in the order of EMOTIONS. Raters agree most about pain: it is
# the rarest emotion, and a clip that shows it had better show it clearly, or a corpus of a few hundred clips
# teaches nobody what it sounds like.
_RATER_NOISE = (0.6, 0.6, 0.6, 0.2, 0.6, 0.6)
# Standard deviation of each modality's deviation from the latent (whose own is 1): the words tell most, the
# face least. What a model makes of them differs by more: words meet a pretrained encoder, the face meets one
# with random weights.
_TEXT_NOISE = 0.15
_VOICE_NOISE = 0.8
_FACE_NOISE = 0.6
# Words begin to express an emotion where some of the raters begin to mark it: a standard deviation of their
# opinions below their threshold. Of the clips that express it, a third each does so faintly, clearly and
# strongly.
_EXPRESSED_FROM = -1.0
# Which clips are special: index modulo the period gives the residue. Fixed places instead of chance, so
# that even a small corpus has some of each.
_PERIOD = 32
_EMPTY_TRANSCRIPT, _NO_FACE, _NO_TRANSCRIPT, _NO_AUDIO = 7, 13, 19, 27
_SNIPPET_PERIOD, _SNIPPET = 64, 23
# Durations in seconds. A log-normal distribution has two parameters, and two published figures of the
# true corpus fix them: the mean exp(m + s^2 / 2) is 6.92, the 95th percentile exp(m + 1.6449 s) is 11.48.
_MEAN_S, _PERCENTILE_95_S = 6.92, 11.48
_Z_95 = 1.6449
# Its shortest clip has 0.064 s, which that distribution never gives: snippets are spread evenly, on a
# logarithmic scale, from there to here. Its longest has 1,249.9 s, of which a model sees 12: cut here.
_SHORTEST_S, _SNIPPET_S, LONGEST_S = 0.064, 0.8, 20.0
# Shares of clips in which something covers the face, and in which noise covers the voice, for a while.
_OCCLUDED_SHARE, _NOISY_SHARE = 0.25, 0.25


@dataclass(frozen=True)
class Scene:
    """Everything that is decided about a clip before anything is drawn.

    Args:
        labels: [6] intensities k / N in the order of ``EMOTIONS``.
        grades: [6] how strongly the words express each emotion, 0 (not at all) to 3.
        voice: [6] what the voice shows of the latent, mean 0, standard deviation about 1.3.
        face: [6] what the face shows of it, mean 0, standard deviation about 1.2.
        seconds: Length of the clip, 0.064 to 20.
        fps: Frame rate.
        has_audio: Whether the clip has an audio track.
        has_face: Whether anyone is seen.
        occluded: Whether something covers the face for a while.
        noisy: Whether bursts of noise cover the voice for a while.
        transcript: ``"given"``, ``"empty"`` (a file with nothing in it) or ``"missing"`` (no file).
    """

    labels: tuple[float, ...]
    grades: tuple[int, ...]
    voice: Vector
    face: Vector
    seconds: float
    fps: int
    has_audio: bool
    has_face: bool
    occluded: bool
    noisy: bool
    transcript: str


def draw_scene(seed: int, index: int) -> Scene:
    """Decide what happens in clip ``index`` of the corpus with this seed.

    The same pair always gives the same scene, whatever other clips are drawn and wherever.
    """
    rng = generator(seed, index, "scene")
    latent = _latent_mixing() @ rng.standard_normal(len(EMOTIONS))
    raters = int(rng.choice(_RATERS, p=_RATER_SHARES))
    opinions = latent + np.array(_RATER_NOISE) * rng.standard_normal((raters, len(EMOTIONS)))
    votes = (opinions > thresholds()).sum(axis=0)
    words = latent + _TEXT_NOISE * rng.standard_normal(len(EMOTIONS))
    grades = (words > _grade_edges()).sum(axis=0)
    residue = index % _PERIOD
    transcript = {_EMPTY_TRANSCRIPT: "empty", _NO_TRANSCRIPT: "missing"}.get(residue, "given")
    seconds = _draw_seconds(rng)
    if index % _SNIPPET_PERIOD == _SNIPPET:
        # Nothing can be said in so short a time.
        seconds, transcript = _draw_snippet(rng), "empty"
    return Scene(
        labels=tuple((votes / raters).tolist()),
        grades=tuple(grades.tolist()),
        voice=latent + _VOICE_NOISE * rng.standard_normal(len(EMOTIONS)),
        face=latent + _FACE_NOISE * rng.standard_normal(len(EMOTIONS)),
        seconds=seconds,
        fps=int(rng.choice((6, 8))),
        has_audio=residue != _NO_AUDIO,
        has_face=residue != _NO_FACE,
        occluded=bool(rng.random() < _OCCLUDED_SHARE),
        noisy=bool(rng.random() < _NOISY_SHARE),
        transcript=transcript,
    )


def _draw_seconds(rng: np.random.Generator) -> float:
    """Draw how long an ordinary clip is, at most ``LONGEST_S`` seconds.

    From the two published figures: ln(p95 / mean) = z s - s^2 / 2, solved for the smaller s.
    """
    spread = _Z_95 - math.sqrt(_Z_95**2 - 2 * math.log(_PERCENTILE_95_S / _MEAN_S))
    middle = math.log(_PERCENTILE_95_S) - _Z_95 * spread
    return round(min(float(rng.lognormal(middle, spread)), LONGEST_S), 3)


def _draw_snippet(rng: np.random.Generator) -> float:
    return round(float(np.exp(rng.uniform(math.log(_SHORTEST_S), math.log(_SNIPPET_S)))), 3)


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
    for share, noise in zip(NONZERO_SHARES, _RATER_NOISE, strict=True):
        low, high = -4.0, 4.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _marked_share(middle, noise) > share else (low, middle)
        found.append((low + high) / 2)
    return np.array(found)


@functools.cache
def _grade_edges() -> Vector:
    """Return [3, 6] from where on words express an emotion faintly, clearly and strongly."""
    spread = NormalDist(0.0, math.hypot(1.0, _TEXT_NOISE))
    expressed = [
        1.0 - spread.cdf(threshold + _EXPRESSED_FROM * noise)
        for threshold, noise in zip(thresholds(), _RATER_NOISE, strict=True)
    ]
    return np.array([[spread.inv_cdf(1.0 - share * part / 3) for share in expressed] for part in (3, 2, 1)])


def _marked_share(threshold: float, noise: float) -> float:
    """Return the share of clips that some rater marks: 1 - E[P(one rater does not) ^ N].

    The expectation over the standard normal latent is a Gauss-Hermite quadrature.
    """
    nodes, weights = _quadrature()
    unmarked = np.array([NormalDist(node, noise).cdf(threshold) for node in nodes])
    nobody = sum(share * unmarked**count for count, share in zip(_RATERS, _RATER_SHARES, strict=True))
    return 1.0 - float(np.sum(weights * nobody))


@functools.cache
def _quadrature() -> tuple[Vector, Vector]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return nodes, weights / weights.sum()
