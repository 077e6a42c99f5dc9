"""What a source gives while it is read: stretches of material, and what comes in them.

A *stretch* is material without a break: a whole file, or what a live source gives between two stops. Times
of events count from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Begins:
    """A stretch begins.

    Args:
        at_s: Where on the source's axis of time, in seconds from its own beginning.
        gap_s: How long nothing came before it, in seconds; 0 for the first stretch.
        why: What ended the stretch before; empty for the first.
        sound_why: Why there is no sound; empty where there is a track.
        sight_why: Why there are no frames; empty where there is a track.
        faces: Whether faces are looked for.
    """

    at_s: float
    gap_s: float = 0.0
    why: str = ""
    sound_why: str = ""
    sight_why: str = ""
    faces: bool = False


@dataclass(frozen=True, slots=True)
class Sound:
    """The next samples of the waveform.

    Args:
        count: How many.
        samples: [count], float32, mono, full scale 1, finite; ``None`` where the track has a gap.
    """

    count: int
    samples: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame that was looked at.

    Args:
        time_s: Its presentation time.
        lasts_s: How long it stands for.
        pixels: [3, height, width], uint8 RGB, as the encoder takes it; ``None`` where no face was found.
        several: Whether there was more than one face to choose from.
    """

    time_s: float
    lasts_s: float
    pixels: npt.NDArray[np.uint8] | None
    several: bool = False


@dataclass(frozen=True, slots=True)
class Unseen:
    """A frame that was not looked at, since a live source did not wait."""

    time_s: float


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a stretch has been read.

    Args:
        sound_s: All sound before this time that there will be has been given; infinite without a track.
        sight_s: The same of frames.
        decode_ms: Milliseconds spent on reading, decoding and looking for faces, since the source began.
        warnings: What was wrong with the stretch since the last of these.
    """

    sound_s: float
    sight_s: float
    decode_ms: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ends:
    """A stretch is over.

    Args:
        at_s: Its length.
        decode_ms: As in [Reached][].
        warnings: What was wrong with it and is not said yet.
    """

    at_s: float
    decode_ms: float
    warnings: tuple[str, ...] = ()


Event = Begins | Sound | Sight | Unseen | Reached | Ends
