"""From a video's frames to its face crops, in a stream.

Faces are looked for on a fixed grid of presentation time, not once every so many frames and not from
where the last one was: what is cut out of a frame depends on the frames within two steps of the grid
around it and on nothing else, so a window of a long video gives the crops that the whole video gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi_runtime.faces.boxes import Box, crop_square, mean_box
from taemi_runtime.faces.finder import FaceDetector, find_faces

# Faces are looked for in the first frame of every step of this grid.
GRID_S = 0.2
# How far before a point of the grid a frame may lie and still stand for it: timestamps are rounded.
_TOLERANCE_S = 0.005
# Two boxes of neighbouring grid points that share this much, intersection over union, are one face.
_SAME_FACE = 0.3
# Weight of a grid point's own box against one of either neighbour's: (1, 2, 1) / 4 damps the jitter of
# the detector and leaves steady motion as it is.
_OWN_WEIGHT = 2.0


@dataclass(frozen=True)
class FaceCounts:
    """What looking for faces found in a clip.

    Args:
        frames: Frames that were looked at.
        faces: Frames of them that gave a crop; the others are left out.
        several: Frames of them that stand for a point in time with more than one face.
    """

    frames: int = 0
    faces: int = 0
    several: int = 0


@dataclass(frozen=True)
class Look:
    """A frame that was looked at.

    Args:
        time_s: Its presentation time in seconds.
        pixels: [side, side, 3] uint8 around the face; ``None`` where there is none.
        several: Whether there was more than one face to choose from.
    """

    time_s: float
    pixels: npt.NDArray[np.uint8] | None
    several: bool


@dataclass(frozen=True)
class _Point:
    """What was found at a point of the grid."""

    time_s: float
    boxes: tuple[Box, ...]


class FaceCropper:
    """Cuts the largest face out of every frame; frames without one are left out and counted.

    Full-size frames are held for at most two steps of the grid.

    Args:
        detector: What finds faces.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._step = -math.inf
        self._points: list[_Point] = []
        self._waiting: list[list[tuple[float, npt.NDArray[np.uint8]]]] = []
        # A point before the oldest one waiting, for its smoothing.
        self._before: _Point | None = None
        self._frames = self._faces = self._several = 0

    @property
    def counts(self) -> FaceCounts:
        """What was found so far."""
        return FaceCounts(self._frames, self._faces, self._several)

    def add(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Take a frame.

        Args:
            time_s: Its presentation time in seconds, not before the last frame's.
            pixels: [rows, columns, 3], uint8 RGB, upright.

        Returns:
            The crops that are ready now, of earlier frames, in order: [side, side, 3] uint8 each.
        """
        return _crops(self.look(time_s, pixels))

    def finish(self) -> list[npt.NDArray[np.uint8]]:
        """Return the crops of the frames that were still waiting; there are none after that."""
        return _crops(self.finish_looking())

    def look(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> list[Look]:
        """Take a frame as ``add`` does; what is ready comes with its time, frames without a face, too."""
        self._frames += 1
        step = math.floor((time_s + _TOLERANCE_S) / GRID_S)
        if step > self._step:
            self._step = step
            self._look(time_s, pixels)
        else:
            self._waiting[-1].append((time_s, pixels))
        # The box of a frame lies between two points, each of which is smoothed with the point after it.
        return self._release() if len(self._points) > 2 else []

    def finish_looking(self) -> list[Look]:
        """Return the frames that were still waiting, as ``look`` does."""
        looks = []
        if self._waiting and len(self._waiting[-1]) > 1:
            # The last frame is a point, too, so that the crops before it follow the face to the end.
            self._look(*self._waiting[-1].pop())
        while self._points:
            looks += self._release()
        return looks

    @property
    def waits_since_s(self) -> float | None:
        """Time of the oldest frame that waits for its crop, in seconds; ``None`` where none does."""
        return self._waiting[0][0][0] if self._waiting else None

    def _look(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> None:
        """Look for faces in a frame, which becomes a point and the first of those waiting behind it."""
        boxes = find_faces(self._detector, pixels)
        self._points.append(_Point(time_s, tuple(boxes)))
        self._waiting.append([(time_s, pixels)])

    def _release(self) -> list[Look]:
        """Cut the frames of the oldest step and forget them."""
        here, *after = self._points
        start = _smooth(self._before, here, after[0] if after else None)
        end = _smooth(here, after[0], after[1] if len(after) > 1 else None) if after else None
        looks = []
        for time_s, pixels in self._waiting[0]:
            share = _share(time_s, here.time_s, after[0].time_s) if after else 0.0
            box = _between(start, end, share) if after else start
            nearest = after[0] if after and share > 0.5 else here
            several = len(nearest.boxes) > 1
            self._several += several
            self._faces += box is not None
            looks.append(Look(time_s, None if box is None else crop_square(pixels, box), several))
        self._before = self._points.pop(0)
        del self._waiting[0]
        return looks


def _crops(looks: list[Look]) -> list[npt.NDArray[np.uint8]]:
    return [look.pixels for look in looks if look.pixels is not None]


def _choose(before: _Point | None, here: _Point, after: _Point | None) -> Box | None:
    """Return the box of a point's largest face, going by its mean area here and at both neighbours.

    Of two faces of one size the larger box would be now the one and now the other, as detectors jitter.
    """
    if not here.boxes:
        return None
    near = [point for point in (before, after) if point and abs(point.time_s - here.time_s) < 1.5 * GRID_S]

    def mean_area(box: Box) -> float:
        found = [box, *(same for point in near if (same := _find(box, point)))]
        return sum(item.area for item in found) / len(found)

    return max(here.boxes, key=mean_area)


def _smooth(before: _Point | None, here: _Point, after: _Point | None) -> Box | None:
    """Return a point's box, averaged with its neighbours' where both show the same face.

    With one neighbour only, the mean would lag behind a face that moves.
    """
    box = _choose(before, here, after)
    if box is None or before is None or after is None or after.time_s - before.time_s >= 3 * GRID_S:
        return box
    one, other = _find(box, before), _find(box, after)
    if one is None or other is None:
        return box
    return mean_box([(1.0, one), (_OWN_WEIGHT, box), (1.0, other)])


def _find(box: Box, point: _Point) -> Box | None:
    """Return the box of a point that shows the same face."""
    best = max(point.boxes, key=box.overlap, default=None)
    return best if best is not None and _is_same(box, best) else None


def _share(time_s: float, start_s: float, end_s: float) -> float:
    """Return where a time lies between two others, in [0, 1]; damaged files repeat times and go back."""
    return min(max((time_s - start_s) / (end_s - start_s), 0.0), 1.0) if end_s > start_s else 0.0


def _between(start: Box | None, end: Box | None, share: float) -> Box | None:
    """Return the box of a frame that lies ``share`` of the way between two points."""
    if start is not None and end is not None and _is_same(start, end):
        return mean_box([(1.0 - share, start), (share, end)])
    return end if share > 0.5 else start


def _is_same(one: Box, other: Box) -> bool:
    return one.overlap(other) >= _SAME_FACE
