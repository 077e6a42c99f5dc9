"""The picture of synthetic clips: a cartoon face whose expression follows the latent vector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from taemi.synth.latent import Vector
from taemi.synth.voice import Voice

# Whole macroblocks of 16 x 16.
WIDTH, HEIGHT = 160, 128
# Drawn at twice the size and averaged down, which smooths the edges.
_SCALE = 2

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SKINS: tuple[Colour, ...] = (
    (247, 214, 186),
    (232, 190, 155),
    (205, 155, 115),
    (165, 115, 80),
    (120, 80, 55),
    (90, 60, 45),
)
_HAIR: tuple[Colour, ...] = ((40, 30, 25), (90, 60, 35), (160, 110, 60), (200, 170, 110), (130, 130, 130))
_LIPS: Colour = (170, 60, 70)
_MOUTH: Colour = (90, 25, 35)
_WHITE: Colour = (250, 250, 250)
_TEAR: Colour = (120, 180, 235)
_BLUSH: Colour = (230, 90, 90)
_PALE: Colour = (190, 205, 215)


@dataclass(frozen=True)
class _Look:
    """Whose face it is and where: nothing of it follows the latent."""

    skin: Colour
    hair: Colour
    eyes: Colour
    shirt: Colour
    wall: Colour
    radius: float
    centre: Point


class _Pen:
    """Draws in face coordinates: the head's half width is 1, y runs downwards, the head may tilt."""

    def __init__(self, draw: ImageDraw.ImageDraw, centre: Point, radius: float, tilt: float) -> None:
        self._draw = draw
        self._centre = centre
        self._radius = radius
        self._cos, self._sin = math.cos(tilt), math.sin(tilt)

    def place(self, point: Point) -> Point:
        x, y = point
        return (
            self._centre[0] + self._radius * (x * self._cos - y * self._sin),
            self._centre[1] + self._radius * (x * self._sin + y * self._cos),
        )

    def shape(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon([self.place(point) for point in points], fill=colour)

    def oval(self, centre: Point, width: float, height: float, colour: Colour) -> None:
        angles = [2 * math.pi * step / 28 for step in range(28)]
        self.shape(
            [(centre[0] + width * math.cos(t), centre[1] + height * math.sin(t)) for t in angles], colour
        )

    def line(self, points: list[Point], thickness: float, colour: Colour) -> None:
        self._draw.line(
            [self.place(point) for point in points],
            fill=colour,
            width=max(1, round(thickness * self._radius)),
            joint="curve",
        )


def draw_frames(
    shown: Vector, voice: Voice, seconds: float, fps: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw a clip's frames one by one.

    Args:
        shown: [6] what the face shows of the latent, in the order of the emotions. Admiration tilts the
            head and makes it blush, Amusement opens the mouth and shakes the head, Determination lowers the
            brows, Empathic Pain brings tears and drooping lids, Excitement widens the eyes and bounces,
            Joy smiles.
        voice: The clip's sound, which the mouth moves with.
        seconds: Length of the clip.
        fps: Frames a second.
        rng: The clip's random numbers; they choose the person, too.

    Yields:
        [height, width, 3], uint8 RGB.
    """
    mood = np.tanh(shown / 2.0)
    look = _choose_look(rng)
    sway = rng.uniform(0, 2 * np.pi, 4)
    blinks_s = np.cumsum(rng.uniform(0.8, 2.5, 6))
    for number in range(round(seconds * fps)):
        time_s = number / fps
        blinking = bool((np.abs(blinks_s - time_s) < 0.07).any())
        yield _draw_frame(look, mood, time_s, voice.loudness_at(time_s), blinking, sway)


def _choose_look(rng: np.random.Generator) -> _Look:
    def colour(low: int, high: int) -> Colour:
        red, green, blue = rng.integers(low, high, 3).tolist()
        return red, green, blue

    return _Look(
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        eyes=((70, 50, 35), (70, 110, 150), (80, 120, 80))[rng.integers(3)],
        shirt=colour(60, 110),
        wall=colour(150, 185),
        radius=float(rng.uniform(40, 43)) * _SCALE,
        centre=(
            (WIDTH / 2 + float(rng.uniform(-3, 3))) * _SCALE,
            (HEIGHT / 2 + float(rng.uniform(-1, 3))) * _SCALE,
        ),
    )


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _draw_frame(
    look: _Look, mood: Vector, time_s: float, loudness: float, blinking: bool, sway: Vector
) -> npt.NDArray[np.uint8]:
    # Each follows its emotion from 0 (held back) to 1 (shown fully).
    admiration, amusement, determination, pain, excitement, joy = (0.5 + 0.5 * mood).tolist()
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), look.wall)
    draw = ImageDraw.Draw(image)

    bounce = 0.16 * excitement * math.sin(2 * math.pi * 2.5 * time_s + sway[0])
    shake = 0.10 * amusement * math.sin(2 * math.pi * 4.0 * time_s + sway[1])
    drift = 0.04 * math.sin(2 * math.pi * 0.4 * time_s + sway[2])
    x, y = look.centre
    centre = (x + look.radius * (shake + drift), y + look.radius * bounce)
    tilt = 0.3 * (admiration - 0.5) + 0.04 * math.sin(2 * math.pi * 0.5 * time_s + sway[3])

    body = _Pen(draw, (centre[0], y), look.radius, 0.0)
    body.oval((0.0, 2.3), 1.7, 1.1, look.shirt)
    skin = _mix(look.skin, _PALE, 0.35 * pain)
    body.shape([(-0.35, 0.8), (0.35, 0.8), (0.45, 1.5), (-0.45, 1.5)], _mix(skin, (0, 0, 0), 0.12))
    pen = _Pen(draw, centre, look.radius, tilt)
    pen.oval((0.0, -0.25), 1.08, 1.2, look.hair)
    pen.oval((0.0, 0.05), 1.0, 1.22, skin)
    pen.oval((0.0, -1.0), 0.85, 0.32, look.hair)

    blush = _mix(skin, _BLUSH, 0.75 * admiration)
    for side in (-1, 1):
        pen.oval((side * 0.6, 0.42), 0.22, 0.15, blush)
        _draw_eye(pen, side, look, skin, pain, excitement, joy, blinking)
        _draw_brow(pen, side, look, determination, pain, excitement)
        if pain > 0.55:
            fall = (time_s * 0.6 + 0.3 * side) % 1.0
            pen.oval((side * 0.48, 0.2 + 0.6 * fall), 0.06, 0.11, _TEAR)
    pen.line([(0.0, -0.05), (0.08, 0.26), (-0.04, 0.28)], 0.05, _mix(skin, (0, 0, 0), 0.25))
    _draw_mouth(pen, amusement, pain, joy, loudness)
    return np.asarray(image.reduce(_SCALE))


def _draw_eye(
    pen: _Pen,
    side: int,
    look: _Look,
    skin: Colour,
    pain: float,
    excitement: float,
    joy: float,
    blinking: bool,
) -> None:
    centre = (side * 0.4, -0.18)
    height = 0.02 if blinking else 0.07 + 0.17 * excitement
    pen.oval(centre, 0.21, height, _WHITE)
    if not blinking:
        pen.oval(centre, min(0.10, height), min(0.10, height), look.eyes)
        pen.oval(centre, min(0.05, height), min(0.05, height), (15, 15, 15))
    # Pain lets the outer end of the upper lid droop, joy pushes the lower lid up.
    droop, push = 0.20 * pain, 0.10 * joy
    x, y = centre
    lid = _mix(skin, (0, 0, 0), 0.08)
    pen.shape(
        [
            (x - side * 0.24, y - 0.3),
            (x + side * 0.24, y - 0.3),
            (x + side * 0.24, y - height + droop),
            (x - side * 0.24, y - height),
        ],
        skin,
    )
    pen.line([(x - side * 0.22, y - height), (x + side * 0.22, y - height + droop)], 0.05, lid)
    pen.shape(
        [
            (x - 0.24, y + height - push),
            (x + 0.24, y + height - push),
            (x + 0.24, y + height + 0.1),
            (x - 0.24, y + height + 0.1),
        ],
        skin,
    )


def _draw_brow(
    pen: _Pen, side: int, look: _Look, determination: float, pain: float, excitement: float
) -> None:
    height = -0.52 - 0.14 * excitement + 0.16 * determination
    slope = 0.24 * determination - 0.24 * pain
    pen.line(
        [(side * 0.18, height + slope), (side * 0.42, height - 0.06), (side * 0.64, height - 0.2 * slope)],
        0.05 + 0.07 * determination,
        _mix(look.hair, (0, 0, 0), 0.3),
    )


def _draw_mouth(pen: _Pen, amusement: float, pain: float, joy: float, loudness: float) -> None:
    width = 0.28 + 0.22 * joy
    curve = 0.42 * (joy - 0.45) - 0.18 * (pain - 0.5)
    gap = 0.02 + (0.06 + 0.30 * amusement) * (0.3 + 0.7 * loudness)
    steps = [-1 + 0.25 * step for step in range(9)]
    # The corners of the mouth stand higher than its middle when it smiles.
    upper = [(width * t, 0.66 - curve * t * t) for t in steps]
    lower = [(width * t, 0.66 - curve * t * t + gap * (1 - t * t)) for t in steps]
    pen.shape(upper + lower[::-1], _MOUTH)
    if amusement > 0.5:
        teeth = [(width * t, 0.66 - curve * t * t + 0.35 * gap * (1 - t * t)) for t in steps]
        pen.shape(upper + teeth[::-1], _WHITE)
    pen.line(upper, 0.05, _LIPS)
    pen.line(lower, 0.05, _LIPS)
