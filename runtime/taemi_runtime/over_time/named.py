"""Live sources that FFmpeg opens by name: cameras, microphones, network streams, pipes.

Unlike a clip, such a source is opened with every protocol and device that the installed FFmpeg knows: to name
it is the user's consent. Sizes and numbers of streams stay limited, and every wait has an end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.format import ContainerFormat

from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.errors import MediaError
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.opening import has_decoder, is_stalled, tell_stall, video_streams
from taemi_runtime.over_time.clock import Clock, WallClock
from taemi_runtime.over_time.events import Event
from taemi_runtime.over_time.stream import MediaStream, Reading

# A source that stopped is asked again after so many seconds, doubled up to the longest wait, until it was
# gone for so long.
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0
GIVE_UP_S = 60.0
# Video4Linux's devices, which FFmpeg takes for files unless their format is said.
_CAMERA = re.compile(r"/dev/video\d+")
_FIX = (
    "--live takes a file, a URL such as rtsp://HOST/PATH, a camera such as /dev/video0, FORMAT:NAME such as "
    "alsa:default, or - for raw PCM on stdin"
)


class NamedSource:
    """A device or stream, which may stop and return.

    Args:
        name: A URL, a device, or ``FORMAT:NAME`` with the name of an FFmpeg input format.
        decoder: The detector, the limits and what the model takes.
        options: Options for FFmpeg, e.g. ``{"framerate": "30"}``.
        clock: What tells the time.

    Raises:
        MediaError: The name is no URL, no format, and nothing stands there.
    """

    # Sources that could run ahead, a file behind a URL for one, are held back to this; others never wait.
    lead_s = 0.5
    seconds = 0.0

    def __init__(
        self,
        name: str,
        decoder: ClipDecoder,
        options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        # With a detector of its own: this one works in another thread.
        self._decoder = replace(decoder)
        self._options = dict(options or {})
        self._clock = clock or WallClock()
        self._format, self._url = format_and_url(name)

    def events(self, has_time: Callable[[], bool], stop: threading.Event) -> Iterator[Event]:
        """Yield what the source gives, again after it stopped, until it ends or stays away.

        Raises:
            MediaError: It cannot be opened, stayed away for a minute, or goes beyond a limit.
        """
        start_s: float | None = None
        gone_s = self._clock.now_s()
        ends_s = 0.0
        reading = Reading(
            self._decoder.preprocessing,
            self._decoder.detector,
            self._decoder.limits,
            endless=True,
            live=True,
            has_time=has_time,
            now_s=self._clock.now_s,
        )
        came, why, wait_s = False, "", _FIRST_WAIT_S
        while not stop.is_set():
            try:
                with self._open() as container:
                    now_s = self._clock.now_s()
                    start_s = now_s if start_s is None else start_s
                    # The first stretch begins at 0, those after a stop where the clock is.
                    at_s = max(now_s - start_s, ends_s)
                    stream = MediaStream(container, reading, at_s, at_s - ends_s, why)
                    yield from stream
                    ends_s = max(ends_s, stream.ends_s)
                    ended = bool(container.duration) and not stream.broken
            except LimitExceeded as exceeded:
                raise MediaError(f"cannot read {self.name}", exceeded.found, exceeded.fix) from exceeded
            except av.error.FFmpegError as error:
                if not came:
                    raise self._refusal(error) from error
                found = self._tell(error)
            else:
                if ended:
                    return
                found = stream.broken or "it ended"
                if stream.decoded:
                    came, wait_s, gone_s = True, _FIRST_WAIT_S, self._clock.now_s()
                elif not came:
                    reasons = "; ".join(stream.reasons)
                    raise MediaError(f"cannot read {self.name}", f"{found}: {reasons}", _FIX)
            why = f"the source stopped ({found}) and came back"
            if self._clock.now_s() - gone_s >= GIVE_UP_S:
                raise MediaError(
                    f"cannot go on reading {self.name}",
                    f"it stopped ({found}) and did not come back for {GIVE_UP_S:g} s",
                    "Start it again",
                )
            self._clock.wait(wait_s, stop)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _open(self) -> InputContainer:
        limits = self._decoder.limits
        container = av.open(
            self._url,
            "r",
            format=self._format,
            options={"max_pixels": str(limits.max_pixels), **self._options},
            container_options={"max_streams": str(limits.max_streams + 1), **self._options},
            metadata_errors="replace",
            timeout=limits.max_stall_seconds,
        )
        try:
            _check(container, limits)
        except BaseException:
            container.close()
            raise
        return container

    def _refusal(self, error: av.error.FFmpegError) -> MediaError:
        return MediaError(f"cannot open {self.name}", self._tell(error), _FIX)

    def _tell(self, error: av.error.FFmpegError) -> str:
        stalled = is_stalled(error)
        return tell_stall(self._decoder.limits) if stalled else error.strerror or str(error)


def _check(container: InputContainer, limits: DecodeLimits) -> None:
    limits.check_streams(len(container.streams))
    for video in video_streams(container):
        if has_decoder(video):
            limits.check_frame(video.codec_context.width, video.codec_context.height)


def format_and_url(name: str) -> tuple[str | None, str]:
    """Return the input format that a source's name asks for, if it does, and what FFmpeg is to open.

    Raises:
        MediaError: It is no URL, no format, and nothing stands there.
    """
    if "://" in name:
        return None, name
    if _CAMERA.fullmatch(name):
        return "v4l2", name
    if stands(name):
        if Path(name).is_dir():
            raise MediaError(f"cannot open {name or 'a source without a name'}", "it is a folder", _FIX)
        return None, str(Path(name).absolute())
    before, colon, after = name.partition(":")
    if colon and after and _is_format(before):
        return before, after
    found = f"{before} is no input format of FFmpeg" if colon else "there is no such file or device"
    raise MediaError(f"cannot open {name}", found, _FIX)


def stands(name: str) -> bool:
    """Return whether a name is the path of anything; names of sources may be no paths at all."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _is_format(name: str) -> bool:
    try:
        return ContainerFormat(name, "r").is_input
    except ValueError:
        return False
