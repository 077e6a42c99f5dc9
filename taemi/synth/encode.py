"""Writing a clip as H.264 and AAC in mp4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer

from taemi_runtime.atomic import atomic_file

# One thread makes x264's output independent of the machine's cores. Its macroblock tree is off because
# with it and B-frames the same frames gave other bytes from run to run (22 of 30 clips; none without).
_VIDEO_OPTIONS = {"preset": "veryfast", "crf": "24", "threads": "1", "mbtree": "0"}
# The fast coder takes a third of the time of the default one.
_AUDIO_OPTIONS = {"aac_coder": "fast"}
_AUDIO_BITS_PER_S = 48_000


def write_mp4(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    fps: int,
    waveform: npt.NDArray[np.float32] | None,
    rate_hz: int,
) -> None:
    """Encode a clip; the file appears whole or not at all.

    Args:
        path: The file to write.
        frames: [height, width, 3], uint8 RGB each, even sizes; at least one.
        fps: Frames a second.
        waveform: [samples], float32 in [-1, 1], mono; ``None`` for a clip without an audio track.
        rate_hz: Sampling rate of ``waveform``, one that AAC has.
    """
    with atomic_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        video = container.add_stream("h264", rate=fps, options=dict(_VIDEO_OPTIONS))
        audio = None
        if waveform is not None:
            audio = container.add_stream("aac", rate=rate_hz, layout="mono", options=dict(_AUDIO_OPTIONS))
            audio.bit_rate = _AUDIO_BITS_PER_S
        for index, pixels in enumerate(frames):
            if index == 0:
                video.height, video.width = pixels.shape[:2]
                video.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            _write_sound(container, audio, waveform, rate_hz)


def _write_sound(
    container: OutputContainer, audio: AudioStream, waveform: npt.NDArray[np.float32], rate_hz: int
) -> None:
    size = 1024  # samples of an AAC frame
    for start in range(0, waveform.size, size):
        block = np.ascontiguousarray(waveform[None, start : start + size])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        frame.pts = start
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))
