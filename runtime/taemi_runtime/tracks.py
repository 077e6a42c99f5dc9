"""A video track, decoded packet by packet into just as much as the model uses, and what tracks share.

Memory is bounded by the preprocessing's limits, never by the clip: frames are resized as they
come, and a full track ignores its further packets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import av.error
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from taemi_runtime.faces.crops import FaceCropper
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.images import resize_frame
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.orientation import display_matrix, orient
from taemi_runtime.preprocessing import VisionPreprocessing

# How far before a point of the sampling grid a frame may lie and still stand for it: 5 ms, but never
# more than a quarter step. Containers round timestamps (webm to milliseconds): at 30 frames a second
# the second frame is at 0.033 s, just before its own grid point at 1/30 s.
_GRID_TOLERANCE_S = 0.005
_GRID_TOLERANCE_STEPS = 0.25
# Assumed where a track says nothing of its frame rate and a frame nothing of its time.
_USUAL_FPS = 25.0
# A frame that comes this many usual frame lengths after the end of the one before leaves a gap.
_GAP_FRAMES = 0.5
# Where faces are cut out, frames wait at full size for the next points of the grid: larger ones are
# reduced to this shorter side in pixels, which leaves a face of a fifth of it at the encoder's size.
_LARGEST_SIDE = 1080


class Track(ABC):
    """What audio and video tracks share: decoding that survives damage.

    Args:
        name: What messages call it, e.g. ``"audio track"``.
        index: The stream's index in its container.
        start_s: The container's start on the axis of its timestamps, in seconds.

    Attributes:
        truncated: Whether the track goes on after what was kept; nothing more is decoded then.
        damaged: How many packets could not be decoded and were skipped, frames marked corrupt included.
        damaged_s: The time that these stand for, in seconds; 0 where the file does not say.
        gaps_s: The time between frames for which there is none, in seconds.
        begins_s: Beginning of the earliest packet seen, in seconds from the container's start.
        reached_s: End of the last packet or frame seen, in seconds from the container's start.
    """

    def __init__(self, name: str, index: int, start_s: float) -> None:
        self.name = name
        self.index = index
        self.start_s = start_s
        self.truncated = False
        self.damaged = 0
        self.damaged_s = 0.0
        self.gaps_s = 0.0
        self.begins_s = math.inf
        self.reached_s = 0.0

    def take(self, packet: Packet[Stream] | None) -> None:
        """Decode a packet of this track and keep what is needed of it.

        Args:
            packet: The packet; ``None`` or an empty one makes the decoder hand out what it held back.
        """
        if packet is not None and packet.pts is not None:
            self.begins_s = min(self.begins_s, float(packet.pts * packet.time_base) - self.start_s)
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self.reached_s = max(self.reached_s, end - self.start_s)
        if self.truncated:
            return
        try:
            self._decode(packet)
        except av.error.EOFError:
            pass  # The decoder was drained before.
        except av.error.FFmpegError as error:
            self._note_damage(packet, error)

    def _note_damage(self, packet: Packet[Stream] | None, error: av.error.FFmpegError) -> None:
        """Count a packet that cannot be decoded."""
        del error
        self.damaged += 1
        if packet is not None and packet.duration and packet.time_base:
            self.damaged_s += float(packet.duration * packet.time_base)

    @abstractmethod
    def _decode(self, packet: Packet[Stream] | None) -> None:
        """Decode a packet and keep its frames until the track is full."""


class VideoTrack(Track):
    """A video track on its way to a stack of small RGB frames.

    Every frame is turned and mirrored as the file's display matrix says. With ``max_fps``, the clip's
    time is cut into steps of 1 / max_fps from the container's start and the first frame of each step
    is kept, so that sampling depends on timestamps only, never on a declared or varying frame rate.
    With a face detector, the largest face of every such frame is kept, and nothing of a frame without.

    Args:
        stream: The stream of an open container.
        preprocessing: Size, rate and number of frames.
        start_s: The container's start on the axis of its timestamps, in seconds.
        detector: What finds faces; ``None`` keeps whole frames.
        limits: How large a frame may be.

    Attributes:
        decoded: How many frames came, those between the points of the grid included.
        headless_s: The time before the first frame whose packets could not be decoded, in seconds.
        taken: How many frames were looked at; never more than the preprocessing's limit.
        crops: What cuts faces out and counts them; ``None`` for whole frames.
    """

    def __init__(
        self,
        stream: VideoStream,
        preprocessing: VisionPreprocessing,
        start_s: float,
        detector: FaceDetector | None = None,
        limits: DecodeLimits | None = None,
    ) -> None:
        super().__init__("video track", stream.index, start_s)
        self._limits = limits or DecodeLimits()
        if not stream.codec_context.is_open:
            # FFmpeg refuses larger frames before it allocates them.
            stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
            # One thread: with several a damaged picture is patched from whatever the others have ready by
            # then, so that one file gave other pictures from run to run and from machine to machine.
            stream.codec_context.thread_count = 1
        self._stream = stream
        self._preprocessing = preprocessing
        self._frame_s = 1 / float(stream.average_rate or _USUAL_FPS)
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: tuple[int, int, int, int] | None = None
        self.crops = FaceCropper(detector) if detector is not None else None
        self.decoded = 0
        self.headless_s = 0.0
        self.taken = 0
        self._kept: list[npt.NDArray[np.uint8]] = []
        self._step = -math.inf
        self._first_s = 0.0
        self._end_s = 0.0

    def frames(self) -> npt.NDArray[np.uint8] | None:
        """Return [frames, 3, height, width], uint8 RGB; ``None`` without a frame or without a face."""
        if self.crops is not None:
            self._kept += map(self._small, self.crops.finish())
        return np.stack(self._kept) if self._kept else None

    def part(self, start: int, count: int) -> npt.NDArray[np.uint8] | None:
        """Return ``count`` of what ``frames`` will give, from ``start`` on; ``None`` until they are there."""
        ready = self._kept[start : start + count]
        return np.stack(ready) if len(ready) == count else None

    @property
    def seconds(self) -> float:
        """The time that the kept frames stand for, in seconds; in proportion where some were left out."""
        if not self._kept:
            return 0.0
        return max(0.0, self._end_s - self._first_s) * len(self._kept) / self.taken

    def _decode(self, packet: Packet[Stream] | None) -> None:
        for frame in self._stream.decode(packet):
            # Without a timestamp a frame follows the one before.
            time_s = self._end_s if frame.time is None else frame.time - self.start_s
            self._limits.check_frame(frame.width, frame.height)
            self._note_gap(frame, time_s)
            if not self._is_due(time_s):
                self._end_s = max(self._end_s, time_s + self._duration_s(frame))
                continue
            if self.taken == self._preprocessing.max_frames:
                self.truncated = True
                return
            if frame.is_corrupt:
                self.damaged += 1
                self.damaged_s += self._duration_s(frame)
            if not self.taken:
                self._first_s = time_s
            self.taken += 1
            self._end_s = max(self._end_s, time_s + self._duration_s(frame))
            self._keep(time_s, self._upright(frame))

    def _keep(self, time_s: float, upright: npt.NDArray[np.uint8]) -> None:
        """Keep what is used of a frame: [rows, columns, 3] uint8."""
        ready = [upright] if self.crops is None else self.crops.add(time_s, upright)
        self._kept += map(self._small, ready)

    def _note_gap(self, frame: VideoFrame, time_s: float) -> None:
        # An edit list may begin the clip after its first packet, which is no loss.
        end_s = self._end_s if self.decoded else max(0.0, self.begins_s)
        gap_s = time_s - end_s if time_s - end_s > _GAP_FRAMES * self._frame_s else 0.0
        if self.decoded:
            self.gaps_s += gap_s
        else:
            self.headless_s = gap_s
        self.decoded += 1
        self.reached_s = max(self.reached_s, time_s + self._duration_s(frame))

    def _note_damage(self, packet: Packet[Stream] | None, error: av.error.FFmpegError) -> None:
        super()._note_damage(packet, error)
        if self.decoded:
            return
        # A file's header may claim a small picture and its track hold a large one. Decoders then refuse
        # the first frame: with its size on record, or with an invalid argument and none.
        codec = self._stream.codec_context
        self._limits.check_frame(codec.width, codec.height)
        if isinstance(error, av.error.ArgumentError) and not codec.width:
            found = f"its frames have more pixels than the limit of {self._limits.max_pixels:,}"
            raise LimitExceeded(found, "max_pixels")

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

    def _upright(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        shrink = max(1.0, min(frame.width, frame.height) / _LARGEST_SIDE) if self.crops is not None else 1.0
        width, height = (max(1, round(side / shrink)) for side in (frame.width, frame.height))
        pixels = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation="AREA" if shrink > 1 else None
        ).to_ndarray()
        if frame.rotation != self._rotation:
            # Looked up when the angle changes only: PyAV ties a frame and its side data into a
            # reference cycle, which keeps the whole picture in memory until the collector runs.
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        return orient(np.asarray(pixels, dtype=np.uint8), self._matrix)

    def _small(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return resize_frame(pixels, self._preprocessing.height, self._preprocessing.width)
