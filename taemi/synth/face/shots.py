"""From a clip's latent vector to its frames, and to where the face is in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi.synth.face.canvas import place
from taemi.synth.face.cover import Cover, plan_covers
from taemi.synth.face.expression import express
from taemi.synth.face.head import Head
from taemi.synth.face.look import HEIGHT, SCALES, UNIT_PX, WIDTH, Look, choose_look
from taemi.synth.latent import Vector
from taemi.synth.voice import Voice
from taemi_runtime.faces.boxes import Box

# Heads never roll further.
ROLL_DEG = 20.0
# Half a side of the true box, and how far its middle is below the head's, in half head widths: from the
# brows to the chin, as detectors frame faces.
_BOX_HALF, _BOX_DOWN = 0.95, 0.22
# How far above the turning point, at the base of the neck, the middle of the head is.
_NECK = 1.1
_BLINK_S = 0.09


@dataclass(frozen=True)
class Shot:
    """A frame and what is known of it.

    Args:
        pixels: [height, width, 3], uint8 RGB.
        box: The face, from brows to chin; upright also where the head is tilted. ``None`` where there is
            nobody.
        covered: Whether something hides a part of the face, or a part of it is out of the picture.
        roll_deg: How far the head is tilted, clockwise.
        scale: Size of the head; at 1 it is 80 pixels wide.
    """

    pixels: npt.NDArray[np.uint8]
    box: Box | None
    covered: bool
    roll_deg: float
    scale: float


@dataclass(frozen=True)
class _Pose:
    """Where the head is: its middle in pixels, its size, its tilt."""

    x: float
    y: float
    scale: float
    roll_deg: float

    @property
    def unit_px(self) -> float:
        return self.scale * UNIT_PX

    @property
    def box(self) -> Box:
        angle, unit_px = math.radians(self.roll_deg), self.unit_px
        x, y = self.x - _BOX_DOWN * unit_px * math.sin(angle), self.y + _BOX_DOWN * unit_px * math.cos(angle)
        reach = _BOX_HALF * unit_px
        return Box(x - reach, y - reach, 2 * reach, 2 * reach)


def film(
    shown: Vector,
    voice: Voice,
    seconds: float,
    fps: int,
    rng: np.random.Generator,
    *,
    face: bool = True,
    occlude: bool = False,
) -> Iterator[Shot]:
    """Draw a clip's frames one by one and say where the face is in each.

    Args:
        shown: [6] what the face shows of the latent, in the order of the emotions.
        voice: The clip's sound, which the mouth moves with.
        seconds: Length of the clip; it has at least one frame.
        fps: Frames a second.
        rng: The clip's random numbers; they choose the person and the room, too.
        face: Whether anyone is there; an empty room if not.
        occlude: Whether something hides the face for a while.

    Yields:
        The frames in order.
    """
    look = choose_look(rng)
    manner = _Manner(shown, rng)
    count = max(1, round(seconds * fps))
    if not face:
        for number in range(count):
            # Cameras are never quite still in what they see.
            flicker = 1 + 0.01 * math.sin(1.7 * number / fps)
            yield Shot(_to_uint8(look.room * np.float32(flicker)), None, False, 0.0, 0.0)
        return
    unit_px = look.scale * UNIT_PX
    head = Head(look, unit_px)
    covers = plan_covers(seconds, look, unit_px, rng) if occlude else []
    for number in range(count):
        time_s = number / fps
        yield _draw_shot(look, head, manner, covers, voice, time_s)


def draw_frames(
    shown: Vector,
    voice: Voice,
    seconds: float,
    fps: int,
    rng: np.random.Generator,
    *,
    face: bool = True,
    occlude: bool = False,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw a clip's frames one by one: the pixels of [film][], with the same arguments.

    Yields:
        [height, width, 3], uint8 RGB.
    """
    for shot in film(shown, voice, seconds, fps, rng, face=face, occlude=occlude):
        yield shot.pixels


