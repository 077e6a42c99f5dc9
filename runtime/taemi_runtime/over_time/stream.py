"""From an open container to events: every track read to its end, in one pass, breaks in time told apart."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.media import audio_stream, tell_lost_end, video_stream
from taemi_runtime.opening import is_stalled, tell_stall
from taemi_runtime.over_time.breaks import Times, look_ahead
from taemi_runtime.over_time.events import Begins, Ends, Event, Reached
from taemi_runtime.over_time.tracks import SightTrack, SoundTrack
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.remarks import tell_damage
from taemi_runtime.tracks import Track

# Where a track has no packet for this long while others go on, it gives nothing more for the time before:
# containers store tracks side by side, with at most a few seconds between them. Live windows wait less.
_NO_PACKET_S, _NO_PACKET_LIVE_S = 10.0, 2.0
# The same where it has packets and its decoder gives nothing.
_NO_FRAME_S, _NO_FRAME_LIVE_S = 30.0, 4.0
# Of so many packets one may have been waited for in place of the first after a break: demuxers hold the last
# packet of each track until they see where it ends.
_HELD_PACKETS = 8
# Reading is given up where it takes longer than the limit for this much of the source, in seconds.
_PROGRESS_S = 1.0


@dataclass
class Reading:
    """How a container is read.

    Args:
        preprocessing: What the model takes.
        detector: What finds faces; ``None`` keeps whole frames.
        limits: What the source may ask for.
        share: How much of a file is there, in (0, 1], as far as its header says.
        endless: Whether the source may go on for as long as it likes.
        live: Whether nobody waits for a track that is behind.
        has_time: Asked before each frame is looked at; see [SightTrack][].
        now_s: Tells the time while a source is live whose timestamps may start over; ``None`` for files.
    """

    preprocessing: Preprocessing
    detector: FaceDetector | None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    share: float = 1.0
    endless: bool = False
    live: bool = False
    has_time: Callable[[], bool] = lambda: True
    now_s: Callable[[], float] | None = None


class MediaStream:
    """Reads a container from its beginning to its end.

    Args:
        container: The open container; the caller closes it.
        reading: How it is read.
        at_s: Where its beginning lies on the source's axis of time, in seconds.
        gap_s: How long nothing came before it, in seconds.
        why: What ended the stretch before; empty for the first.

    Attributes:
        broken: What ended the source before its end; empty where nothing did.
        decoded: Whether anything could be decoded.
        lost: What was wrong with its end.
        ends_s: The end of what was read on the source's axis of time, in seconds.
    """

    def __init__(
        self,
        container: InputContainer,
        reading: Reading,
        at_s: float = 0.0,
        gap_s: float = 0.0,
        why: str = "",
    ) -> None:
        self._container = container
        self._reading = reading
        self._sound_from = audio_stream(container)
        self._sight_from = video_stream(container)
        self._begins = Begins(at_s, gap_s, why)
        self._broke = False
        self._axis_s = (container.start_time or 0) / av.time_base
        self._sound: SoundTrack | None = None
        self._sight: SightTrack | None = None
        self._times = Times()
        self._told: dict[int, tuple[int, float, float]] = {}
        self._resting: set[int] = set()
        self._spent_s = self._spent_before_s = 0.0
        self._seen_s = self._progress_s = 0.0
        self._waits_s: deque[float] = deque([0.0], maxlen=_HELD_PACKETS)
        self.broken = ""
        self.decoded = False
        self.lost: tuple[str, ...] = ()
        self.ends_s = at_s

    @property
    def reasons(self) -> list[str]:
        """Why tracks are missing, or give nothing."""
        found = [why for why in (self._sound_from, self._sight_from) if isinstance(why, str)]
        return found + [f"nothing of the {track.name} can be decoded" for track in self._tracks]

    def __iter__(self) -> Iterator[Event]:
        """Yield what comes, in order, from ``Begins`` to ``Ends`` for each stretch.

        Raises:
            LimitExceeded: The source goes beyond a limit.
        """
        yield self._open(self._begins)
        packets = self._packets()
        while (packet := next(packets, None)) is not None:
            change = self._times.change(packet, self._axis_s, self._seen_s, max(self._waits_s))
            if change is not None:
                yield from self._close(last=False)
                self._broke = True
                ahead, early_s = look_ahead(packet, packets, len(self._tracks))
                self._axis_s += change.axis_s - early_s
                at_s = self._begins.at_s + change.after_s - early_s
                yield self._open(Begins(at_s, max(0.0, change.gap_s - early_s), change.why))
                packets = itertools.chain(ahead, packets)
                continue
            yield from self._take(packet)
        yield from self._close(last=True)

    @property
    def _tracks(self) -> list[SoundTrack | SightTrack]:
        return [track for track in (self._sound, self._sight) if track is not None]

    def _open(self, begins: Begins) -> Begins:
        """Begin a stretch with fresh tracks, whose time begins with it."""
        sound, sight, reading = self._sound_from, self._sight_from, self._reading
        if not isinstance(sound, str):
            # After a break the container's length says nothing of the timestamps.
            claimed_s = (self._container.duration or 0) / av.time_base if not self._broke else 0.0
            self._sound = SoundTrack(
                sound, reading.preprocessing.audio, self._axis_s, claimed_s, live=reading.endless
            )
        if not isinstance(sight, str):
            vision = reading.preprocessing.vision
            self._sight = SightTrack(
                sight,
                vision,
                self._axis_s,
                reading.detector,
                reading.limits,
                reading.has_time,
            )
        self._times = Times()
        self._told = {}
        self._resting = set()
        self._seen_s = self._progress_s = 0.0
        self._begins = Begins(
            begins.at_s,
            begins.gap_s,
            begins.why,
            sound if isinstance(sound, str) else "",
            sight if isinstance(sight, str) else "",
            faces=reading.detector is not None,
        )
        return self._begins

    def _packets(self) -> Iterator[Packet[Stream]]:
        wanted = [stream for stream in (self._sound_from, self._sight_from) if not isinstance(stream, str)]
        source = self._container.demux(*wanted)
        while True:
            start = time.perf_counter()
            asked_s = self._reading.now_s() if self._reading.now_s is not None else 0.0
            packet = None
            try:
                packet = next(source, None)
            except av.error.FFmpegError as error:
                limits = self._reading.limits
                self.broken = tell_stall(limits) if is_stalled(error) else error.strerror or str(error)
            except IndexError:
                pass  # PyAV stumbles at the end of a file over tracks that appeared midway.
            self._spend(start)
            if self._reading.now_s is not None:
                self._waits_s.append(self._reading.now_s() - asked_s)
            if packet is None:
                return
            yield packet

    def _take(self, packet: Packet[Stream]) -> Iterator[Event]:
        start = time.perf_counter()
        by_index: dict[int, Track] = {track.index: track for track in self._tracks}
        track = by_index[packet.stream.index]
        track.take(packet)
        self._resting.discard(track.index)
        self._times.note(packet)
        self._seen_s = max(self._seen_s, track.reached_s)
        if not self._reading.endless:
            self._reading.limits.check_length(self._begins.at_s + self._seen_s)
        if self._seen_s - self._progress_s >= _PROGRESS_S:
            self._progress_s = self._seen_s
            self._spent_before_s = self._spent_s
        for other in self._tracks:
            behind_s = _NO_PACKET_LIVE_S if self._reading.live else _NO_PACKET_S
            if other.index not in self._resting and other.reached_s < self._seen_s - behind_s:
                other.rest()
                self._resting.add(other.index)
        self._spend(start)
        yield from self._give()

    def _given_s(self, track: SoundTrack | SightTrack | None) -> float:
        """Return the time before which nothing more of a track is waited for."""
        if track is None:
            return math.inf
        resting, live = track.index in self._resting, self._reading.live
        behind_s = (
            (_NO_PACKET_LIVE_S if live else _NO_PACKET_S)
            if resting
            else (_NO_FRAME_LIVE_S if live else _NO_FRAME_S)
        )
        return max(track.given_s, self._seen_s - behind_s)

    def _give(self) -> Iterator[Event]:
        if self._sound is not None:
            yield from self._sound.give()
        if self._sight is not None:
            yield from self._sight.give()
        yield Reached(
            sound_s=self._given_s(self._sound),
            sight_s=self._given_s(self._sight),
            decode_ms=self._spent_s * 1e3,
            warnings=self._news(),
        )

    def _close(self, *, last: bool) -> Iterator[Event]:
        """End a stretch: hand out what decoders hold back."""
        start = time.perf_counter()
        for track in self._tracks:
            track.rest()
        self._spend(start)
        yield from self._give()
        sound, sight = self._sound, self._sight
        self.decoded = self.decoded or any(track.reached_s > 0 and _gave(track) for track in self._tracks)
        ends_s = max(sound.given_s if sound else 0.0, sight.ends_s if sight else 0.0)
        self.ends_s = self._begins.at_s + ends_s
        warnings = []
        if sound is not None and sound.bad:
            warnings.append(
                f"{sound.bad} samples of the audio track are NaN or infinite and count as silence"
            )
        # After a break the container's length says nothing of what should have come.
        if last and self._tracks and not self._broke and not self._reading.endless:
            by_index: dict[int, Track] = {track.index: track for track in self._tracks}
            warnings += tell_lost_end(self._container, by_index, self._reading.share, self.broken)
        self.lost = tuple(warnings)
        yield Ends(ends_s, self._spent_s * 1e3, tuple(warnings))

    def _news(self) -> tuple[str, ...]:
        """Say what was damaged since this was last asked."""
        found = []
        for track in self._tracks:
            before = self._told.get(track.index, (0, 0.0, 0.0))
            now = (track.damaged, track.damaged_s, track.gaps_s)
            if now != before:
                self._told[track.index] = now
                since = copy.copy(track)
                since.damaged -= before[0]
                since.damaged_s -= before[1]
                since.gaps_s -= before[2]
                found.append(tell_damage(since))
        return tuple(filter(None, found))

    def _spend(self, start: float) -> None:
        """Count the time since ``start`` as reading time.

        Raises:
            LimitExceeded: Reading takes too long for what comes of it.
        """
        self._spent_s += time.perf_counter() - start
        limit_s = self._reading.limits.max_decode_seconds
        if not self._reading.endless and self._spent_s - self._spent_before_s > limit_s:
            found = f"reading {_PROGRESS_S:g} s of it takes longer than the limit of {limit_s:g} s"
            raise LimitExceeded(found, "max_decode_seconds")


def _gave(track: SoundTrack | SightTrack) -> bool:
    return track.heard if isinstance(track, SoundTrack) else track.decoded > 0
