"""From a media file to a waveform and a stack of frames, in one pass over the file.

The ordinary containers are read, with every codec that PyAV's FFmpeg decodes, from local files only.
The beginning of the clip is used: decoding stops as soon as there is as much audio and as many frames
as the model takes, and memory does not grow with the clip's length.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from taemi_runtime.errors import MediaError
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.tracks import AudioTrack, Track, VideoTrack

# Containers of recorded clips. Everything else that FFmpeg knows stays shut: playlists and scripts,
# which make it open further files, text that it would draw on a screen, and picture sequences.
_CONTAINERS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,dv,eac3,flac,flv,ivf,matroska,mov,mp3,mpeg,mpegts,mxf,nut,ogg,rm,w64,wav"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
_FIX = "Give a video or audio file, such as mp4, mkv, webm, mov, wav or mp3"
# A file that ends this long before it says it does is reported as broken off, in seconds.
_BROKEN_OFF_S = 0.5


@dataclass(frozen=True)
class Clip:
    """The beginning of a media file, as much as the model uses of it.

    Args:
        path: The file.
        seconds: The clip's length as its container says; as far as it was read where it does not say.
        waveform: [samples], float32, mono, full scale 1, not normalised, at most ``max_samples``; sample 0
            is the clip's beginning. ``None`` without usable audio.
        frames: [frames, 3, height, width], uint8 RGB, at most ``max_frames``. ``None`` without usable video.
        audio_seconds: Length of ``waveform``.
        vision_seconds: The time that ``frames`` stand for.
        audio_truncated: Whether the audio goes on after ``waveform``.
        vision_truncated: Whether the video goes on after ``frames``.
        audio_why: Why there is no waveform; empty when there is one.
        vision_why: Why there are no frames; empty when there are.
        warnings: What was wrong with the file though it could be read.
    """

    path: Path
    seconds: float
    waveform: npt.NDArray[np.float32] | None
    frames: npt.NDArray[np.uint8] | None
    audio_seconds: float
    vision_seconds: float
    audio_truncated: bool
    vision_truncated: bool
    audio_why: str
    vision_why: str
    warnings: tuple[str, ...]


def read_clip(path: Path, preprocessing: Preprocessing, *, audio: bool = True, vision: bool = True) -> Clip:
    """Read the beginning of a clip.

    Args:
        path: A local media file.
        preprocessing: How much is used of it, at which rate and size.
        audio: Whether the audio track is read.
        vision: Whether the video track is read.

    Returns:
        The clip. A track that is missing or holds nothing that can be decoded leaves its part ``None``
        with the reason beside it.

    Raises:
        MediaError: The file is missing, no media file, has neither track, or nothing of the tracks that
            were asked for can be decoded.
    """
    with _open(path) as container:
        if not (container.streams.audio or _video_streams(container)):
            raise _refusal(path, "it has neither an audio nor a video track")
        start_s = (container.start_time or 0) / av.time_base
        sound = _audio_track(container, preprocessing, start_s) if audio else "audio was not asked for"
        sight = _video_track(container, preprocessing, start_s) if vision else "video was not asked for"
        tracks: list[Track] = [track for track in (sound, sight) if isinstance(track, Track)]
        warnings = _read(container, tracks)
        seconds = (container.duration or 0) / av.time_base
    waveform = sound.waveform() if isinstance(sound, AudioTrack) else None
    frames = sight.frames() if isinstance(sight, VideoTrack) else None
    audio_why = _why(sound) if waveform is None else ""
    vision_why = _why(sight) if frames is None else ""
    if tracks and waveform is None and frames is None:
        reasons = [_why(track) for track in tracks]
        raise _refusal(path, "; ".join([*reasons, *warnings]))
    if waveform is not None:
        warnings += _silence_bad_samples(waveform)
    return Clip(
        path=path,
        seconds=seconds if seconds > 0 else max((track.reached_s for track in tracks), default=0.0),
        waveform=waveform,
        frames=frames,
        audio_seconds=0.0 if waveform is None else waveform.size / preprocessing.audio.rate_hz,
        vision_seconds=sight.seconds if isinstance(sight, VideoTrack) else 0.0,
        audio_truncated=isinstance(sound, AudioTrack) and sound.truncated,
        vision_truncated=isinstance(sight, VideoTrack) and sight.truncated,
        audio_why=audio_why,
        vision_why=vision_why,
        warnings=tuple(warnings),
    )


def _refusal(path: Path, found: str) -> MediaError:
    return MediaError(f"cannot read {path} as media", found, _FIX)


def _open(path: Path) -> InputContainer:
    if path.is_dir():
        raise _refusal(path, "it is a folder")
    if not path.is_file():
        raise _refusal(path, "it is no ordinary file" if path.exists() else "there is no such file")
    if path.stat().st_size == 0:
        raise _refusal(path, "the file is empty (0 bytes)")
    try:
        # An absolute path: FFmpeg would take the start of a name such as "data:clip.mp4" for a protocol.
        return av.open(str(path.absolute()), "r", container_options=_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise _refusal(path, _what_opening_found(path, error)) from error


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


def _video_streams(container: InputContainer) -> list[VideoStream]:
    # A cover picture is no video, though containers file it as a video track of one frame.
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _audio_track(container: InputContainer, preprocessing: Preprocessing, start_s: float) -> AudioTrack | str:
    """Return the audio track to read, or why there is none."""
    streams = container.streams.audio
    if not streams:
        return "the clip has no audio track"
    best = container.streams.best("audio")
    stream = best if isinstance(best, AudioStream) else streams[0]
    if not _has_decoder(stream):
        return "the audio track's codec is not known here"
    return AudioTrack(stream, preprocessing.audio, start_s)


def _video_track(container: InputContainer, preprocessing: Preprocessing, start_s: float) -> VideoTrack | str:
    """Return the video track to read, or why there is none."""
    streams = _video_streams(container)
    if not streams:
        cover = "only a cover picture" if container.streams.video else ""
        return "the clip has no video track" + (f", {cover}" if cover else "")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if not _has_decoder(stream):
        return "the video track's codec is not known here"
    return VideoTrack(stream, preprocessing.vision, start_s)


def _has_decoder(stream: AudioStream | VideoStream) -> bool:
    # PyAV gives no codec context where FFmpeg has no decoder, whatever its annotations say.
    return getattr(stream, "codec_context", None) is not None


def _read(container: InputContainer, tracks: list[Track]) -> list[str]:
    """Feed the tracks until all are full or the file ends, and say what was wrong with it."""
    if not tracks:
        return []
    warnings = []
    by_index = {track.index: track for track in tracks}
    packets = container.demux(*(container.streams[index] for index in by_index))
    while not all(track.truncated for track in tracks):
        broken = ""
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            packet, broken = None, error.strerror or str(error)
        except IndexError:
            # PyAV stumbles at the end of a file over tracks that appeared midway, as in damaged mpegts.
            packet = None
        if packet is not None:
            by_index[packet.stream.index].take(packet)
            continue
        for track in tracks:
            track.take(None)
        reached_s = max(track.reached_s for track in tracks)
        expected_s = _expected_s(container, by_index)
        if broken:
            warnings.append(f"the file breaks off after {reached_s:.2f} s: {broken}")
        elif reached_s < expected_s - _BROKEN_OFF_S:
            warnings.append(f"the file ends after {reached_s:.2f} s of {expected_s:.2f} s")
        break
    warnings += [
        f"{track.damaged} damaged packets of the {track.name} were skipped or patched"
        for track in tracks
        if track.damaged
    ]
    return warnings


def _expected_s(container: InputContainer, by_index: dict[int, Track]) -> float:
    """Return how far the tracks that are read should reach, in seconds; 0 where the file does not say."""
    lengths = [
        float(stream.duration * stream.time_base)
        for stream in (container.streams[index] for index in by_index)
        if stream.duration and stream.time_base
    ]
    if not lengths and len(by_index) == len(container.streams):
        return (container.duration or 0) / av.time_base
    return max(lengths, default=0.0)


def _why(track: Track | str) -> str:
    if isinstance(track, str):
        return track
    if isinstance(track, AudioTrack) and track.begins_too_late:
        return "the audio track begins after the part of the clip that is used"
    return f"nothing of the {track.name} can be decoded"


def _silence_bad_samples(waveform: npt.NDArray[np.float32]) -> list[str]:
    """Replace NaN and infinite samples, which float formats can hold, by silence in place."""
    bad = ~np.isfinite(waveform)
    if not bad.any():
        return []
    waveform[bad] = 0.0
    return [f"{int(bad.sum())} samples of the audio track are NaN or infinite and count as silence"]
