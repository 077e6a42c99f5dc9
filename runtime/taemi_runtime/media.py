"""From a media file to a waveform and a stack of frames, in one pass over the file.

The ordinary containers are read, with every codec that PyAV's FFmpeg decodes, from local files only.
The beginning of the clip is used: decoding stops as soon as there is as much audio and as many frames
as the model takes, and memory does not grow with the clip's length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from taemi_runtime.faces.choice import open_detector
from taemi_runtime.faces.crops import FaceCounts
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.opening import (
    has_decoder,
    is_stalled,
    open_media,
    refusal,
    riff_share,
    tell_stall,
    video_streams,
)
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.remarks import tell_damage, tell_what_is_left_out
from taemi_runtime.sound import AudioTrack, silence_bad_samples
from taemi_runtime.tracks import Track, VideoTrack

Watch = Callable[[AudioTrack | str, VideoTrack | str], None]
"""Is shown a clip's tracks while they are read, or why there is none of a kind."""

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
        frames: [frames, 3, height, width], uint8 RGB, at most ``max_frames``. ``None`` without usable video,
            or where faces are cut out and none was found.
        audio_seconds: Length of ``waveform``.
        vision_seconds: The time that ``frames`` stand for.
        audio_truncated: Whether the audio goes on after ``waveform``.
        vision_truncated: Whether the video goes on after ``frames``.
        audio_why: Why there is no waveform; empty when there is one.
        vision_why: Why there are no frames; empty when there are.
        warnings: What was wrong with the file though it could be read, and what of it was left out.
        faces: What looking for faces found; ``None`` where nobody looked.
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
    faces: FaceCounts | None = None


def read_clip(
    path: Path,
    preprocessing: Preprocessing,
    *,
    audio: bool = True,
    vision: bool = True,
    detector: FaceDetector | None = None,
    limits: DecodeLimits | None = None,
    watch: Watch | None = None,
) -> Clip:
    """Read the beginning of a clip.

    Args:
        path: A local media file.
        preprocessing: How much is used of it, at which rate and size.
        audio: Whether the audio track is read.
        vision: Whether the video track is read.
        detector: What finds faces, opened once for many clips; the one that ``preprocessing`` names
            when ``None``.
        limits: What the file may ask for; the defaults of [DecodeLimits][] when ``None``.
        watch: Is shown the tracks when they are found and after every packet, so that what is there already
            can be used; what it raises ends the reading.

    Returns:
        The clip. A track that is missing or holds nothing that can be decoded leaves its part ``None``
        with the reason beside it.

    Raises:
        MediaError: The file is missing, no media file, has neither track, or nothing of the tracks that
            were asked for can be decoded; or it goes beyond a limit.
        BundleError: ``preprocessing`` asks for a detector from a file and none is given.
        MissingExtraError: Faces are to be cut out and OpenCV is missing.
    """
    if detector is None and vision:
        detector = open_detector(preprocessing.vision.faces)
    limits = limits or DecodeLimits()
    try:
        with open_media(path, limits) as container:
            if not (container.streams.audio or video_streams(container)):
                raise refusal(path, "it has neither an audio nor a video track")
            sound = _audio_track(container, preprocessing) if audio else "audio was not asked for"
            sight: VideoTrack | str = "video was not asked for"
            if vision:
                sight = _video_track(container, preprocessing, detector, limits)
            tracks: list[Track] = [track for track in (sound, sight) if isinstance(track, Track)]
            look = functools.partial(watch, sound, sight) if watch is not None else _look_at_nothing
            warnings = _read(container, tracks, limits, riff_share(path), look)
            seconds = (container.duration or 0) / av.time_base
    except LimitExceeded as exceeded:
        raise refusal(path, exceeded.found, exceeded.fix) from exceeded
    waveform = sound.waveform() if isinstance(sound, AudioTrack) else None
    frames = sight.frames() if isinstance(sight, VideoTrack) else None
    audio_why = _why(sound) if waveform is None else ""
    vision_why = _why(sight) if frames is None else ""
    faces = sight.crops.counts if isinstance(sight, VideoTrack) and sight.crops is not None else None
    # A picture without a face is a result; that nothing can be decoded is an error.
    seen = frames is not None or (faces is not None and faces.frames > 0)
    if tracks and waveform is None and not seen:
        reasons = [_why(track) for track in tracks]
        raise refusal(path, "; ".join([*reasons, *warnings]))
    if waveform is not None:
        warnings += silence_bad_samples(waveform)
    warnings += tell_what_is_left_out(sound, sight)
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
        faces=faces,
    )


def open_sound(
    path: Path, preprocessing: Preprocessing, limits: DecodeLimits | None = None
) -> tuple[InputContainer, AudioTrack | str]:
    """Open a clip to read its audio track alone, packet by packet.

    Args:
        path: A local media file.
        preprocessing: Rate and longest length of the waveform.
        limits: What the file may ask for; the defaults of [DecodeLimits][] when ``None``.

    Returns:
        The container, which the caller closes, and the track, or why there is none.

    Raises:
        MediaError: The file is missing, no media file, or goes beyond a limit.
    """
    try:
        container = open_media(path, limits or DecodeLimits())
    except LimitExceeded as exceeded:
        raise refusal(path, exceeded.found, exceeded.fix) from exceeded
    return container, _audio_track(container, preprocessing)


