"""What of a stretch is kept while windows may still need it: its waveform, and its frames' features."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi_runtime.over_time.events import Sight, Sound
from taemi_runtime.over_time.schedule import Window

# Containers round timestamps: a frame this much before a window's edge is taken for one on it, but never by
# more than a quarter of what it stands for. As on the sampling grid of ``taemi_runtime.tracks``.
_EDGE_S = 0.005
_EDGE_STEPS = 0.25

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class WaveformRing:
    """The sound since the oldest window that is still to come.

    Args:
        rate_hz: Samples a second.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._pieces: deque[tuple[int, Sound]] = deque()
        self._end = 0

    def __len__(self) -> int:
        return sum(piece.count for _, piece in self._pieces if piece.samples is not None)

    @property
    def end_s(self) -> float:
        """The end of what came, in seconds."""
        return self._end / self._rate_hz

    def add(self, sound: Sound) -> None:
        """Take the next samples."""
        self._pieces.append((self._end, sound))
        self._end += sound.count

    def forget(self, before_s: float) -> None:
        """Forget what lies before a time."""
        first = self._index(before_s)
        while self._pieces and self._pieces[0][0] + self._pieces[0][1].count <= first:
            self._pieces.popleft()

    def cut(self, start_s: float, samples: int) -> npt.NDArray[np.float32] | None:
        """Return the sound of a window.

        Args:
            start_s: Its beginning.
            samples: Its longest length in samples.

        Returns:
            [samples], float32, gaps filled with zeros; shorter where the sound ends before the window does,
            as the waveform of a clip is. ``None`` where there is none.
        """
        first = self._index(start_s)
        inside = [
            (max(at, first), min(at + piece.count, first + samples), at, piece)
            for at, piece in self._pieces
            if piece.samples is not None and at + piece.count > first and at < first + samples
        ]
        if not inside:
            return None
        waveform = np.zeros(inside[-1][1] - first, dtype=np.float32)
        for begin, end, at, piece in inside:
            assert piece.samples is not None
            waveform[begin - first : end - first] = piece.samples[begin - at : end - at]
        return waveform

    def _index(self, time_s: float) -> int:
        return round(time_s * self._rate_hz)


@dataclass
class _Frame:
    sight: Sight
    features: Features | None = None


@dataclass(frozen=True)
class Seen:
    """What a window sees.

    Args:
        features: [frames, width] float32; ``None`` without any.
        looked: Frames that were looked at.
        several: Frames of them with more than one face to choose from.
        seconds: The time that ``features`` stand for; in proportion where frames were left out.
        truncated: Whether there were more frames than a window takes.
    """

    features: Features | None
    looked: int
    several: int
    seconds: float
    truncated: bool


class FrameRing:
    """The frames since the oldest window that is still to come, each encoded once.

    Args:
        hop_s: From the beginning of one window to that of the next.
        length_s: Length of a window.
        most: Frames that a window takes; the first of it, as of a clip.
        encode: From [frames, 3, height, width] uint8 to [frames, width] float32.
    """

    def __init__(
        self, hop_s: float, length_s: float, most: int, encode: Callable[[Pixels], Features]
    ) -> None:
        self._hop_s = hop_s
        self._length_s = length_s
        self._most = most
        self._encode = encode
        self._frames: deque[_Frame] = deque()
        self._waiting: deque[_Frame] = deque()
        # Since the beginning of the newest window: frames that came, and the first that no window takes.
        self._newest = -1
        self._count = 0
        self._left_out: deque[float] = deque()
        self.encoded = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def waiting(self) -> int:
        """How many frames are not encoded yet."""
        return len(self._waiting)

    def add(self, sight: Sight) -> None:
        """Take a frame, unless no window needs it."""
        edge_s = _edge_s(sight)
        newest = max(math.floor((sight.time_s + edge_s) / self._hop_s), 0)
        if newest > self._newest:
            self._newest, self._count = newest, 0
        if sight.time_s + edge_s >= newest * self._hop_s + self._length_s:
            return
        if self._count == self._most:
            # Every window that is open here began no later than the newest, and is full.
            if not self._left_out or self._left_out[-1] < newest * self._hop_s:
                self._left_out.append(sight.time_s)
            return
        self._count += 1
        frame = _Frame(sight)
        self._frames.append(frame)
        if sight.pixels is not None:
            self._waiting.append(frame)

    def thin(self, most: int) -> int:
        """Leave out every second frame that waits until there are no more than so many; return how many."""
        left_out = 0
        while len(self._waiting) > most:
            dropped = {id(frame) for frame in itertools.islice(self._waiting, 1, None, 2)}
            self._waiting = deque(frame for frame in self._waiting if id(frame) not in dropped)
            self._frames = deque(frame for frame in self._frames if id(frame) not in dropped)
            left_out += len(dropped)
        return left_out

    def encode(
        self, at_once: int, *, before_s: float = math.inf, all_of_them: bool = False, once: bool = False
    ) -> None:
        """Encode frames that wait, so many at once.

        Args:
            at_once: Frames of a call.
            before_s: Only frames before this time.
            all_of_them: Whether a last call with fewer frames is made, too.
            once: Whether one call is enough for now.
        """
        while self._waiting and (all_of_them or len(self._waiting) >= at_once):
            ready = [
                frame
                for frame, _ in zip(self._waiting, range(at_once), strict=False)
                if frame.sight.time_s < before_s
            ]
            if not ready or (len(ready) < at_once and not all_of_them):
                return
            pixels = np.stack([frame.sight.pixels for frame in ready if frame.sight.pixels is not None])
            for frame, features in zip(ready, self._encode(pixels), strict=True):
                self._waiting.popleft()
                frame.features = features.copy()
                # The picture is as large as fifty of its features.
                frame.sight = Sight(frame.sight.time_s, frame.sight.lasts_s, None, frame.sight.several)
            self.encoded += len(ready)
            if once:
                return

    def forget(self, before_s: float) -> None:
        """Forget frames before a time, encoded or not."""
        if before_s <= 0:
            return
        for frames in (self._frames, self._waiting):
            while frames and frames[0].sight.time_s + _edge_s(frames[0].sight) < before_s:
                frames.popleft()
        while self._left_out and self._left_out[0] < before_s:
            self._left_out.popleft()

    def see(self, window: Window) -> Seen:
        """Return what a window sees; its frames must have been encoded."""
        # One track may begin a little before the other, and with it the stretch.
        start_s = window.start_s if window.number else -math.inf
        inside = [
            frame
            for frame in self._frames
            if start_s <= frame.sight.time_s + _edge_s(frame.sight) < window.end_s
        ]
        taken = inside[: self._most]
        features = [frame.features for frame in taken if frame.features is not None]
        seconds = 0.0
        if features:
            end_s = min(taken[-1].sight.time_s + taken[-1].sight.lasts_s, window.end_s)
            seconds = (end_s - taken[0].sight.time_s) * len(features) / len(taken)
        return Seen(
            np.stack(features) if features else None,
            len(taken),
            sum(frame.sight.several for frame in taken),
            max(seconds, 0.0),
            len(inside) > len(taken)
            or any(window.start_s <= time_s < window.end_s for time_s in self._left_out),
        )


def _edge_s(sight: Sight) -> float:
    return min(_EDGE_S, _EDGE_STEPS * sight.lasts_s)
