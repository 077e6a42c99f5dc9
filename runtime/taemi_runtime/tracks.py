"""One audio or video track, decoded packet by packet into just as much as the model uses.

Memory is bounded by the preprocessing's limits, never by the clip: samples are resampled and frames
resized as they come, and a full track ignores its further packets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from taemi_runtime.images import resize_frame
from taemi_runtime.preprocessing import AudioPreprocessing, VisionPreprocessing

# How far before a point of the sampling grid a frame may lie and still stand for it: 5 ms, but never
# more than a quarter step. Containers round timestamps (webm to milliseconds): at 30 frames a second
# the second frame is at 0.033 s, just before its own grid point at 1/30 s.
_GRID_TOLERANCE_S = 0.005
_GRID_TOLERANCE_STEPS = 0.25
# Assumed where a track says nothing of its frame rate and a frame nothing of its time.
_USUAL_FPS = 25.0


class Track(ABC):
    """What audio and video tracks share: decoding that survives damage.

    Args:
        name: What messages call it, e.g. ``"audio track"``.
        index: The stream's index in its container.
        start_s: The container's start on the axis of its timestamps, in seconds.

    Attributes:
        truncated: Whether the track goes on after what was kept; nothing more is decoded then.
        damaged: How many packets could not be decoded and were skipped, frames marked corrupt included.
        reached_s: End of the last packet seen, in seconds from the container's start.
    """

    def __init__(self, name: str, index: int, start_s: float) -> None:
        self.name = name
        self.index = index
        self.start_s = start_s
        self.truncated = False
        self.damaged = 0
        self.reached_s = 0.0

    def take(self, packet: Packet[Stream] | None) -> None:
        """Decode a packet of this track and keep what is needed of it.

        Args:
            packet: The packet; ``None`` or an empty one makes the decoder hand out what it held back.
        """
        if packet is not None and packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self.reached_s = max(self.reached_s, end - self.start_s)
        if self.truncated:
            return
        try:
            self._decode(packet)
        except av.error.EOFError:
            pass  # The decoder was drained before.
        except av.error.FFmpegError:
            self.damaged += 1

    @abstractmethod
    def _decode(self, packet: Packet[Stream] | None) -> None:
        """Decode a packet and keep its frames until the track is full."""


class AudioTrack(Track):
    """An audio track on its way to a mono waveform.

    Every sampling rate and channel layout is taken; channels are averaged. Where the first frame's
    timestamp lies after the container's start, silence stands before it, so that sample 0 is the
    clip's beginning; later gaps are not filled.

    Args:
        stream: The stream of an open container.
        preprocessing: Rate and longest length.
        start_s: The container's start on the axis of its timestamps, in seconds.
    """

    def __init__(self, stream: AudioStream, preprocessing: AudioPreprocessing, start_s: float) -> None:
        super().__init__("audio track", stream.index, start_s)
        self._stream = stream
        self._rate_hz = preprocessing.rate_hz
        self._room = preprocessing.max_samples
        self._resampler: AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None
        self._parts: list[npt.NDArray[np.float32]] = []
        self._heard = False

    def waveform(self) -> npt.NDArray[np.float32] | None:
        """Return [samples], float32, full scale 1; ``None`` when nothing was decoded."""
        if not self.truncated:
            self._resample(None)
        return np.concatenate(self._parts) if self._heard and self._parts else None

    @property
    def begins_too_late(self) -> bool:
        """Whether the track's first sample lies after everything that is used of a clip."""
        return self.truncated and not self._heard

    def _decode(self, packet: Packet[Stream] | None) -> None:
        for frame in self._stream.decode(packet):
            if not self._parts:
                self._pad_front(frame)
            if self._room == 0:
                self.truncated = True
                return
            source = (frame.format.name, frame.layout.name, frame.sample_rate)
            if source != self._source:
                # A track may change its format midway; one resampler takes one format.
                self._resample(None)
                self._source = source
                self._resampler = AudioResampler(format="fltp", rate=self._rate_hz)
            self._resample(frame)

    def _pad_front(self, frame: AudioFrame) -> None:
        delay_s = 0.0 if frame.time is None else frame.time - self.start_s
        silence = min(max(0, round(delay_s * self._rate_hz)), self._room)
        self._room -= silence
        self._parts.append(np.zeros(silence, dtype=np.float32))

    def _resample(self, frame: AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for resampled in self._resampler.resample(frame):
            # With nothing to convert, the resampler hands the closing None back as it is.
            if resampled is None or self._room == 0:
                continue
            part = resampled.to_ndarray().mean(axis=0, dtype=np.float32)[: self._room]
            self._room -= part.size
            self._heard = self._heard or part.size > 0
            self._parts.append(part)


class VideoTrack(Track):
    """A video track on its way to a stack of small RGB frames.

    Every frame is turned and mirrored as the file's display matrix says. With ``max_fps``, the clip's
    time is cut into steps of 1 / max_fps from the container's start and the first frame of each step
    is kept, so that sampling depends on timestamps only, never on a declared or varying frame rate.

    Args:
        stream: The stream of an open container.
        preprocessing: Size, rate and number of frames.
        start_s: The container's start on the axis of its timestamps, in seconds.
    """

    def __init__(self, stream: VideoStream, preprocessing: VisionPreprocessing, start_s: float) -> None:
        super().__init__("video track", stream.index, start_s)
        stream.thread_type = "AUTO"
        self._stream = stream
        self._preprocessing = preprocessing
        self._frame_s = 1 / float(stream.average_rate or _USUAL_FPS)
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: tuple[int, int, int, int] | None = None
        self._kept: list[npt.NDArray[np.uint8]] = []
        self._step = -math.inf
        self._first_s = 0.0
        self._end_s = 0.0

    def frames(self) -> npt.NDArray[np.uint8] | None:
        """Return [frames, 3, height, width], uint8 RGB; ``None`` when nothing was decoded."""
        return np.stack(self._kept) if self._kept else None

    @property
    def seconds(self) -> float:
        """The time that the kept frames stand for, in seconds."""
        return max(0.0, self._end_s - self._first_s) if self._kept else 0.0

    def _decode(self, packet: Packet[Stream] | None) -> None:
        for frame in self._stream.decode(packet):
            # Without a timestamp a frame follows the one before.
            time_s = self._end_s if frame.time is None else frame.time - self.start_s
            if not self._is_due(time_s):
                self._end_s = max(self._end_s, time_s + self._duration_s(frame))
                continue
            if len(self._kept) == self._preprocessing.max_frames:
                self.truncated = True
                return
            if frame.is_corrupt:
                self.damaged += 1
            if not self._kept:
                self._first_s = time_s
            self._end_s = max(self._end_s, time_s + self._duration_s(frame))
            self._kept.append(self._small(frame))

    def _is_due(self, time_s: float) -> bool:
        max_fps = self._preprocessing.max_fps
        if max_fps is None:
            return True
        tolerance = min(_GRID_TOLERANCE_S * max_fps, _GRID_TOLERANCE_STEPS)
        step = math.floor(time_s * max_fps + tolerance)
        if step <= self._step:
            return False
        self._step = step
        return True

    def _duration_s(self, frame: VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        return self._frame_s

    def _small(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        pixels = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        if frame.rotation != self._rotation:
            # Looked up when the angle changes only: PyAV ties a frame and its side data into a
            # reference cycle, which keeps the whole picture in memory until the collector runs.
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        upright = orient(np.asarray(pixels, dtype=np.uint8), self._matrix)
        return resize_frame(upright, self._preprocessing.height, self._preprocessing.width)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return the upper left 2 x 2 part (a, b, c, d) of a frame's display matrix, when it has one."""
    items: Any = frame.side_data
    for item in items:
        if item.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(item), dtype=np.int32)[:5].tolist()
            return a, b, c, d
    return None


def orient(pixels: npt.NDArray[np.uint8], matrix: tuple[int, int, int, int] | None) -> npt.NDArray[np.uint8]:
    """Turn and mirror an image as a display matrix says.

    A pixel at (x, y) belongs at (a x + c y, b x + d y), up to a shift (ISO/IEC 14496-12, 8.3.2; y runs
    downwards). Cameras write quarter turns and mirror images only; another angle counts as the
    nearest of these.

    Args:
        pixels: [rows, columns, 3], uint8.
        matrix: (a, b, c, d); ``None`` leaves the image as it is.

    Returns:
        [rows, columns, 3] or [columns, rows, 3], uint8; may share memory with ``pixels``.
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, right, down = pixels.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
