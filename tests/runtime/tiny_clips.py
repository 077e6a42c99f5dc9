"""Real clips, encoded on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np


def make_clip(path: Path, *, audio: bool = True, video: bool = True, seconds: float = 0.6) -> Path:
    """Write a clip: a tone, and frames whose colour changes."""
    rng = np.random.default_rng(sum(path.name.encode()))
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        if video:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            pictures = [
                np.full((48, 64, 3), rng.integers(0, 256, 3), dtype=np.uint8)
                for _ in range(round(seconds * 10))
            ]
            streams.append((stream, [av.VideoFrame.from_ndarray(picture, "rgb24") for picture in pictures]))
        if audio:
            sound = container.add_stream("aac", rate=16_000)
            sound.layout = "mono"
            time_s = np.arange(round(seconds * 16_000)) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 400) * time_s) + 0.05
            chunks = []
            for start in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 1024].astype(np.float32), format="fltp", layout="mono"
                )
                frame.sample_rate, frame.pts = 16_000, start
                chunks.append(frame)
            streams.append((sound, chunks))
        for stream, frames in streams:
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))
    return path
