"""Opening a media file that nobody vouches for.

Only ordinary files are opened, only as containers of recorded clips and pictures, and first without any
decoder: FFmpeg's own look at a file would allocate frames before their size is compared with a limit.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from taemi_runtime.errors import MediaError
from taemi_runtime.limits import DecodeLimits, LimitExceeded

# Containers of recorded clips, and of single and moving pictures. Everything else that FFmpeg knows stays
# shut: playlists and scripts, which make it open further files, text that it would draw on a screen, and
# picture sequences, whose names it counts through.
_CONTAINERS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,dv,eac3,flac,flv,ivf,matroska,mov,mp3,mpeg,mpegts,mxf,nut,ogg,rm,w64,wav"
    ",gif,apng,bmp_pipe,jpeg_pipe,png_pipe,tiff_pipe,webp_pipe"
)
# Photographs are told by their first bytes: by its name FFmpeg takes one for the first picture of a sequence,
# whose other files it would look for.
_PHOTOGRAPHS = {b"\xff\xd8\xff": "jpeg_pipe", b"II*\0": "tiff_pipe", b"MM\0*": "tiff_pipe"}
# From here on a RIFF chunk's length is what programs write that do not know it yet.
_UNKNOWN_LENGTH = 0x7FF0_0000
# So many boxes of an mp4 are looked through for its movie header, which stands before or after the media.
_MOST_BOXES = 10_000
_FIX = "Give a video or audio file, such as mp4, mkv, webm, mov, wav or mp3"


def refusal(path: Path, found: str, fix: str = _FIX) -> MediaError:
    """Return the error for a file that cannot be read."""
    return MediaError(f"cannot read {path} as media", found, fix)


def open_media(path: Path, limits: DecodeLimits) -> InputContainer:
    """Open a media file and compare what it claims with the limits.

    Args:
        path: A local file.
        limits: What it may ask for.

    Returns:
        The open container, to be closed by the caller.

    Raises:
        MediaError: The file is missing, no ordinary file, or no media.
        LimitExceeded: It claims more than ``limits`` allow.
    """
    if path.is_dir():
        raise refusal(path, "it is a folder")
    # A pipe or a device would block or never end. Links are followed to what they name.
    if not path.is_file():
        raise refusal(path, _what_stands_there(path))
    if path.stat().st_size == 0:
        raise refusal(path, "the file is empty (0 bytes)")
    limits.check_length(_mp4_seconds(path))
    survey = _open(path, limits, decoders=False)
    with contextlib.ExitStack() as stack:
        stack.callback(survey.close)
        _check_claims(survey, limits)
        if any(has_decoder(video) and not video.codec_context.width for video in video_streams(survey)):
            # Only a decoder can tell how large the frames are, and only ours obeys the limit.
            stack.pop_all()
            return survey
    # What decoders find in the first packets makes the timestamps of some containers exact.
    container = _open(path, limits, decoders=True)
    with contextlib.ExitStack() as stack:
        stack.callback(container.close)
        _check_claims(container, limits)
        stack.pop_all()
    return container


def _open(path: Path, limits: DecodeLimits, *, decoders: bool) -> InputContainer:
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _CONTAINERS,
        # One more than allowed, so that too many can be told from just enough.
        "max_streams": str(limits.max_streams + 1),
        # FFmpeg's default, written down: tracks that lie in other files are never opened.
        "enable_drefs": "0",
    }
    if not decoders:
        options["codec_whitelist"] = "none"
    start = time.monotonic()
    try:
        # An absolute path: FFmpeg would take the start of a name such as "data:clip.mp4" for a protocol.
        return av.open(
            str(path.absolute()),
            "r",
            format=_photograph(path),
            options={"max_pixels": str(limits.max_pixels)},
            container_options=options,
            metadata_errors="replace",
            timeout=limits.max_stall_seconds,
        )
    except av.error.FFmpegError as error:
        # Cut short, some demuxers call the file damaged.
        if is_stalled(error) or time.monotonic() - start > limits.max_stall_seconds:
            raise LimitExceeded(tell_stall(limits), "max_decode_seconds") from error
        if error.errno == errno.ENOMEM:
            # The answer of most demuxers to a refused stream; they ask for little memory otherwise.
            limits.check_streams(limits.max_streams + 1)
        raise refusal(path, _what_opening_found(path, error)) from error


def _photograph(path: Path) -> str | None:
    """Return the name of FFmpeg's reader of such photographs; ``None`` for other files."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in _PHOTOGRAPHS.items() if head.startswith(magic)), None)


