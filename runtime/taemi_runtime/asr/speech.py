"""What counts as speech: gates before and after the recogniser, with their limits as data."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.recogniser import RATE_HZ, Segment
from taemi_runtime.preprocessing import SpeechGate

# Levels are taken over blocks as short as a phone.
_BLOCK_S = 0.032
# The loudest tenth of a second counts, not one click.
_LOUD_S = 0.1
_QUIET_SHARE = 10  # per cent of the blocks that are the quiet parts
_FLOOR_DBFS = -120.0


def reason_for_silence(samples: npt.NDArray[np.float32], gate: SpeechGate) -> str:
    """Say why sound cannot hold speech, before any model is asked.

    Args:
        samples: [samples], float32, mono, 16 kHz, full scale 1.
        gate: The limits.

    Returns:
        The reason; empty where it may hold speech.
    """
    levels = _levels_dbfs(samples)
    loud_blocks = max(1, round(_LOUD_S / _BLOCK_S))
    if levels.size < loud_blocks:
        return "the sound is shorter than a word"
    loud = float(np.sort(levels)[-loud_blocks])
    if loud < gate.silence_dbfs:
        return f"the sound is silent ({loud:.0f} dBFS)"
    quiet = float(np.percentile(levels, _QUIET_SHARE))
    if loud - quiet < gate.modulation_db:
        return f"the sound is a steady noise (it varies by {loud - quiet:.1f} dB)"
    return ""


def keep_speech(segments: Sequence[Segment], gate: SpeechGate) -> tuple[str, str]:
    """Join what is speech of the recognised segments of a window.

    Args:
        segments: What the recogniser gave.
        gate: The limits.

    Returns:
        The text, and why there is none; one of them is empty.
    """
    kept = []
    why = "the recogniser heard no words"
    for segment in segments:
        text = " ".join(segment.text.split())
        if not any(character.isalnum() for character in text):
            continue
        reason = _doubt(text, segment, gate)
        if reason:
            why = reason
        else:
            kept.append(text)
    joined = " ".join(kept)
    # A loop may be spread over segments, none of which repeats itself.
    if joined and compression_ratio(joined) > gate.compression_ratio_threshold:
        return "", _REPEATS.format(compression_ratio(joined))
    return joined, "" if joined else why


def compression_ratio(text: str) -> float:
    """Return by how much zlib shrinks a text, as ``whisper.utils.compression_ratio`` does."""
    content = text.encode("utf-8", "replace")
    return len(content) / len(zlib.compress(content))


_REPEATS = "the recognised words repeat themselves (compression ratio {:.1f})"


def _doubt(text: str, segment: Segment, gate: SpeechGate) -> str:
    # Written so that a NaN is doubted, too.
    if not segment.no_speech <= gate.no_speech_threshold:
        return f"what was recognised is probably no speech (no-speech probability {segment.no_speech:.2f})"
    if not segment.logprob >= gate.logprob_threshold:
        return f"the recogniser is unsure (mean log-probability {segment.logprob:.2f})"
    if segment.no_speech > gate.unsure_no_speech and segment.logprob < gate.unsure_logprob:
        return (
            f"what was recognised is doubtful (no-speech probability {segment.no_speech:.2f}, "
            f"mean log-probability {segment.logprob:.2f})"
        )
    if compression_ratio(text) > gate.compression_ratio_threshold:
        return _REPEATS.format(compression_ratio(text))
    return ""


def _levels_dbfs(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the level of each whole block in dB relative to full scale, without its constant part."""
    size = round(_BLOCK_S * RATE_HZ)
    blocks = samples[: samples.size // size * size].reshape(-1, size).astype(np.float64)
    power = blocks.var(axis=1)
    return np.asarray(np.maximum(10 * np.log10(np.maximum(power, 1e-30)), _FLOOR_DBFS), dtype=np.float64)