def _start_s(container: InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def audio_stream(container: InputContainer) -> AudioStream | str:
    """Return the audio stream to read, or why there is none."""
    streams = container.streams.audio
    if not streams:
        return "the clip has no audio track"
    best = container.streams.best("audio")
    stream = best if isinstance(best, AudioStream) else streams[0]
    return stream if has_decoder(stream) else "the audio track's codec is not known here"


def video_stream(container: InputContainer) -> VideoStream | str:
    """Return the video stream to read, or why there is none."""
    streams = video_streams(container)
    if not streams:
        cover = "only a cover picture" if container.streams.video else ""
        return "the clip has no video track" + (f", {cover}" if cover else "")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    return stream if has_decoder(stream) else "the video track's codec is not known here"


def _audio_track(container: InputContainer, preprocessing: Preprocessing) -> AudioTrack | str:
    """Return the audio track to read, or why there is none."""
    stream = audio_stream(container)
    if isinstance(stream, str):
        return stream
    claimed_s = (container.duration or 0) / av.time_base
    return AudioTrack(stream, preprocessing.audio, _start_s(container), claimed_s)


def _video_track(
    container: InputContainer,
    preprocessing: Preprocessing,
    detector: FaceDetector | None,
    limits: DecodeLimits,
) -> VideoTrack | str:
    """Return the video track to read, or why there is none."""
    stream = video_stream(container)
    if isinstance(stream, str):
        return stream
    return VideoTrack(stream, preprocessing.vision, _start_s(container), detector, limits)


def _look_at_nothing() -> None:
    """Stand in for a watcher where there is none."""


def _read(
    container: InputContainer,
    tracks: list[Track],
    limits: DecodeLimits,
    share: float,
    look: Callable[[], None],
) -> list[str]:
    """Feed the tracks until all are full or the file ends, and say what was wrong with it.

    Args:
        container: The open file.
        tracks: What is read of it.
        limits: How long reading may take and the file may be.
        share: How much of the file is there, in (0, 1], as far as its header says.
        look: Is called before the first packet and after each.

    Raises:
        LimitExceeded: It takes too long, or the file holds more than its header claimed.
    """
    if not tracks:
        return []
    warnings = []
    deadline = limits.deadline()
    by_index = {track.index: track for track in tracks}
    packets = container.demux(*(container.streams[index] for index in by_index))
    while not all(track.truncated for track in tracks):
        broken = ""
        look()
        deadline.check()
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            deadline.check()
            packet = None
            broken = tell_stall(limits) if is_stalled(error) else error.strerror or str(error)
        except IndexError:
            # PyAV stumbles at the end of a file over tracks that appeared midway, as in damaged mpegts.
            packet = None
        if packet is not None:
            track = by_index[packet.stream.index]
            track.take(packet)
            limits.check_length(track.reached_s)
            continue
        for track in tracks:
            track.take(None)
        warnings += tell_lost_end(container, by_index, share, broken)
        break
    return warnings + [warning for track in tracks if (warning := tell_damage(track))]


def tell_lost_end(
    container: InputContainer, by_index: dict[int, Track], share: float, broken: str
) -> list[str]:
    """Say how much less there was than the file says.

    Args:
        container: The file, read to its end.
        by_index: The tracks that were read, by the index of their stream.
        share: How much of the file is there, in (0, 1], as far as its header says.
        broken: Why reading ended before the file did; empty where it did not.
    """
    reached_s = max(track.reached_s for track in by_index.values())
    lengths_s = _lengths_s(container, by_index)
    expected_s = max(_expected_s(container, by_index, lengths_s), reached_s / share)
    lost_s = expected_s - reached_s
    lost = f": {lost_s:.2f} s of {expected_s:.2f} s are lost" if lost_s > 0 else ""
    if broken:
        return [f"the file breaks off after {reached_s:.2f} s ({broken}){lost}"]
    if lost_s > _BROKEN_OFF_S:
        return [f"the file ends after {reached_s:.2f} s{lost}"]
    return [
        f"the {track.name} ends after {track.reached_s:.2f} s: "
        f"{length_s - track.reached_s:.2f} s of {length_s:.2f} s are lost"
        for index, length_s in lengths_s.items()
        if not (track := by_index[index]).truncated and length_s - track.reached_s > _BROKEN_OFF_S
    ]


def _lengths_s(container: InputContainer, by_index: dict[int, Track]) -> dict[int, float]:
    """Return the lengths in seconds of the tracks that are read, by index, where the file says them."""
    streams = (container.streams[index] for index in by_index)
    return {
        stream.index: float(stream.duration * stream.time_base)
        for stream in streams
        if stream.duration and stream.time_base
    }


def _expected_s(container: InputContainer, by_index: dict[int, Track], lengths_s: dict[int, float]) -> float:
    """Return how far the tracks that are read should reach, in seconds; 0 where the file does not say."""
    if not lengths_s and len(by_index) == len(container.streams):
        return (container.duration or 0) / av.time_base
    return max(lengths_s.values(), default=0.0)


def _why(track: Track | str) -> str:
    if isinstance(track, str):
        return track
    if isinstance(track, AudioTrack) and track.begins_too_late:
        return "the audio track begins after the part of the clip that is used"
    if isinstance(track, VideoTrack) and track.taken:
        return f"no face was found in any of {track.taken} frames" if track.taken > 1 else "no face was found"
    return f"nothing of the {track.name} can be decoded"
