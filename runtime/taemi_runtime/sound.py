"""An audio track, decoded packet by packet into just as much of a waveform as the model uses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream

from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.tracks import Track

# Silence is put where a frame comes this much after the end of the one before: timestamps of whole
# recordings are jagged by tens of milliseconds, those beside damage say how much is missing.
_GAP_S = 0.1
_GAP_BESIDE_DAMAGE_S = 0.01
# Sampling rates that make sense, in Hz. From others a resampler would make gigabytes of one packet.
_RATES_HZ = (1_000, 1_000_000)


class AudioTrack(Track):
    """An audio track on its way to a mono waveform.

    Every sampling rate and channel layout is taken; channels are averaged. Silence stands where the
    timestamps leave a gap: before the first frame, so that sample 0 is the clip's beginning, and later.

    Args:
        stream: The stream of an open container.
        preprocessing: Rate and longest length.
        start_s: The container's start on the axis of its timestamps, in seconds.
        claimed_s: The clip's length as its container says, in seconds; 0 where it does not. Timestamps
            beyond it are damaged, and leave no gap.

    Attributes:
        longest_s: How much is kept at most, in seconds.
        heard: Whether anything was decoded.
    """

    def __init__(
        self, stream: AudioStream, preprocessing: AudioPreprocessing, start_s: float, claimed_s: float = 0.0
    ) -> None:
        super().__init__("audio track", stream.index, start_s)
        self._stream = stream
        self._rate_hz = preprocessing.rate_hz
        self._room = preprocessing.max_samples
        self.longest_s = preprocessing.max_seconds
        self._latest_s = claimed_s + 1.0 if claimed_s > 0 else float("inf")
        self._resampler: AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None
        self._parts: list[npt.NDArray[np.float32]] = []
        self.heard = False
        self._end_s: float | None = None
        self._damaged_before = 0

    def waveform(self) -> npt.NDArray[np.float32] | None:
        """Return [samples], float32, full scale 1; ``None`` when nothing was decoded."""
        if not self.truncated:
            self._resample(None)
        return np.concatenate(self._parts) if self.heard and self._parts else None

    def whole(self) -> npt.NDArray[np.float32] | None:
        """Return a copy of what ``waveform`` will give, once nothing that comes can change it."""
        return np.concatenate(self._parts) if self._room == 0 and self.heard else None

    def drain(self) -> npt.NDArray[np.float32]:
        """Return [samples] that came since the last call, and forget them."""
        parts, self._parts = self._parts, []
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    @property
    def begins_too_late(self) -> bool:
        """Whether the track's first sample lies after everything that is used of a clip."""
        return self.truncated and not self.heard

    def _decode(self, packet: Packet[Stream] | None) -> None:
        for frame in self._stream.decode(packet):
            if not _RATES_HZ[0] <= frame.sample_rate <= _RATES_HZ[1]:
                self.damaged += 1
                continue
            self._fill_gap(frame)
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

    def _fill_gap(self, frame: AudioFrame) -> None:
        """Put silence before a frame that comes late, and note where it ends."""
        time_s = None if frame.time is None else frame.time - self.start_s
        first = self._end_s is None
        end_s = self._end_s if self._end_s is not None else min(time_s or 0.0, 0.0)
        gap_s = 0.0 if time_s is None or time_s > self._latest_s else time_s - end_s
        smallest_s = _GAP_BESIDE_DAMAGE_S if self.damaged > self._damaged_before else _GAP_S
        if gap_s > (0.0 if first else smallest_s):
            self._append_silence(gap_s)
            end_s += gap_s
            if not first:
                self.gaps_s += gap_s
        self._damaged_before = self.damaged
        self._end_s = end_s + frame.samples / frame.sample_rate
        self.reached_s = max(self.reached_s, self._end_s)

    def _append_silence(self, seconds: float) -> None:
        # What the resampler still holds comes first; it starts anew after the silence.
        self._resample(None)
        self._resampler = self._source = None
        samples = min(round(min(seconds, self._room) * self._rate_hz), self._room)
        self._room -= samples
        self._parts.append(np.zeros(samples, dtype=np.float32))

    def _resample(self, frame: AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for resampled in self._resampler.resample(frame):
            # With nothing to convert, the resampler hands the closing None back as it is.
            if resampled is None or self._room == 0:
                continue
            part = resampled.to_ndarray().mean(axis=0, dtype=np.float32)[: self._room]
            self._room -= part.size
            self.heard = self.heard or part.size > 0
            self._parts.append(part)


def silence_bad_samples(waveform: npt.NDArray[np.float32]) -> list[str]:
    """Replace NaN and infinite samples, which float formats can hold, by silence in place, and say so."""
    bad = ~np.isfinite(waveform)
    if not bad.any():
        return []
    waveform[bad] = 0.0
    return [f"{int(bad.sum())} samples of the audio track are NaN or infinite and count as silence"]