class _Manner:
    """How a person moves through a clip, and how they show what they feel."""

    def __init__(self, shown: Vector, rng: np.random.Generator) -> None:
        self._shown = 0.5 + 0.5 * np.tanh(shown / 1.3)
        self._phases = rng.uniform(0, 2 * np.pi, 8)
        self._blinks_s = np.cumsum(rng.uniform(0.8, 2.8, 24))

    def shown_at(self, time_s: float) -> Vector:
        """Return [6] how much of each emotion is shown now: it comes and goes a little."""
        wave = np.sin(2 * np.pi * 0.25 * time_s + self._phases[:6])
        return np.asarray(np.clip(0.5 + (self._shown - 0.5) * (0.92 + 0.08 * wave), 0, 1), np.float64)

    def eyes_shut(self, time_s: float) -> float:
        """Return how far a blink has shut the eyes."""
        return float(np.clip(1.3 - np.abs(self._blinks_s - time_s).min() / _BLINK_S, 0, 1))

    def pose(self, look: Look, time_s: float) -> _Pose:
        """Return where the head is: Excitement bounces it, Amusement shakes it, Admiration tilts it."""
        admiration, amusement, _, _, excitement, _ = self._shown.tolist()
        one, two, three, four = self._phases[:4].tolist()
        bounce = 0.08 * excitement * math.sin(2 * math.pi * 2.2 * time_s + one)
        shake = 0.07 * amusement * math.sin(2 * math.pi * 3.0 * time_s + two)
        drift = 0.08 * math.sin(2 * math.pi * 0.23 * time_s + three)
        scale = look.scale * (1 + 0.05 * math.sin(2 * math.pi * 0.17 * time_s + two))
        roll_deg = look.roll_deg + 6 * (admiration - 0.5) + 4 * math.sin(2 * math.pi * 0.21 * time_s + four)
        unit_px = look.scale * UNIT_PX
        return _Pose(
            x=look.x + unit_px * (shake + drift),
            y=look.y + unit_px * bounce,
            scale=min(max(scale, SCALES[0]), SCALES[1]),
            roll_deg=min(max(roll_deg, -ROLL_DEG), ROLL_DEG),
        )


def _draw_shot(
    look: Look, head: Head, manner: _Manner, covers: list[Cover], voice: Voice, time_s: float
) -> Shot:
    pose = manner.pose(look, time_s)
    near = [cover for cover in covers if cover.nearness(time_s) > 0]
    for cover in near:
        if cover.kind == "away":
            far = cover.nearness(time_s) * (WIDTH + 4 * pose.unit_px) / 2
            pose = _Pose(pose.x + cover.come[0] * far, pose.y, pose.scale, pose.roll_deg)
    frame = look.room.copy()
    angle = math.radians(pose.roll_deg)
    lean, sink = _NECK * pose.unit_px * math.sin(angle), _NECK * pose.unit_px * (1 - math.cos(angle))
    neck = (pose.x - lean, pose.y - sink)
    place(frame, head.body, neck, pose.unit_px, 0.0)
    expression = express(manner.shown_at(time_s), voice.loudness_at(time_s), manner.eyes_shut(time_s))
    place(frame, head.draw(expression, time_s), (pose.x, pose.y), pose.unit_px, pose.roll_deg)
    for cover in near:
        if cover.sprite is not None:
            right, down = cover.place_at(time_s)
            at = (pose.x + right * pose.unit_px, pose.y + down * pose.unit_px)
            place(frame, cover.sprite, at, pose.unit_px, cover.roll_deg)
    box = pose.box
    outside = box.left < 0 or box.top < 0 or box.left + box.width > WIDTH or box.top + box.height > HEIGHT
    return Shot(_to_uint8(frame), box, bool(near or outside), pose.roll_deg, pose.scale)


def _to_uint8(frame: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.clip(frame + np.float32(0.5), 0, 255), np.uint8)
