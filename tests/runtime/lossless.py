"""Lossless clips of any length, and cuts of them: what is written is what is read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_HZ, FPS, SIDE = 16_000, 10, 16


def sound(seconds: float, *, seed: int = 3, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Make [samples] int16: notes that change every quarter of a second, with noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    notes = rng.uniform(80, 900, int(seconds * 4) + 1)[(time_s * 4).astype(int)]
    loud = rng.uniform(0.02, 0.4, int(seconds) + 1)[time_s.astype(int)]
    wave = loud * np.sin(2 * np.pi * notes * time_s) + 0.01 * rng.standard_normal(time_s.size)
    return np.clip(wave * 32_768, -32_768, 32_767).astype(np.int16)


def pictures(seconds: float, *, seed: int = 5, fps: int = FPS, side: int = SIDE) -> np.ndarray:
    """Make [frames, side, side, 3] uint8: a colour that drifts, and noise."""
    rng = np.random.default_rng(seed)
    count = round(seconds * fps)
    colours = np.clip(128 + np.cumsum(rng.normal(0, 9, (count, 3)), axis=0), 20, 235)
    noise = rng.integers(-20, 20, (count, side, side, 3))
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)


def write(
    path: Path,
    samples: np.ndarray | None,
    frames: np.ndarray | None,
    *,
    rate_hz: int = RATE_HZ,
    fps: int = FPS,
    jumps: tuple[tuple[float, float], ...] = (),
) -> Path:
    """Write a clip, sound and pictures side by side; what follows a time is later by each jump's seconds."""

    def later(time_s: float) -> float:
        return sum(by_s for at_s, by_s in jumps if time_s >= at_s - 1e-9)

    with av.open(str(path), "w") as container:
        parts = []
        if frames is not None:
            video = container.add_stream("ffv1", rate=fps)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "bgr0"
            video.codec_context.time_base = Fraction(1, 1000)
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
                frame = frame.reformat(format="bgr0")
                frame.pts, frame.time_base = (
                    round((index / fps + later(index / fps)) * 1000),
                    Fraction(1, 1000),
                )
                parts.append((index / fps, video, frame))
        if samples is not None:
            audio = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
            block = rate_hz // 50
            for start in range(0, samples.size, block):
                sound_frame = av.AudioFrame.from_ndarray(samples[None, start : start + block], "s16", "mono")
                sound_frame.sample_rate, sound_frame.time_base = rate_hz, Fraction(1, rate_hz)
                sound_frame.pts = start + round(later(start / rate_hz) * rate_hz)
                parts.append((start / rate_hz, audio, sound_frame))
        for _, stream, frame in sorted(parts, key=lambda part: part[0]):
            container.mux(stream.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))
    return path


def cut(array: np.ndarray, start_s: float, end_s: float, rate: int) -> np.ndarray:
    """Cut a stretch of time out of samples or frames."""
    return array[round(start_s * rate) : round(end_s * rate)]
