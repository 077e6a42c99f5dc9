"""A clip's sound in windows for a recogniser, read in a pass of its own.

The pass for the encoders stops after the seconds that they use; this one goes on to its own limit, and
is made only for clips whose transcript is to be recognised. It decodes nothing but sound and holds one
window at a time, so that memory depends neither on the clip's length nor on the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from taemi_runtime.asr.recogniser import RATE_HZ, WINDOW_S
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.media import open_sound
from taemi_runtime.opening import refusal
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing
from taemi_runtime.sound import AudioTrack

# A full window is cut where this last part of it is quietest, so that no word is cut in two.
_CUT_WITHIN_S = 5.0
_CUT_S = 0.1
# Tracks of a file are stored side by side, with at most a few seconds between them.
_INTERLEAVED_S = 10.0


class SoundWindows:
    """The beginning of a clip's sound, window by window.

    Args:
        path: A local media file.
        seconds: How much of the clip is listened to.
        limits: What the file may ask for.

    Attributes:
        why: Why there was nothing to listen to; known after the iteration.
        truncated: Whether the sound goes on after what was listened to; known after the iteration.
    """

    def __init__(self, path: Path, seconds: float, limits: DecodeLimits | None = None) -> None:
        self._path = path
        self._seconds = seconds
        self._limits = limits or DecodeLimits()
        self.why = ""
        self.truncated = False

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield [samples], float32, mono, 16 kHz, full scale 1, at most 30 s each.

        Raises:
            MediaError: The file is missing, no media file, or goes beyond a limit.
        """
        try:
            yield from self._windows()
        except LimitExceeded as exceeded:
            raise refusal(self._path, exceeded.found, exceeded.fix) from exceeded

    def _windows(self) -> Iterator[npt.NDArray[np.float32]]:
        audio = AudioPreprocessing(rate_hz=RATE_HZ, max_seconds=self._seconds)
        container, track = open_sound(self._path, replace(Preprocessing(), audio=audio), self._limits)
        with container:
            if isinstance(track, str):
                self.why = track
                return
            held: list[npt.NDArray[np.float32]] = []
            size = 0
            for part in self._parts(container, track):
                # What a float format holds beside numbers counts as silence.
                held.append(np.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0))
                size += part.size
                while size >= WINDOW_S * RATE_HZ:
                    joined = np.concatenate(held)
                    cut = _quietest(joined)
                    yield joined[:cut]
                    held, size = [joined[cut:].copy()], size - cut
            self.truncated = track.truncated
            if size:
                yield np.concatenate(held)
            if not track.heard:
                self.why = "nothing of the audio track can be decoded"

    def _parts(self, container: InputContainer, track: AudioTrack) -> Iterator[npt.NDArray[np.float32]]:
        packets = container.demux()
        deadline = self._limits.deadline()
        while not track.truncated:
            deadline.check()
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, IndexError):
                break  # What is wrong with the file is said by the pass for the encoders.
            if packet is None:
                break
            if packet.stream.index == track.index:
                track.take(packet)
                part = track.drain()
                if part.size:
                    yield part
            elif packet.dts is not None and packet.time_base is not None:
                past_s = float(packet.dts * packet.time_base) - track.start_s
                if past_s > self._seconds + _INTERLEAVED_S:
                    break
        if not track.truncated:
            track.take(None)
        rest = track.waveform()
        if rest is not None and rest.size:
            yield rest


def _quietest(samples: npt.NDArray[np.float32]) -> int:
    """Return where to cut the first window of ``samples``: an index of at most 30 s."""
    size = round(_CUT_S * RATE_HZ)
    end = round(WINDOW_S * RATE_HZ)
    blocks = samples[end - round(_CUT_WITHIN_S * RATE_HZ) : end].reshape(-1, size)
    energies = np.einsum("ij,ij->i", blocks, blocks)
    # The last of equally quiet places, so that silence is cut into as few windows as can be.
    last = len(blocks) - 1 - int(np.argmin(energies[::-1]))
    return end - (len(blocks) - last) * size + size // 2
