"""Clips of many kinds, encoded on the spot, and what can be read off them."""

from __future__ import annotations

import os
import sys
import tempfile
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from taemi_runtime.media import Clip
from taemi_runtime.preprocessing import Preprocessing, VisionPreprocessing

PREPROCESSING = Preprocessing(vision=VisionPreprocessing(height=32, width=32))


TONE_HZ = 440


@dataclass
class Recipe:
    """What a test clip is made of; a rate of 0 leaves the track out."""

    seconds: float = 2.0
    fps: int = 25
    size: tuple[int, int] = (64, 48)
    rate_hz: int = 16_000
    layout: str = "mono"
    video_codec: str = "h264"
    audio_codec: str = "aac"
    audio_delay_s: float = 0.0
    video_delay_s: float = 0.0
    pix_fmt: str = "yuv420p"
    matrix: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None


def tone(rate_hz: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(
        np.float32
    )


def grey(index: int) -> int:
    """The grey level of a frame, which tells frames apart after coding."""
    return 20 + 8 * (index % 27)


def make(path: Path, recipe: Recipe | None = None, waveform: np.ndarray | None = None) -> Path:
    """Encode a clip: grey frames that brighten, and a tone on every channel."""
    recipe = recipe or Recipe()
    with av.open(str(path), "w") as container:
        video = audio = None
        if recipe.fps:
            video = container.add_stream(recipe.video_codec, rate=recipe.fps)
            video.width, video.height = recipe.size
            video.pix_fmt = recipe.pix_fmt
            if recipe.matrix:
                video.set_display_matrix(recipe.matrix)
        if recipe.rate_hz:
            audio = container.add_stream(recipe.audio_codec, rate=recipe.rate_hz, layout=recipe.layout)
        if video is not None:
            shift = round(recipe.video_delay_s * recipe.fps)
            for index in range(round(recipe.seconds * recipe.fps)):
                pixels = recipe.pixels
                if pixels is None:
                    pixels = np.full((*recipe.size[::-1], 3), grey(index), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts = index + shift
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            if waveform is None:
                channels = audio.codec_context.layout.nb_channels
                waveform = np.repeat(tone(recipe.rate_hz, recipe.seconds)[None], channels, axis=0)
            frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=recipe.layout)
            frame.sample_rate = recipe.rate_hz
            frame.time_base = Fraction(1, recipe.rate_hz)
            frame.pts = round(recipe.audio_delay_s * recipe.rate_hz)
            fit = av.AudioResampler(
                audio.codec_context.format.name,
                recipe.layout,
                recipe.rate_hz,
                audio.codec_context.frame_size or 1024,
            )
            for part in fit.resample(frame) + fit.resample(None):
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    """Write [samples, channels] int16."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(samples.shape[1])
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes(samples.astype("<i2").tobytes())
    return path


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size)))
    return float(np.fft.rfftfreq(waveform.size, 1 / 16_000)[spectrum.argmax()])


def levels(clip: Clip) -> np.ndarray:
    assert clip.frames is not None
    return clip.frames.mean(axis=(1, 2, 3))


def with_index_first(content: bytes) -> bytes:
    """Rewrite an mp4 so that its index stands before the media, as files for the web have it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.mp4", Path(folder) / "b.mp4"
        source.write_bytes(content)
        with (
            av.open(str(source)) as reader,
            av.open(str(target), "w", options={"movflags": "faststart"}) as writer,
        ):
            streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
            for packet in reader.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)
        return target.read_bytes()


CORNERS = np.zeros((48, 64, 3), dtype=np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32], CORNERS[24:, 32:] = 30, 90, 150, 210


ONE = 65_536


# Other processes read with the code that is under test here, whatever is installed.
SAME_CODE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def rewrite(source: Path, target: Path, keep, shift_s=lambda stream, time_s: 0.0) -> Path:
    """Copy a clip's packets: those that ``keep(stream, seconds)``, later by ``shift_s``."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is None:
                continue
            time_s = float(packet.pts * packet.time_base)
            if not keep(packet.stream.type, time_s):
                continue
            shift = round(shift_s(packet.stream.type, time_s) / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = streams[packet.stream.index]
            writer.mux(packet)
    return target
