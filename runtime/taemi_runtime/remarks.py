"""What is worth saying about the tracks of a clip that could be read."""

from __future__ import annotations

from taemi_runtime.faces.crops import FaceCounts
from taemi_runtime.sound import AudioTrack
from taemi_runtime.tracks import Track, VideoTrack

_NOTHING = "nothing of the clip could be used: the scores are the model's answer to no input"


def tell_damage(track: Track) -> str:
    """Say what is missing inside a track, and for how long; empty where nothing is."""
    silence = isinstance(track, AudioTrack)
    if not track.damaged:
        # Pictures may well be far apart; where there is no sound there should be samples that say so.
        if silence and track.gaps_s:
            return f"the audio track has gaps of {track.gaps_s:.2f} s in all, which count as silence"
        return ""
    lost_s = max(track.gaps_s, track.damaged_s)
    packets = f"{track.damaged} damaged packet{'s' * (track.damaged != 1)} of the {track.name}"
    were = "were" if track.damaged != 1 else "was"
    lost = f": about {lost_s:.2f} s of it are lost" if lost_s else ""
    return f"{packets} {were} skipped or patched{lost}"


def tell_what_is_left_out(sound: AudioTrack | str, sight: VideoTrack | str) -> list[str]:
    """Say which parts of the clip do not count, and what is no clip at all."""
    warnings = []
    if isinstance(sight, VideoTrack) and sight.headless_s:
        # As where a broadcast is tuned in between two pictures that stand for themselves.
        warnings.append(
            f"the first {sight.headless_s:.2f} s of the video track cannot be decoded and are lost"
        )
    if isinstance(sound, AudioTrack) and sound.truncated and not sound.begins_too_late:
        warnings.append(f"the audio goes on after the first {sound.longest_s:g} s; the rest is not used")
    if isinstance(sight, VideoTrack) and sight.truncated:
        warnings.append(f"the video goes on after the first {sight.taken} frames; the rest is not used")
    if isinstance(sight, VideoTrack) and sight.decoded == 1 and not sight.damaged:
        warnings.append("the video is a single picture")
    return warnings


def tell_several(faces: FaceCounts | None) -> tuple[str, ...]:
    """Say that there was more than one face to choose from."""
    if faces is None or not faces.several:
        return ()
    return (f"more than one face in {faces.several} of {faces.frames} frames; the largest is used",)


def tell_nothing(*present: bool) -> tuple[str, ...]:
    """Say that no modality entered the scores, given whether each did."""
    return () if any(present) else (_NOTHING,)
