"""What the six emotions do to a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taemi.synth.latent import Vector


@dataclass(frozen=True)
class Expression:
    """How a face is set at a moment. Lengths are in half head widths.

    Args:
        brow_lift: How much higher than at rest the brows are.
        brow_slant: How much lower their inner ends are than the outer ones; below 0 higher.
        brow_weight: Thickness of the brows.
        frown: Depth of the creases between the brows, 0 to 1.
        creases: Depth of the creases across the forehead, 0 to 1.
        eye_half: Half the width of the eye.
        eye_open: Half the height of the open eye.
        droop: How far the outer end of the upper lid hangs.
        push: How far the lower lid is pushed up.
        gaze: Where the eyes look, (to the right, down).
        wet: How wet eyes and cheeks are with tears, 0 to 1.
        mouth_half: Half the width of the mouth.
        smile: How much higher the corners of the mouth are than its middle.
        mouth_open: How far the mouth is open.
        teeth: How far the upper teeth reach down in the open mouth.
        lips: Thickness of the lips.
        cheeks: How far the cheeks are raised, 0 to 1.
        flush: How much blood is in the cheeks, 0 to 1.
        pale: How little blood is in the face, 0 to 1.
    """

    brow_lift: float
    brow_slant: float
    brow_weight: float
    frown: float
    creases: float
    eye_half: float
    eye_open: float
    droop: float
    push: float
    gaze: tuple[float, float]
    wet: float
    mouth_half: float
    smile: float
    mouth_open: float
    teeth: float
    lips: float
    cheeks: float
    flush: float
    pale: float


def express(shown: Vector, loudness: float, eyes_shut: float) -> Expression:
    """Set a face.

    Args:
        shown: [6] how much of each emotion is shown, in the order of the emotions, 0 (held back) to 1 (shown
            fully). Admiration flushes the face and turns the eyes up; Amusement laughs, mouth wide open
            and eyes narrow; Determination lowers and knits the brows and presses the lips; Empathic Pain
            slants the brows the other way, lets the lids droop and brings tears; Excitement lifts the
            brows, widens the eyes and rounds the mouth; Joy smiles and raises the cheeks.
        loudness: How loud the voice is, 0 to 1: what the mouth moves with.
        eyes_shut: How far a blink has shut the eyes, 0 to 1.
    """
    admiration, amusement, determination, pain, excitement, joy = (float(share) for share in shown)
    talking = 0.6 + 0.4 * loudness
    eye_open = 0.06 + 0.115 * excitement - 0.03 * amusement - 0.02 * determination
    return Expression(
        brow_lift=0.16 * excitement - 0.11 * determination + 0.03 * admiration,
        brow_slant=0.16 * determination - 0.20 * pain,
        brow_weight=0.045 + 0.06 * determination,
        frown=determination,
        creases=excitement,
        eye_half=0.18 + 0.04 * excitement,
        eye_open=max(eye_open, 0.03) * (1 - 0.9 * eyes_shut),
        droop=0.07 * pain,
        push=0.05 * joy + 0.04 * amusement,
        gaze=(0.0, 0.05 * pain - 0.06 * admiration),
        wet=pain,
        mouth_half=0.28 + 0.16 * joy + 0.1 * amusement,
        smile=float(np.clip(0.20 * joy + 0.06 * amusement - 0.22 * pain, -0.16, 0.22)),
        mouth_open=0.03 + 0.09 * joy + (0.36 * amusement + 0.05 * excitement) * talking,
        teeth=0.04 + 0.12 * joy,
        lips=0.075 - 0.04 * determination + 0.01 * excitement,
        cheeks=joy,
        flush=admiration,
        pale=pain,
    )
