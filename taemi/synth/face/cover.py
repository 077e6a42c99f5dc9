"""What hides a face for a while: a hand, a mug, a dark bar, or that the head leaves the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taemi.synth.face.canvas import Canvas, Sprite
from taemi.synth.face.look import Look

_KINDS = ("hand", "mug", "bar", "away")
# Which share of the clip is hidden altogether, and how long coming and going take.
_HIDDEN_SHARES = (0.15, 0.45)
_SLIDE_S = 0.3
# How far away, in half head widths, a thing is when it is out of the way.
_OUT = 3.2


@dataclass(frozen=True)
class Cover:
    """One stretch of time in which the face is hidden.

    Args:
        kind: ``hand``, ``mug``, ``bar`` or ``away``.
        start_s: When it begins to come.
        end_s: When it is gone.
        come: [2] from where it comes, right and down, length 1.
        shift: [2] how far off the middle it stands, in half head widths.
        roll_deg: How it is turned.
        sprite: What is seen of it; ``None`` for ``away``.
    """

    kind: str
    start_s: float
    end_s: float
    come: tuple[float, float]
    shift: tuple[float, float]
    roll_deg: float
    sprite: Sprite | None

    def nearness(self, time_s: float) -> float:
        """Return how far it has come, 0 (not there) to 1 (hides the face)."""
        slide_s = min(_SLIDE_S, (self.end_s - self.start_s) / 3)
        passed, left = time_s - self.start_s, self.end_s - time_s
        return float(np.clip(min(passed, left) / slide_s, 0, 1))

    def place_at(self, time_s: float) -> tuple[float, float]:
        """Return where it is, right of and below the middle of the head, in half head widths."""
        far = _OUT * (1 - self.nearness(time_s))
        return self.shift[0] + far * self.come[0], self.shift[1] + far * self.come[1]


def plan_covers(seconds: float, look: Look, unit_px: float, rng: np.random.Generator) -> list[Cover]:
    """Decide what hides the face and when: once or twice, 15 to 45 % of the clip."""
    count = int(rng.integers(1, 3)) if seconds > 3 else 1
    hidden_s = float(rng.uniform(*_HIDDEN_SHARES)) * seconds / count
    covers = []
    for number in range(count):
        # Each stretch has its own part of the clip.
        first_s, last_s = seconds * number / count, seconds * (number + 1) / count - hidden_s
        start_s = float(rng.uniform(first_s, last_s))
        kind = _KINDS[rng.integers(len(_KINDS))]
        covers.append(_make_cover(kind, start_s, start_s + hidden_s, look, unit_px, rng))
    return covers


def _make_cover(
    kind: str, start_s: float, end_s: float, look: Look, unit_px: float, rng: np.random.Generator
) -> Cover:
    side = 1.0 if rng.random() < 0.5 else -1.0
    jitter = rng.uniform(-0.08, 0.08, 2)
    if kind == "hand":
        sprite: Sprite | None = _paint_hand(look, unit_px)
        come, shift, roll_deg = (0.0, 1.0), (jitter[0], 0.15 + jitter[1]), side * rng.uniform(4, 30)
    elif kind == "mug":
        sprite = _paint_mug(look, unit_px, side, rng.uniform(40, 225, 3))
        come, shift, roll_deg = (0.0, 1.0), (jitter[0], 0.42 + jitter[1]), rng.uniform(-10, 10)
    elif kind == "bar":
        sprite = _paint_bar(unit_px, rng.uniform(12, 45))
        come, shift, roll_deg = (0.0, -1.0), (0.0, jitter[1]), rng.uniform(-8, 8)
    else:
        sprite, come, shift, roll_deg = None, (side, 0.0), (0.0, 0.0), 0.0
    place = (float(shift[0]), float(shift[1]))
    return Cover(kind, start_s, end_s, come, place, float(roll_deg), sprite)


def _paint_hand(look: Look, unit_px: float) -> Sprite:
    """Paint the back of a hand with the fingers up and the sleeve below."""
    canvas = Canvas((-1.6, -1.7, 1.6, 4.0), unit_px)
    skin = 0.88 * look.skin
    canvas.fill(canvas.oval((0, 2.9), (0.75, 1.6), 0.05), look.shirt)
    canvas.fill(canvas.oval((0, 1.1), (0.5, 0.9)), skin * 0.9)
    for place, top, reach in (
        (-0.62, -0.35, 0.75),
        (-0.22, -0.6, 0.95),
        (0.2, -0.6, 0.95),
        (0.6, -0.35, 0.8),
    ):
        canvas.fill(canvas.oval((place, top), (0.22, reach)), skin * 0.62)
        canvas.fill(canvas.oval((place, top), (0.19, 0.96 * reach)), skin)
    canvas.fill(canvas.oval((0, 0.45), (0.88, 0.8)), skin * 0.62)
    canvas.fill(canvas.oval((0, 0.45), (0.84, 0.77)), skin)
    canvas.glow((0, 0.6), (0.5, 0.5), -0.1)
    canvas.pixels[..., :3] *= look.light.astype(np.float32)
    return canvas.sprite()


def _paint_mug(look: Look, unit_px: float, side: float, colour: np.ndarray) -> Sprite:
    """Paint a mug as someone who drinks from it holds it, with the fingers around it."""
    canvas = Canvas((-1.6, -1.0, 1.6, 3.6), unit_px)
    inside = np.minimum(0.62 - np.abs(canvas.u), np.minimum(canvas.v + 0.62, 0.78 - canvas.v))
    canvas.fill(canvas.oval((side * 0.3, 2.6), (0.6, 1.9), 0.05), look.shirt)
    ring = canvas.oval((side * 0.66, 0.05), (0.36, 0.42)) * (
        1 - canvas.oval((side * 0.66, 0.05), (0.2, 0.27))
    )
    canvas.fill(ring, 0.85 * colour)
    round_shade = 1.08 - 0.5 * (canvas.u / 0.62) ** 2
    canvas.fill(np.clip(inside * unit_px + 0.5, 0, 1), colour * np.clip(round_shade, 0.4, 1.1)[..., None])
    for number in range(4):
        canvas.fill(canvas.oval((side * 0.42, -0.28 + 0.24 * number), (0.4, 0.12)), look.skin * 0.62)
        canvas.fill(canvas.oval((side * 0.42, -0.29 + 0.24 * number), (0.38, 0.1)), look.skin * 0.88)
    canvas.pixels[..., :3] *= look.light.astype(np.float32)
    return canvas.sprite()


def _paint_bar(unit_px: float, grey: float) -> Sprite:
    canvas = Canvas((-2.2, -1.0, 2.2, 1.0), unit_px)
    inside = np.minimum(2.1 - np.abs(canvas.u), 0.55 - np.abs(canvas.v))
    canvas.fill(np.clip(inside * unit_px + 0.5, 0, 1), (grey, grey, grey))
    return canvas.sprite()
