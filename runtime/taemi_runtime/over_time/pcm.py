"""Raw samples from a pipe, as a microphone's recorder writes them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import av
import numpy as np
import numpy.typing as npt

from taemi_runtime.errors import UsageError
from taemi_runtime.over_time.breaks import BREAK_S
from taemi_runtime.over_time.clock import Clock, WallClock
from taemi_runtime.over_time.events import Begins, Ends, Event, Reached, Sound

# FFmpeg's names, without its "pcm_"; numpy's types; what full scale is.
_FORMATS = {"s16le": ("<i2", 32_768.0), "s32le": ("<i4", 2_147_483_648.0), "f32le": ("<f4", 1.0)}
_RATES_HZ = (1_000, 1_000_000)
# Read at a time, in seconds.
_BLOCK_S = 0.1


@dataclass(frozen=True)
class PcmFormat:
    """What raw samples are: one channel, without a header.

    Args:
        name: ``s16le``, ``s32le`` or ``f32le``.
        rate_hz: Samples a second.

    Raises:
        UsageError: The format is not known, or the rate makes no sense.
    """

    name: str = "s16le"
    rate_hz: int = 16_000

    def __post_init__(self) -> None:
        if self.name not in _FORMATS or not _RATES_HZ[0] <= self.rate_hz <= _RATES_HZ[1]:
            raise _refusal(f"{self.name}:{self.rate_hz}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``FORMAT:RATE``, such as ``s16le:16000``.

        Raises:
            UsageError: It is not of that form.
        """
        name, _, rate = text.partition(":")
        if not rate.isascii() or not rate.isdigit():
            raise _refusal(text)
        return cls(name, int(rate))

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample."""
        return np.dtype(_FORMATS[self.name][0]).itemsize

    def samples(self, content: bytes) -> npt.NDArray[np.float32]:
        """Return [samples], float32, full scale 1."""
        dtype, full = _FORMATS[self.name]
        return (np.frombuffer(content, dtype) / np.float64(full)).astype(np.float32)


def _refusal(text: str) -> UsageError:
    return UsageError(
        f"cannot read raw samples as {text}",
        f"expected FORMAT:RATE with {', '.join(_FORMATS)} and {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz",
        "For 16-bit samples at 16 kHz give --live-pcm s16le:16000",
    )


class Readable(Protocol):
    """A binary stream that hands out what is there."""

    def read1(self, size: int, /) -> bytes:
        """Return up to so many bytes, as soon as there are any; none at the end."""


class DescriptorStream:
    """A file descriptor as such a stream, e.g. 0 for stdin: no buffer between, which would have to be full.

    Args:
        descriptor: Its number.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read1(self, size: int, /) -> bytes:
        """Return what is there."""
        return os.read(self._descriptor, size)


class PcmSource:
    """Raw samples of one channel, without timestamps: sample n is n / rate seconds after the first.

    Where a read waits for longer than a break, the writer had stopped: a stretch ends, and the next one
    begins when samples come again.

    Args:
        stream: The pipe.
        form: What the samples are.
        rate_hz: The model's sampling rate.
        clock: What tells the time.
    """

    name = "-"
    # What is piped in faster than it was recorded is held back to its own pace.
    lead_s = 0.0
    seconds = 0.0

    def __init__(self, stream: Readable, form: PcmFormat, rate_hz: int, clock: Clock | None = None) -> None:
        self._stream = stream
        self._form = form
        self._rate_hz = rate_hz
        self._clock = clock or WallClock()

    def events(self, has_time: Callable[[], bool], stop: threading.Event) -> Iterator[Event]:
        """Yield the samples until the pipe is closed."""
        del has_time
        begins = Begins(0.0, sight_why="raw PCM has no video track")
        start_s: float | None = None
        rest = b""
        count = bad = 0
        resampler = self._resampler()
        yield begins
        while not stop.is_set():
            asked_s = self._clock.now_s()
            content = self._stream.read1(round(_BLOCK_S * self._form.rate_hz) * self._form.sample_bytes)
            now_s = self._clock.now_s()
            if start_s is None:
                start_s = now_s
            if not content:
                break
            if count and now_s - asked_s > BREAK_S:
                yield from self._finish(resampler, count, bad)
                gap_s = now_s - asked_s
                why = f"nothing came for {gap_s:.1f} s"
                begins = Begins(now_s - start_s, gap_s, why, sight_why=begins.sight_why)
                rest, count, bad, resampler = b"", 0, 0, self._resampler()
                yield begins
            content = rest + content
            whole = len(content) - len(content) % self._form.sample_bytes
            rest = content[whole:]
            samples = self._form.samples(content[:whole])
            wrong = ~np.isfinite(samples)
            bad += int(wrong.sum())
            samples[wrong] = 0.0
            for piece in self._resample(resampler, samples):
                count += piece.size
                yield Sound(piece.size, piece)
            reached_s = count / self._rate_hz
            yield Reached(reached_s, math.inf, 0.0)
        yield from self._finish(resampler, count, bad)

    def _finish(self, resampler: av.AudioResampler | None, count: int, bad: int) -> Iterator[Event]:
        if resampler is not None:
            for frame in resampler.resample(None):
                if frame is not None:
                    count += frame.samples
                    yield Sound(frame.samples, frame.to_ndarray()[0])
        warnings = (f"{bad} samples are NaN or infinite and count as silence",) if bad else ()
        yield Ends(count / self._rate_hz, 0.0, warnings)

    def _resampler(self) -> av.AudioResampler | None:
        if self._form.rate_hz == self._rate_hz:
            return None
        return av.AudioResampler(format="fltp", layout="mono", rate=self._rate_hz)

    def _resample(
        self, resampler: av.AudioResampler | None, samples: npt.NDArray[np.float32]
    ) -> list[npt.NDArray[np.float32]]:
        if resampler is None or not samples.size:
            return [samples] if samples.size else []
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = self._form.rate_hz
        return [part.to_ndarray()[0] for part in resampler.resample(frame)]
