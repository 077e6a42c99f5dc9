"""A clip's features, on the host or on the device, and who gives their memory back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from taemi_runtime.closing import Closing
from taemi_runtime.device_array import DeviceArray
from taemi_runtime.media import Clip
from taemi_runtime.resident import DeviceRows, Given, Piece
from taemi_runtime.results import AudioUse, TextUse, VisionUse
from taemi_runtime.spec import Array

if TYPE_CHECKING:
    from taemi_runtime.encoding import ClipEncoder

Features = Array | DeviceArray
Encoded = tuple[Features, Array]
"""Features of one clip and their mask: on the host a batch of one each, on the device [length, width]."""


@dataclass(frozen=True)
class ClipFeatures(Closing):
    """A clip, encoded. Whoever has it closes it, so that what lies on a device is given back.

    Args:
        clip: What was decoded.
        inputs: The fusion graph's inputs by name, a batch of one; those on the host.
        audio: What was used of the audio track.
        vision: What was used of the video track.
        text: What was used of the transcript.
        spent_ms: Milliseconds by stage; on the device where engines are timed there.
        warnings: What is worth knowing about the transcript.
        resident: The fusion graph's inputs that lie on a device.
        wall_ms: Milliseconds of all stages by the clock, of a clip that was encoded with others.
    """

    clip: Clip
    inputs: dict[str, Array]
    audio: AudioUse
    vision: VisionUse
    text: TextUse
    spent_ms: dict[str, float]
    warnings: tuple[str, ...] = ()
    resident: dict[str, DeviceRows] = field(default_factory=dict)
    wall_ms: float = 0.0

    def feeds(self) -> dict[str, Given]:
        """Return all of the fusion graph's inputs, wherever they lie."""
        return {**self.inputs, **self.resident}

    def bring(self) -> None:
        """Bring everything to the host, as float32, and give the device's memory back."""
        for name, rows in self.resident.items():
            self.inputs[name] = rows.numpy().astype(np.float32, copy=False)
        self.close()

    def close(self) -> None:
        """Give the device's memory back; closing twice does nothing."""
        for rows in self.resident.values():
            rows.close()
        self.resident.clear()


class SeenFrames:
    """What the vision encoder gives of one clip, call by call, in whatever order and from whatever threads.

    Args:
        encoder: The encoders.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self.room: DeviceArray | None = encoder.rooms.room("vision")
        self._parts: dict[int, Array] = {}
        self._counts: dict[int, int] = {}

    def see(self, pixels: Array, start: int) -> None:
        """Encode frames of one call.

        Args:
            pixels: [frames, 3, height, width] uint8.
            start: The place of the first of them in the clip.
        """
        see_together(self._encoder, [(self, pixels, start)])

    def piece(self, first: int, start: int, count: int) -> Piece:
        """Return where a part of a call's output goes on the device.

        Args:
            first: The first row of the output.
            start: The place of the first frame in the clip.
            count: How many frames.
        """
        assert self.room is not None
        return Piece(self.room, first, count, at=start)

    def add(self, start: int, count: int, features: Array | None) -> None:
        """Note what was encoded; ``None`` where it stays on the device."""
        if features is not None:
            self._parts[start] = features
        self._counts[start] = count

    def whole(self) -> Features | None:
        """Return [frames, width] in the clip's order; ``None`` where nothing was seen."""
        if not self._counts:
            return None
        if self.room is not None:
            return self.room.head(sum(self._counts.values()))
        return np.concatenate([self._parts[start] for start in sorted(self._parts)])

    def close(self) -> None:
        """Give the device's memory back; closing twice does nothing."""
        if self.room is not None:
            self.room.close()


def see_together(encoder: ClipEncoder, calls: Sequence[tuple[SeenFrames, Array, int]]) -> None:
    """Encode frames of one clip or several in one call.

    Args:
        encoder: The encoders.
        calls: For each clip what it sees, its pixels, and the place of the first of them in the clip.
    """
    for there in (True, False):
        # Only where a device is out of memory some clips are on it and others are not.
        some = [call for call in calls if (call[0].room is not None) == there]
        if not some:
            continue
        counts = [len(pixels) for _, pixels, _ in some]
        firsts = [sum(counts[:place]) for place in range(len(counts))]
        joined = np.concatenate([pixels for _, pixels, _ in some]) if len(some) > 1 else some[0][1]
        found: Array | None = None
        if there:
            encoder.see_into(
                joined,
                [
                    seen.piece(first, start, count)
                    for (seen, _, start), first, count in zip(some, firsts, counts, strict=True)
                ],
            )
        else:
            found = encoder.see(joined)
        for (seen, _, start), first, count in zip(some, firsts, counts, strict=True):
            seen.add(start, count, None if found is None else found[first : first + count])


def give_back(encoded: Sequence[Encoded | None], seen: SeenFrames | None) -> None:
    """Give back what lies on a device of a clip that did not come to be [ClipFeatures][].

    What a call still uses comes back when it has ended.
    """
    for one in encoded:
        if one is not None and isinstance(one[0], DeviceArray):
            one[0].close()
    if seen is not None:
        seen.close()