def riff_share(path: Path) -> float:
    """Return how much of a RIFF file (wav, avi) is there of what its header says, in (0, 1]; 1 for others.

    FFmpeg shortens such a file's length to what is there and does not say so.
    """
    with path.open("rb") as stream:
        head = stream.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] not in (b"WAVE", b"AVI "):
        return 1.0
    claimed = 8 + int.from_bytes(head[4:8], "little")
    return min(1.0, path.stat().st_size / claimed) if 8 < claimed < _UNKNOWN_LENGTH else 1.0


def is_stalled(error: av.error.FFmpegError) -> bool:
    """Return whether FFmpeg gave up because the next packet was too long in coming."""
    # The last two are what some demuxers make of the first.
    return isinstance(error, av.error.ExitError | av.error.BlockingIOError | av.error.TimeoutError)


def tell_stall(limits: DecodeLimits) -> str:
    """Return what was found where the next packet was too long in coming."""
    return f"nothing more was found in it for {limits.max_stall_seconds:g} s"


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams; a cover picture is none, though containers file it as one."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def has_decoder(stream: object) -> bool:
    """Return whether the codec of a stream is known here."""
    # PyAV gives no codec context where FFmpeg has no decoder, whatever its annotations say.
    return getattr(stream, "codec_context", None) is not None


def _check_claims(container: InputContainer, limits: DecodeLimits) -> None:
    limits.check_streams(len(container.streams))
    limits.check_length((container.duration or 0) / av.time_base)
    for stream in container.streams:
        if stream.duration and stream.time_base:
            limits.check_length(float(stream.duration * stream.time_base))
    for video in video_streams(container):
        if has_decoder(video):
            limits.check_frame(video.codec_context.width, video.codec_context.height)


def _mp4_seconds(path: Path) -> float:
    """Return how long the movie header of an mp4 claims the clip to be; 0 for files of other kinds.

    FFmpeg goes by the lengths of the samples where the two disagree (ISO/IEC 14496-12, 4.2 and 8.2.2).
    """
    end = path.stat().st_size
    with path.open("rb") as stream:
        for _ in range(_MOST_BOXES):
            start = stream.tell()
            size, kind = struct.unpack(">I4s", stream.read(8).ljust(8, b"\0"))
            if size == 1:
                size = int.from_bytes(stream.read(8), "big")
            if kind == b"mvhd":
                body = stream.read(32)
                # Version 1 has eight bytes for each time, version 0 has four; all ones is "unknown".
                wide = body[:1] == b"\1"
                scale, length = struct.unpack_from(
                    ">IQ" if wide else ">II", body.ljust(32, b"\0"), 20 if wide else 12
                )
                unknown = length == (2**64 if wide else 2**32) - 1
                return length / scale if scale and not unknown else 0.0
            if kind == b"moov":
                continue  # Its boxes follow at once.
            if size < 8 or start + size >= end:
                break
            stream.seek(start + size)
    return 0.0


def _what_stands_there(path: Path) -> str:
    if path.exists():
        return "it is no ordinary file"
    return "it is a link to nothing" if path.is_symlink() else "there is no such file"


def _what_opening_found(path: Path, error: av.error.FFmpegError) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, av.error.InvalidDataError):
        with path.open("rb") as stream:
            head = stream.read(12)
        if head[4:8] == b"ftyp":
            return f"its index is missing or damaged; the file may be incomplete ({reason})"
        return f"its content is no audio or video that is known here ({reason})"
    if error.errno == errno.EINVAL:
        # What FFmpeg answers where a container is not among those allowed.
        return "its content is no audio or video container"
    return reason
