"""The cases that a split is scored in: every combination of modalities, and every level of every curve."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields

from taemi_runtime.contract import MODALITIES
from taemi_runtime.errors import UsageError

Flags = tuple[bool, bool, bool]

NOTHING = "none"
"""The condition in which no modality is looked at: every clip gets the same scores."""
CONDITIONS: tuple[Flags, ...] = tuple(
    sorted(
        itertools.product((True, False), (True, False), (True, False)),
        key=lambda flags: -sum(flags),
    )
)
"""Every combination of modalities, in the order of ``MODALITIES``: all of them first, none last."""


def condition_name(flags: Flags) -> str:
    """Name a combination of modalities, e.g. ``audio+text``."""
    return "+".join(name for name, flag in zip(MODALITIES, flags, strict=True) if flag) or NOTHING


@dataclass(frozen=True)
class CurveKind:
    """What is varied along a curve.

    Args:
        name: Its name in files.
        title: What it is about.
        axis: What its levels are, with their unit.
        clean: What the undisturbed clips are called along it.
    """

    name: str
    title: str
    axis: str
    clean: str

    def label(self, level: float | None) -> str:
        """Name a level; ``None`` is the clips as they are."""
        if level is None:
            return self.clean
        return f"{100 * level:g} %" if self.axis.startswith("share") else f"{level:g}"


NOISE = CurveKind("noise", "white noise in the sound", "SNR in dB", "clean")
OCCLUSION = CurveKind("occlusion", "frames covered by a block", "share of frames covered", "clean")
WORDS = CurveKind("words", "words left out", "share of words left out", "clean")
RATE = CurveKind("max_fps", "frames looked at (--max-fps)", "frames a second", "as trained")


@dataclass(frozen=True)
class Robustness:
    """The levels of the curves, in the order in which they are shown; an empty one is no curve.

    Args:
        noise: Signal-to-noise ratios in dB.
        occlusion: Shares of frames that are covered, in (0, 1].
        words: Shares of words that are left out, in (0, 1].
        max_fps: Frames a second that are looked at.
    """

    noise: tuple[float, ...] = (20.0, 10.0, 5.0, 0.0, -5.0)
    occlusion: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    words: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    max_fps: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 15.0)

    def __post_init__(self) -> None:
        asked = "the levels of the robustness curves are inconsistent"
        for name in ("occlusion", "words"):
            if not all(0 < level <= 1 for level in getattr(self, name)):
                raise UsageError(asked, f"{name} has {getattr(self, name)}", "Give shares above 0, at most 1")
        if not all(math.isfinite(level) for level in self.noise):
            raise UsageError(asked, f"noise has {self.noise}", "Give finite ratios in dB")
        if not all(0 < level < math.inf for level in self.max_fps):
            raise UsageError(asked, f"max_fps has {self.max_fps}", "Give positive rates")

    def curves(self) -> list[tuple[CurveKind, tuple[float, ...]]]:
        """Return the curves that have levels."""
        kinds = {kind.name: kind for kind in (NOISE, OCCLUSION, WORDS, RATE)}
        levels = {item.name: getattr(self, item.name) for item in fields(self)}
        return [(kinds[name], found) for name, found in levels.items() if found]


NO_CURVES = Robustness((), (), (), ())
