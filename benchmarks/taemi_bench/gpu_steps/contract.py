"""What a step is given, and how it says that it cannot run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taemi_runtime.atomic import write_text
from taemi_runtime.host import cuda_driver

CHECKPOINT_NAME = "model.pt"
SCORES_NAME = "scores.taemi"
BUNDLE_NAME = "model.taemi"


class NotRunError(Exception):
    """Something that a step needs is not there; the message says what, in one line."""


@dataclass
class Recorder:
    """Keeps what a step found out, on disk from the first fact on.

    Args:
        path: The JSON file.
        name: The step's name.
        facts: What is known so far.
    """

    path: Path
    name: str
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self, **facts: Any) -> None:
        """Add facts and write all of them."""
        self.facts |= facts
        self.write("running", "")

    def write(self, status: str, why: str) -> None:
        """Write the step's state."""
        write_text(self.path, format_json({"status": status, "why": why, "facts": self.facts}))


@dataclass(frozen=True)
class Context:
    """What a step works with.

    Args:
        work: Folder for what steps leave for each other.
        recorder: Where results go.
        given_checkpoint: A checkpoint to use instead of making one.
        given_bundle: A bundle to use instead of exporting one.
        build_pycuda: Whether pycuda may be installed into ``work``.
        ends_at: Monotonic time at which the step is stopped.
    """

    work: Path
    recorder: Recorder
    given_checkpoint: Path | None = None
    given_bundle: Path | None = None
    build_pycuda: bool = False
    ends_at: float = math.inf

    def too_late(self, seconds: float) -> str:
        """Say that less than so many seconds are left; empty when there are more.

        A step of several parts asks before each of them, so that it ends by itself with what it has.

        Args:
            seconds: What the next part needs.
        """
        left = self.ends_at - time.monotonic()
        return f"not run: {max(0.0, left):.0f} s are left of the step's time" if left < seconds else ""

    def record(self, **facts: Any) -> None:
        """Keep facts at once."""
        self.recorder.record(**facts)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to measure.

        Raises:
            NotRunError: There is none.
        """
        path = self.given_checkpoint or self.work / CHECKPOINT_NAME
        if not path.is_file():
            raise NotRunError("there is no checkpoint: the step checkpoint did not make one")
        return path

    def bundle(self, *, whole: bool = False) -> Path:
        """Return a bundle.

        Args:
            whole: Whether one with every graph is preferred to one with the score graph alone.

        Raises:
            NotRunError: There is none.
        """
        if self.given_bundle is not None:
            return self.given_bundle
        names = (BUNDLE_NAME, SCORES_NAME) if whole else (SCORES_NAME, BUNDLE_NAME)
        for path in [self.work / name for name in names]:
            if path.is_dir():
                return path
        raise NotRunError("there is no bundle: the step export-scores did not make one")


def require_cuda() -> None:
    """Go on only with a CUDA device.

    Raises:
        NotRunError: There is none; says why.
    """
    if why := cuda_driver().why:
        raise NotRunError(f"no CUDA device: {why}")


def format_json(data: Mapping[str, Any]) -> str:
    """Format plain values as indented JSON; infinite numbers and NaN become null."""
    return json.dumps(_finite(data), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
