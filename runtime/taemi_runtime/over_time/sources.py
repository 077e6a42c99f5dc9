"""What can be read over time, and files among it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import av

from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.limits import LimitExceeded
from taemi_runtime.opening import open_media, refusal, riff_share, video_streams
from taemi_runtime.over_time.events import Event
from taemi_runtime.over_time.stream import MediaStream, Reading


class Source(Protocol):
    """Gives events.

    Attributes:
        name: What results and messages call it.
        lead_s: How far ahead of its own pace it may run where it is played live, in seconds.
        seconds: Its length as it says; 0 where it does not, or is not open yet.
    """

    name: str
    lead_s: float
    seconds: float

    def events(self, has_time: Callable[[], bool], stop: threading.Event) -> Iterator[Event]:
        """Open the source and yield what it gives until it ends.

        Args:
            has_time: Asked before each frame is looked at; where it says no, the frame is left out.
            stop: Set when nobody wants more; waiting ends then.

        Raises:
            MediaError: It cannot be opened or read, or goes beyond a limit.
        """


class FileSource:
    """A local media file, from its beginning to its end.

    Args:
        path: The file.
        decoder: The detector, the limits and what the model takes.
        live: Whether it is played at its own pace.
    """

    lead_s = 0.0

    def __init__(self, path: Path, decoder: ClipDecoder, *, live: bool = False) -> None:
        self._live = live
        self.name = str(path)
        self.seconds = 0.0
        self._path = path
        # With a detector of its own: this one works in another thread.
        self._decoder = replace(decoder)

    def events(self, has_time: Callable[[], bool], stop: threading.Event) -> Iterator[Event]:
        """Yield what the file holds.

        Raises:
            MediaError: It is no readable media, or goes beyond a limit.
        """
        del stop
        decoder, path = self._decoder, self._path
        try:
            with open_media(path, decoder.limits) as container:
                if not (container.streams.audio or video_streams(container)):
                    raise refusal(path, "it has neither an audio nor a video track")
                self.seconds = (container.duration or 0) / av.time_base
                share = riff_share(path)
                reading = Reading(
                    decoder.preprocessing,
                    decoder.detector,
                    decoder.limits,
                    share,
                    live=self._live,
                    has_time=has_time,
                )
                stream = MediaStream(container, reading)
                yield from stream
                if not stream.decoded:
                    raise refusal(path, "; ".join([*stream.reasons, *stream.lost]))
        except LimitExceeded as exceeded:
            raise refusal(path, exceeded.found, exceeded.fix) from exceeded
