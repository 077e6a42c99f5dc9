"""How much a media file may ask for before it is refused.

A file of a few bytes can claim frames of gigabytes, thousands of streams or weeks of material. What a
file claims is compared with these limits before anything is allocated for it, and what it turns out
to hold is compared again as it is decoded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

from taemi_runtime.errors import UsageError


class LimitExceeded(Exception):  # noqa: N818 - not an error by itself: whoever knows the file makes it one
    """A file goes beyond a limit.

    Args:
        found: What was met, with both values.
        name: The field of [DecodeLimits][] that it exceeds.
    """

    def __init__(self, found: str, name: str) -> None:
        super().__init__(found)
        self.found = found
        self.fix = f"If you trust the file, raise the limit: --{name.replace('_', '-')} ({name} in Python)"


@dataclass(frozen=True)
class DecodeLimits:
    """What a media file may ask for.

    Args:
        max_pixels: Width times height of a frame; the default takes 8K cinema frames (8192 x 4320).
        max_streams: Tracks of a file, subtitles and attached fonts included.
        max_seconds: Length that a file claims or its timestamps reach; a day by default.
        max_decode_seconds: Wall time that reading the file may take; a tenth of it for any one packet.

    Raises:
        UsageError: A limit is not above 0.
    """

    max_pixels: int = 36_000_000
    max_streams: int = 128
    max_seconds: float = 86_400.0
    max_decode_seconds: float = 120.0

    def __post_init__(self) -> None:
        for item in fields(self):
            limit = getattr(self, item.name)
            if not limit > 0:
                raise UsageError(
                    f"cannot limit decoding by {item.name} {limit}",
                    "a limit is a number above 0",
                    f"Give --{item.name.replace('_', '-')} above 0",
                )

    def check_frame(self, width: int, height: int) -> None:
        """Refuse a frame size, in pixels.

        Raises:
            LimitExceeded: The frame is larger than ``max_pixels``.
        """
        if width * height > self.max_pixels:
            found = f"its frames have {width} x {height} pixels, more than the limit of {self.max_pixels:,}"
            raise LimitExceeded(found, "max_pixels")

    def check_streams(self, count: int) -> None:
        """Refuse a number of streams.

        Raises:
            LimitExceeded: There are more than ``max_streams``.
        """
        if count > self.max_streams:
            raise LimitExceeded(f"it has more than {self.max_streams} streams", "max_streams")

    def check_length(self, seconds: float) -> None:
        """Refuse a length, in seconds.

        Raises:
            LimitExceeded: It is beyond ``max_seconds``.
        """
        if seconds > self.max_seconds:
            found = f"it claims to last {seconds:,.0f} s, more than the limit of {self.max_seconds:,.15g} s"
            raise LimitExceeded(found, "max_seconds")

    @property
    def max_stall_seconds(self) -> float:
        """How long a reader may look for the next packet, in seconds: long enough for any slow disk."""
        return self.max_decode_seconds / 10

    def deadline(self) -> Deadline:
        """Return the deadline of a file whose reading starts now."""
        return Deadline(self.max_decode_seconds)


class Deadline:
    """When reading a file must be over.

    Args:
        seconds: Seconds from now.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Refuse to go on too late.

        Raises:
            LimitExceeded: The time is over.
        """
        if time.monotonic() > self._end:
            found = f"reading it takes longer than the limit of {self._seconds:g} s"
            raise LimitExceeded(found, "max_decode_seconds")
