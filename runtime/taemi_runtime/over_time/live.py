"""From what ``--live`` says to a source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.errors import UsageError
from taemi_runtime.over_time.clock import Clock
from taemi_runtime.over_time.named import NamedSource, format_and_url, stands
from taemi_runtime.over_time.pcm import DescriptorStream, PcmFormat, PcmSource
from taemi_runtime.over_time.sources import FileSource, Source

STDIN = "-"


def check_live(name: str) -> None:
    """Refuse a source that cannot be one, before anything is opened.

    Raises:
        MediaError: It is no file, device, URL or format.
    """
    if name != STDIN:
        format_and_url(name)


def open_live(
    name: str,
    decoder: ClipDecoder,
    *,
    pcm: PcmFormat | None = None,
    options: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> Source:
    """Return a source that is played at its own pace.

    Args:
        name: An ordinary file; ``-`` for raw PCM on stdin; else what FFmpeg is asked to open.
        decoder: The detector, the limits and what the model takes.
        pcm: What the raw samples are.
        options: Options for FFmpeg, for what it opens by name.
        clock: What tells the time.

    Raises:
        UsageError: Options were given that the source does not take.
        MediaError: There is no such source.
    """
    if name == STDIN:
        if options:
            raise UsageError(
                "cannot give options to stdin", f"--live-option {', '.join(options)}", "Leave them out"
            )
        return PcmSource(
            DescriptorStream(sys.stdin.fileno()),
            pcm or PcmFormat(),
            decoder.preprocessing.audio.rate_hz,
            clock,
        )
    if pcm is not None:
        raise UsageError(f"cannot read {name} as raw samples", "they are read from stdin", "Give --live -")
    if stands(name) and Path(name).is_file():
        if options:
            raise UsageError(
                f"cannot give options to the file {name}",
                f"--live-option {', '.join(options)}",
                "Leave them out",
            )
        return FileSource(Path(name), decoder, live=True)
    return NamedSource(name, decoder, options, clock)
