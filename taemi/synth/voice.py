"""The sound of synthetic clips: voice-like tones whose manner follows the latent vector.

Harmonics of a gliding pitch are shaped by three vowel resonances, cut into syllables, and mixed with
breath. It has a voice's rhythm, pitch and timbre and none of its words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi.synth.latent import Vector

RATE_HZ = 24_000
_CONTROL_HZ = 200
_HARMONICS = 32
# First three resonances of five vowels of an adult voice in Hz, rounded from Peterson and Barney,
# "Control methods used in a study of the vowels", 1952: a, e, i, o, u.
_VOWELS_HZ = np.array(
    [(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)], dtype=float
)
_BANDWIDTHS_HZ = np.array([90.0, 120.0, 180.0])
_RESONANCE_GAINS = np.array([1.0, 0.6, 0.35])


@dataclass(frozen=True)
class Voice:
    """The sound of a clip.

    Args:
        waveform: [samples], float32 at 24 kHz, peak below 1.
        loudness: [control points], float64 in [0, 1], 200 a second: what the mouth moves with.
    """

    waveform: npt.NDArray[np.float32]
    loudness: Vector

    def loudness_at(self, time_s: float) -> float:
        """Return how loud the voice is at a time."""
        return float(self.loudness[min(round(time_s * _CONTROL_HZ), self.loudness.size - 1)])


def speak(shown: Vector, seconds: float, rng: np.random.Generator, *, noisy: bool = False) -> Voice:
    """Make a clip's sound.

    Args:
        shown: [6] what the voice shows of the latent, in the order of the emotions. Admiration moves
            the resonances, Amusement shakes the voice as laughter does, Determination quickens it and
            makes it growl an octave below, Empathic Pain makes it slow, halting and breathy, Excitement
            raises its pitch, Joy brightens it. Determination and Excitement make it louder.
        seconds: Length of the clip.
        rng: The clip's random numbers; they choose the speaker, too.
        noisy: Whether bursts of noise cover the voice for a while.
    """
    admiration, amusement, determination, pain, excitement, joy = np.tanh(shown / 1.5)
    points = round(seconds * _CONTROL_HZ)
    times_s = np.arange(points) / _CONTROL_HZ
    speaker_hz = 150.0 * 2 ** rng.normal(0.0, 0.2)
    tract = 1.0 + rng.normal(0.0, 0.03)

    edges_s = _syllable_edges(seconds, 4.0 * 2 ** (0.6 * determination - 0.3 * pain), rng)
    syllable = np.searchsorted(edges_s, times_s, side="right") - 1
    loudness = _loudness(times_s, edges_s, syllable, 0.12 + 0.1 * (1 + pain), rng)
    loudness *= 1.0 - 0.45 * (1 + amusement) * (0.5 + 0.5 * np.sin(2 * np.pi * 9.0 * times_s))

    glide = np.interp(times_s, np.linspace(0, seconds, 6), rng.normal(0.0, 0.12, 6))
    pitch_hz = speaker_hz * 2 ** (0.6 * excitement + glide)
    resonances_hz = _VOWELS_HZ[rng.integers(0, len(_VOWELS_HZ), len(edges_s))][syllable]
    resonances_hz = _smooth(resonances_hz * tract * (1.0 + 0.2 * admiration), 9)
    tilt = 1.3 - 0.8 * joy
    growl = 0.25 * (1 + determination)

    samples = round(seconds * RATE_HZ)
    breath = 0.02 * 10 ** (0.7 * (1 + pain)) * rng.standard_normal(samples)
    waveform = _harmonics(pitch_hz, resonances_hz, tilt, growl, samples)
    waveform /= np.sqrt(np.mean(waveform**2)) + 1e-9
    envelope = np.interp(np.arange(samples) / RATE_HZ, times_s, loudness)
    waveform = (waveform + breath) * envelope
    level = 0.4 * 2 ** (0.6 * excitement + 0.4 * determination + rng.normal(0.0, 0.2))
    waveform *= min(level, 0.9) / (np.abs(waveform).max() + 1e-9)
    # The microphone's own noise does not grow with the voice.
    waveform += 0.002 * rng.standard_normal(samples)
    if noisy:
        waveform += _noise_bursts(seconds, samples, 0.5 * min(level, 0.9), rng)
    return Voice(np.clip(waveform, -0.99, 0.99).astype(np.float32), np.clip(loudness, 0.0, 1.0))


def _noise_bursts(seconds: float, samples: int, level: float, rng: np.random.Generator) -> Vector:
    """Return one to three bursts, each of a colour of its own, that begin hard and die away."""
    times_s = np.arange(samples) / RATE_HZ
    noise = np.zeros(samples)
    for _ in range(rng.integers(1, 4)):
        start_s, length_s = rng.uniform(0.0, seconds), rng.uniform(0.2, 0.8)
        passed = np.clip((times_s - start_s) / length_s, 0.0, 1.0)
        envelope = np.where(times_s < start_s, 0.0, (1.0 - passed) ** 2)
        # A running mean over so many samples takes the treble away.
        width = int(rng.integers(1, 24))
        hiss = np.convolve(rng.standard_normal(samples + width), np.ones(width) / np.sqrt(width), "same")
        noise += level * rng.uniform(0.3, 1.0) * envelope * hiss[:samples]
    return noise


def _syllable_edges(seconds: float, rate_hz: float, rng: np.random.Generator) -> Vector:
    count = int(seconds * rate_hz * 2) + 2
    starts = np.cumsum(rng.gamma(8.0, 1.0 / (8.0 * rate_hz), count))
    return np.concatenate([[0.0], starts[starts < seconds]])


def _loudness(
    times_s: Vector,
    edges_s: Vector,
    syllable: npt.NDArray[np.int64],
    pauses: float,
    rng: np.random.Generator,
) -> Vector:
    """Return one hump per syllable; a share ``pauses`` of them is silent."""
    ends_s = np.append(edges_s[1:], times_s[-1] + 1 / _CONTROL_HZ)
    phase = (times_s - edges_s[syllable]) / np.maximum(ends_s - edges_s, 1e-3)[syllable]
    strength = rng.uniform(0.6, 1.0, len(edges_s)) * (rng.random(len(edges_s)) > pauses)
    strength[0] = 0.8
    hump: Vector = strength[syllable] * np.sin(np.pi * np.clip(phase, 0, 1)) ** 0.7
    return hump


def _smooth(tracks: Vector, width: int) -> Vector:
    """Average [points, tracks] over ``width`` points, so that resonances glide from vowel to vowel."""
    padded = np.pad(tracks, ((width // 2, width // 2), (0, 0)), mode="edge")
    sums = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
    return np.asarray((sums[width:] - sums[:-width]) / width)


def _harmonics(pitch_hz: Vector, resonances_hz: Vector, tilt: float, growl: float, samples: int) -> Vector:
    """Add up the harmonics of a pitch, each as loud as the resonances let it through.

    Harmonic n has amplitude n ** -tilt times a sum of Lorentzian resonances; above the band limit none.
    The octave below the pitch, n = 1/2, has ``growl`` times its own.
    """
    at = np.linspace(0, len(pitch_hz) - 1, samples)
    points = np.arange(len(pitch_hz))
    phase = (2 * np.pi / RATE_HZ * np.cumsum(np.interp(at, points, pitch_hz))).astype(np.float32)
    waveform = np.zeros(samples, dtype=np.float32)
    for number in (0.5, *range(1, _HARMONICS + 1)):
        distance = (number * pitch_hz[:, None] - resonances_hz) / _BANDWIDTHS_HZ
        gain = (_RESONANCE_GAINS / (1.0 + distance**2)).sum(axis=1) + 0.02
        gain *= number**-tilt * (number * pitch_hz < 0.45 * RATE_HZ) * (growl if number < 1 else 1.0)
        waveform += np.interp(at, points, gain).astype(np.float32) * np.sin(number * phase)
    return waveform.astype(np.float64)
