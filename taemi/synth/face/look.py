"""Whose face it is, in which light and in which room: nothing of it follows the latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi.synth.face.canvas import Pixels

# Whole macroblocks of 16 x 16.
WIDTH, HEIGHT = 176, 144
# Half a head's width in pixels at scale 1, and the scales that heads have.
UNIT_PX = 40.0
SCALES = (0.5, 1.2)

Rgb = npt.NDArray[np.float64]

_SKINS = np.array(
    [(232, 194, 166), (222, 182, 152), (208, 167, 138), (190, 150, 122), (170, 130, 104), (150, 112, 88)],
    dtype=float,
)
_HAIR = np.array([(34, 28, 27), (50, 38, 32), (74, 52, 38), (92, 54, 36), (98, 78, 54)], dtype=float)
_EYES = np.array([(62, 42, 30), (48, 34, 26), (60, 88, 120), (66, 92, 62)], dtype=float)
# The cascade takes a face for one only where the hair is at most so bright as this share of the skin.
_HAIR_SHARE = 0.6


@dataclass(frozen=True)
class Look:
    """A person and where they sit.

    Args:
        skin: [3] grey levels.
        hair: [3] grey levels.
        eyes: [3] colour of the iris.
        shirt: [3] grey levels.
        long_hair: Whether the hair falls beside the face.
        fringe: How far the hair reaches down the forehead, in half head widths.
        width: Width of the face as a share of the head's.
        side: Where the light comes from, -1 (left) to 1 (right), and how strong its shadow is.
        light: [3] colour and strength of the light, about 1.
        room: [height, width, 3] grey levels, float32, without anyone.
        x: Middle of the head in pixels.
        y: Middle of the head in pixels.
        scale: Size of the head, 0.5 to 1.2.
        roll_deg: How far it is tilted, clockwise.
    """

    skin: Rgb
    hair: Rgb
    eyes: Rgb
    shirt: Rgb
    long_hair: bool
    fringe: float
    width: float
    side: float
    light: Rgb
    room: Pixels
    x: float
    y: float
    scale: float
    roll_deg: float


def choose_look(rng: np.random.Generator) -> Look:
    """Choose a person, a light, a room and a place in it."""
    skin = _SKINS[rng.integers(len(_SKINS))] * rng.uniform(0.97, 1.03)
    hair = np.minimum(_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.8, 1.2), _HAIR_SHARE * skin)
    light = rng.uniform(0.97, 1.03) * (1 + np.array([0.01, 0.0, -0.012]) * rng.uniform(-1, 1))
    scale = float(rng.uniform(*SCALES))
    unit_px = scale * UNIT_PX
    return Look(
        skin=skin,
        hair=hair,
        eyes=_EYES[rng.integers(len(_EYES))],
        shirt=rng.uniform(35, 175, 3),
        long_hair=bool(rng.random() < 0.4),
        fringe=float(rng.uniform(-0.95, -0.75)),
        width=float(rng.uniform(0.88, 0.95)),
        side=float(rng.uniform(-1, 1)),
        light=light,
        room=_paint_room(rng, light),
        x=_somewhere(rng, WIDTH, 1.35 * unit_px, 1.35 * unit_px),
        y=_somewhere(rng, HEIGHT, 1.35 * unit_px, 1.45 * unit_px),
        scale=scale,
        roll_deg=float(rng.uniform(-15, 15)),
    )


def _somewhere(rng: np.random.Generator, length: int, before: float, after: float) -> float:
    """Return a place that leaves room on both sides, near the middle more often than not."""
    low, high = before, length - after
    share = rng.uniform(0, 1, 2).mean()
    return low + share * (high - low) if high > low else (low + high) / 2


def _paint_room(rng: np.random.Generator, light: Rgb) -> Pixels:
    """Paint a wall with light from one side and a few plain things on it, out of focus."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    wall = rng.uniform(132, 150) * (1 + np.array([0.025, 0.0, -0.025]) * rng.uniform(-1, 1))
    slope = rng.uniform(-0.07, 0.07, 2)
    shade = 1 + slope[0] * (x / WIDTH - 0.5) + slope[1] * (y / HEIGHT - 0.5)
    room = (wall * shade[..., None]).astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        middle = rng.uniform((0, 0), (WIDTH, HEIGHT))
        half = rng.uniform((12, 10), (45, 50))
        inside = np.minimum(half[0] - np.abs(x - middle[0]), half[1] - np.abs(y - middle[1]))
        mask = np.clip(inside / rng.uniform(2, 7) + 0.5, 0, 1)[..., None].astype(np.float32)
        thing = wall * rng.uniform(0.92, 1.07) * (1 + rng.uniform(-0.02, 0.02, 3))
        room += mask * (thing.astype(np.float32) - room)
    room += rng.normal(0, 0.8, room.shape).astype(np.float32)
    return np.asarray(np.clip(room * light, 0, 255), np.float32)
