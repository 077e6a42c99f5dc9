"""Audio and video tracks that are read to their end and give what they decode piece by piece, with times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream

from taemi_runtime.faces.crops import Look
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.over_time.events import Sight, Sound, Unseen
from taemi_runtime.preprocessing import AudioPreprocessing, VisionPreprocessing
from taemi_runtime.sound import AudioTrack
from taemi_runtime.tracks import Track, VideoTrack

# Longer and more than any source gives.
_ENDLESS_S = 1e9
_ENDLESS_FRAMES = 2**62
# As much as a gap has to be long before silence stands for it.
_SURPLUS_S = 0.1


class SoundTrack(AudioTrack):
    """An audio track that gives all of its waveform; gaps are said, not filled.

    Args:
        stream: The stream of an open container.
        preprocessing: The waveform's rate.
        start_s: Where the stretch begins on the axis of the container's timestamps, in seconds.
        claimed_s: The clip's length as its container says, in seconds; 0 where it does not.
        live: Whether samples are left out where there are more than the timestamps have time for, as of a
            microphone whose clock is fast; of a file, whose timestamps may be wrong, all are kept.

    Attributes:
        bad: How many samples were NaN or infinite; they are given as silence.
    """

    def __init__(
        self,
        stream: AudioStream,
        preprocessing: AudioPreprocessing,
        start_s: float,
        claimed_s: float = 0.0,
        *,
        live: bool = False,
    ) -> None:
        super().__init__(stream, replace(preprocessing, max_seconds=_ENDLESS_S), start_s, claimed_s)
        self._live = live
        self._surplus = 0
        self._ready: list[Sound] = []
        self._given = 0
        self.bad = 0

    @property
    def given_s(self) -> float:
        """How much of the waveform was given, gaps included, in seconds."""
        return self._given / self._rate_hz

    def rest(self) -> None:
        """Hand out what decoder and resampler hold back; further packets may follow."""
        _drain(self, self._stream)
        self._resample(None)
        self._resampler = self._source = None

    def give(self) -> list[Sound]:
        """Return what came since the last call."""
        self._collect()
        ready, self._ready = self._ready, []
        self._given += sum(piece.count for piece in ready)
        return ready

    def _fill_gap(self, frame: AudioFrame) -> None:
        time_s = None if frame.time is None else frame.time - self.start_s
        if (
            self._live
            and time_s is not None
            and self._end_s is not None
            and self._end_s - time_s > _SURPLUS_S
        ):
            self._surplus += round((self._end_s - time_s) * self._rate_hz)
            self._end_s = time_s
        super()._fill_gap(frame)

    def _collect(self) -> None:
        for part in self._parts:
            if self._surplus:
                left_out = min(self._surplus, part.size)
                self._surplus -= left_out
                part = part[left_out:]  # noqa: PLW2901 - what is left of it
            bad = ~np.isfinite(part)
            if bad.any():
                self.bad += int(bad.sum())
                part[bad] = 0.0
            self._ready.append(Sound(part.size, part))
        self._parts = []

    def _append_silence(self, seconds: float) -> None:
        # As long as a source may be silent for: the zeros are never made.
        self._resample(None)
        self._resampler = self._source = None
        self._collect()
        self._ready.append(Sound(round(seconds * self._rate_hz), None))


class SightTrack(VideoTrack):
    """A video track that gives every frame of its sampling grid.

    Args:
        stream: The stream of an open container.
        preprocessing: Size and rate of the frames.
        start_s: Where the stretch begins on the axis of the container's timestamps, in seconds.
        detector: What finds faces; ``None`` keeps whole frames.
        limits: How large a frame may be.
        has_time: Asked before a frame is looked at; where it says no, the frame is left out and said so.
    """

    def __init__(
        self,
        stream: VideoStream,
        preprocessing: VisionPreprocessing,
        start_s: float,
        detector: FaceDetector | None,
        limits: DecodeLimits,
        has_time: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(
            stream, replace(preprocessing, max_frames=_ENDLESS_FRAMES), start_s, detector, limits
        )
        if not stream.codec_context.is_open:
            # Every further thread would hold a frame back, which is long where frames are rare.
            stream.codec_context.thread_count = 1
        self._has_time = has_time
        self._ready: list[Sight | Unseen] = []
        self._looked_s = -math.inf
        fps = preprocessing.max_fps
        self._lasts_s = max(self._frame_s, 1 / fps if fps is not None else 0.0)

    @property
    def given_s(self) -> float:
        """Every frame before this time was given, in seconds."""
        waits_since_s = self.crops.waits_since_s if self.crops is not None else None
        return self._looked_s if waits_since_s is None else waits_since_s

    @property
    def ends_s(self) -> float:
        """The end of the last frame, in seconds."""
        return self._end_s

    def rest(self) -> None:
        """Hand out the frames that decoder and cropper hold back; further packets may follow."""
        _drain(self, self._stream)
        if self.crops is not None:
            self._ready += map(self._sight, self.crops.finish_looking())

    def give(self) -> list[Sight | Unseen]:
        """Return what came since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _is_due(self, time_s: float) -> bool:
        self._looked_s = max(self._looked_s, time_s)
        if not super()._is_due(time_s):
            return False
        if self._has_time():
            return True
        self._ready.append(Unseen(time_s))
        return False

    def _keep(self, time_s: float, upright: npt.NDArray[np.uint8]) -> None:
        looks = [Look(time_s, upright, several=False)]
        if self.crops is not None:
            looks = self.crops.look(time_s, upright)
        self._ready += map(self._sight, looks)

    def _sight(self, look: Look) -> Sight:
        pixels = None if look.pixels is None else self._small(look.pixels)
        return Sight(look.time_s, self._lasts_s, pixels, look.several)


def _drain(track: Track, stream: AudioStream | VideoStream) -> None:
    """Make a decoder hand out what it holds back, and ready for more."""
    # Without a packet the frames would have no unit for their times; this one is empty, as at a file's end.
    packet = Packet()
    packet.stream = stream
    if stream.time_base is not None:
        packet.time_base = stream.time_base
    track.take(packet)
    stream.codec_context.flush_buffers()
