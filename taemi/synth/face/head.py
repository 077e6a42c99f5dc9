"""Drawing a head: what stays through a clip once, what moves for every frame.

What makes OpenCV's cascade take a drawing for a face was found by trial: sockets and brows much darker than
forehead and cheeks (brows at a third of the skin's brightness), a nose ridge brighter than its sides,
shadows under nose and lower lip, a dark line between the lips, and hair darker than the skin.
"""

from __future__ import annotations

import numpy as np

from taemi.synth.face.canvas import Canvas, Pixels, Sprite
from taemi.synth.face.expression import Expression
from taemi.synth.face.look import Look

_REACH = (-1.45, -1.7, 1.45, 1.55)
_BODY_REACH = (-2.2, 0.5, 2.2, 6.5)
_BLOOD = np.array([205.0, 62.0, 70.0])
_PALE = np.array([186.0, 200.0, 226.0])
_SHINE = np.array([255.0, 228.0, 150.0])
_TEAR = np.array([176.0, 206.0, 240.0])
_WHITE = np.array([236.0, 234.0, 230.0])
_GUM = np.array([64.0, 16.0, 22.0])
_TONGUE = np.array([168.0, 70.0, 74.0])


class Head:
    """A person's head.

    Args:
        look: Who it is.
        unit_px: Half the head's width in pixels where it is drawn; it is placed at about this size.
    """

    def __init__(self, look: Look, unit_px: float) -> None:
        self._look = look
        self._canvas = Canvas(_REACH, unit_px)
        self._light = _light_on(self._canvas, look)
        self._paint_base()
        self._base = self._canvas.pixels.copy()
        self.body = _paint_body(look, unit_px)

    def draw(self, expression: Expression, time_s: float) -> Sprite:
        """Draw the head with an expression; the next call draws over what this one returns."""
        np.copyto(self._canvas.pixels, self._base)
        self._tone(expression)
        for side in (-1, 1):
            self._draw_eye(side, expression)
            self._draw_brow(side, expression)
        self._draw_mouth(expression)
        self._draw_tears(expression, time_s)
        self._canvas.pixels[..., :3] *= self._light
        np.minimum(
            self._canvas.pixels[..., :3],
            255 * self._canvas.pixels[..., 3:],
            out=self._canvas.pixels[..., :3],
        )
        return self._canvas.sprite()

    def _paint_base(self) -> None:
        canvas, look = self._canvas, self._look
        u, v = canvas.u, canvas.v
        canvas.fill(canvas.oval((0, -0.3), (1.08, 1.25)), look.hair)
        if look.long_hair:
            canvas.fill(canvas.oval((0, 0.25), (1.22, 1.25), 0.12), look.hair * 0.9)
        for side in (-1, 1):
            canvas.fill(canvas.oval((side * 0.95 * look.width, -0.02), (0.14, 0.26)), look.skin * 0.72)
        shade = 1 - 0.35 * np.abs(u) ** 2.5 - 0.1 * np.clip(v, 0, 2) ** 2
        canvas.fill(
            canvas.oval((0, 0.05), (look.width, 1.25)),
            look.skin * np.clip(shade, 0.25, 1.1)[..., None],
        )
        # The hair's lower edge on the forehead.
        canvas.fill(
            canvas.oval((0, look.fringe - 0.62), (1.0, 0.62), 0.06) * canvas.oval((0, -0.3), (1.08, 1.25)),
            look.hair * 1.08,
        )
        canvas.glow((0, -0.55), (0.5, 0.22), 0.10)
        canvas.glow((0, 0.02), (0.1, 0.35), 0.14)
        canvas.glow((0, 0.43), (0.2, 0.05), -0.22)
        canvas.glow((0, 0.98), (0.3, 0.07), -0.18)
        for side in (-1, 1):
            canvas.glow((side * 0.48, 0.3), (0.24, 0.2), 0.10)
            canvas.glow((side * 0.2, 0.3), (0.08, 0.22), -0.12)
            canvas.glow((side * 0.4, -0.16), (0.27, 0.14), -0.46)
            canvas.spot((side * 0.09, 0.4), (0.05, 0.035), look.skin * 0.35, 0.8)

    def _tone(self, expression: Expression) -> None:
        """Let blood into the face or out of it, and raise the cheeks."""
        canvas = self._canvas
        brightness = 0.3 + 0.7 * self._look.skin.mean() / 200
        canvas.tint((0, 0.05), (0.75, 0.95), brightness * _PALE, 0.5 * expression.pale)
        for side in (-1, 1):
            canvas.tint((side * 0.52, 0.32), (0.36, 0.30), brightness * _BLOOD, 0.85 * expression.flush)
            # Raised cheeks catch the light; the fold from nose to mouth deepens below them.
            canvas.tint((side * 0.5, 0.15), (0.27, 0.2), brightness * _SHINE, 0.85 * expression.cheeks)
            canvas.glow((side * 0.44, 0.5), (0.09, 0.2), -0.35 * expression.cheeks)
            canvas.glow((side * 0.09, -0.36), (0.035, 0.14), -0.55 * expression.frown)
            # The jaw is set.
            canvas.glow((side * 0.55, 0.82), (0.2, 0.24), -0.3 * expression.frown)
        canvas.tint((0, 0.3), (0.2, 0.16), brightness * _BLOOD, 0.6 * expression.flush)
        canvas.tint((0, -0.62), (0.5, 0.14), brightness * _BLOOD, 0.5 * expression.flush)
        canvas.glow((0, -0.62), (0.6, 0.2), -0.4 * expression.frown)
        for number in range(3):
            canvas.glow((0, -0.72 + 0.1 * number), (0.42, 0.018), -0.5 * expression.creases)

    def _draw_eye(self, side: int, expression: Expression) -> None:
        canvas, look = self._canvas, self._look
        middle = (side * 0.4, -0.14)
        half, opening = expression.eye_half, expression.eye_open

        def lid(t: Pixels, height: float) -> Pixels:
            # side * t runs from -1 at the inner end to 1 at the outer one, which hangs.
            hanging = expression.droop * (0.5 + 0.5 * side * t)
            return np.asarray(height * (1 - t * t) + hanging, np.float32)

        def upper(t: Pixels) -> Pixels:
            return lid(t, -opening)

        def lower(t: Pixels) -> Pixels:
            return lid(t, 0.75 * opening - min(expression.push, 0.9 * opening))

        white = _WHITE * (1, 1 - 0.14 * expression.wet, 1 - 0.14 * expression.wet)
        canvas.lens(middle, half, upper, lower, white, 0.92)
        at = (middle[0] + expression.gaze[0], middle[1] + expression.gaze[1])
        canvas.lens(middle, half, upper, lower, look.eyes, 1.0, (at, 0.095))
        canvas.lens(middle, half, upper, lower, (16, 14, 14), 1.0, (at, 0.05))
        canvas.lens(
            middle, half + 0.03, lambda t: upper(t) - 0.035, lambda t: upper(t) + 0.012, look.skin * 0.25, 0.9
        )

    def _draw_brow(self, side: int, expression: Expression) -> None:
        slant, thick = expression.brow_slant, expression.brow_weight

        def middle_line(t: Pixels) -> Pixels:
            # side * t runs from -1 at the inner end to 1 at the outer one.
            return -slant * side * t - 0.05 * (1 - t * t)

        self._canvas.lens(
            (side * 0.42, -0.36 - expression.brow_lift),
            0.27,
            lambda t: middle_line(t) - thick * (1 - 0.5 * t * t),
            lambda t: middle_line(t) + thick * (1 - 0.5 * t * t),
            np.minimum(self._look.skin * 0.3, self._look.hair),
            0.9,
        )

    def _draw_mouth(self, expression: Expression) -> None:
        canvas, look = self._canvas, self._look
        middle, half = (0.0, 0.72), expression.mouth_half
        gap, lips = expression.mouth_open, expression.lips

        def line(t: Pixels) -> Pixels:
            return expression.smile * (0.4 - t * t)

        def inner_upper(t: Pixels) -> Pixels:
            return np.asarray(line(t) - 0.25 * gap * (1 - t * t) - 0.012, np.float32)

        def inner_lower(t: Pixels) -> Pixels:
            return np.asarray(line(t) + 0.75 * gap * (1 - t * t) + 0.012, np.float32)

        def teeth_end(t: Pixels) -> Pixels:
            end = inner_upper(0.92 * t) + expression.teeth * (1 - t * t)
            return np.minimum(end, inner_lower(0.92 * t))

        canvas.lens(
            middle,
            half + 0.02,
            lambda t: inner_upper(t) - lips * (1 - t * t),
            lambda t: inner_lower(t) + 1.2 * lips * (1 - t * t),
            look.skin * (0.66, 0.40, 0.43),
            0.9,
        )
        canvas.lens(middle, half, inner_upper, inner_lower, np.minimum(_GUM, look.skin * 0.3), 0.95)
        if gap > 0.04:
            canvas.lens(
                middle,
                0.92 * half,
                lambda t: inner_upper(0.92 * t),
                lambda t: np.minimum(
                    inner_upper(0.92 * t) + expression.teeth * (1 - t * t), inner_lower(0.92 * t)
                ),
                _WHITE * 0.96,
                0.95,
            )
            canvas.lens(
                middle,
                0.6 * half,
                lambda t: inner_lower(0.6 * t) - 0.3 * gap * (1 - t * t),
                lambda t: inner_lower(0.6 * t) - 0.02,
                _TONGUE,
                0.8,
            )
        canvas.glow((0, 0.98 + 0.6 * gap), (0.24, 0.06), -0.12)

    def _draw_tears(self, expression: Expression, time_s: float) -> None:
        strength = 1.4 * (expression.wet - 0.3)
        if strength <= 0:
            return
        for side in (-1, 1):
            self._canvas.spot((side * 0.42, 0.02), (0.15, 0.04), _TEAR, min(0.85, strength))
            self._canvas.spot((side * 0.44, 0.24), (0.06, 0.26), _TEAR, min(0.55, 0.8 * strength))
            fall = (0.6 * time_s + 0.4 * side) % 1.0
            self._canvas.spot((side * 0.45, 0.1 + 0.5 * fall), (0.06, 0.09), _TEAR, min(0.9, strength))


def _light_on(canvas: Canvas, look: Look) -> Pixels:
    """Return [rows, columns, 3] how bright the light makes each pixel: it comes from one side."""
    lit = 1 + 0.16 * look.side * np.clip(canvas.u, -1.2, 1.2) - 0.03 * canvas.v
    return np.asarray(lit[..., None] * look.light, np.float32)


def _paint_body(look: Look, unit_px: float) -> Sprite:
    """Paint neck and shoulders, which do not turn with the head; (0, 0) is still its middle."""
    canvas = Canvas(_BODY_REACH, unit_px)
    chest = np.clip((1.95 - np.abs(canvas.u)) * unit_px + 0.5, 0, 1) * (canvas.v > 3.1)
    canvas.fill(np.maximum(canvas.oval((0, 3.1), (1.95, 1.5), 0.06), chest), look.shirt)
    canvas.fill(canvas.oval((0, 1.4), (0.5, 0.62), 0.05), look.skin * 0.6)
    canvas.pixels[..., :3] *= _light_on(canvas, look)
    return canvas.sprite()
