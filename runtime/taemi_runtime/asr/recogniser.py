"""What every speech recogniser offers."""

from __future__ import annotations

import abc
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.engine import Probe
from taemi_runtime.errors import MissingExtraError
from taemi_runtime.preprocessing import SpeechGate

# All recognisers here are of the Whisper family: 16 kHz, windows of at most 30 s.
RATE_HZ = 16_000
WINDOW_S = 30.0
# Where several models are at hand the first of these is taken: the one that transcripts of the training
# corpus are made with by default, then others from good to small.
PREFERRED: tuple[str, ...] = (
    *("large-v3-turbo", "turbo", "large-v3", "medium.en", "medium", "small.en", "small"),
    *("base.en", "base", "tiny.en", "tiny"),
)


@dataclass(frozen=True)
class Segment:
    """A stretch of recognised speech.

    Args:
        text: What was recognised.
        no_speech: Probability that it is no speech, in [0, 1].
        logprob: Mean natural log-probability of its tokens, at most 0.
    """

    text: str
    no_speech: float
    logprob: float


class Recogniser(abc.ABC):
    """A loaded speech recognition model.

    Args:
        model: The model as a person would name it: its name, or the path of its file or folder.
    """

    name: ClassVar[str]
    """Its name in results and on the command line; its distribution's name, too."""
    module: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str]
    """The extra that installs it."""

    def __init__(self, model: str) -> None:
        self.model = model

    @classmethod
    def probe(cls) -> Probe:
        """Return whether the library is installed; nothing is imported."""
        fix = f'pip install "taemi[{cls.extra}]"'
        if importlib.util.find_spec(cls.module) is None:
            return Probe(False, "it is not installed", fix)
        try:
            return Probe(True, f"{cls.name} {version(cls.name)}")
        except PackageNotFoundError:
            # The name "whisper", for one, belongs to another project on the package index.
            return Probe(False, f"the package {cls.module} belongs to another distribution", fix)

    @classmethod
    def require(cls) -> None:
        """Check that the library is installed.

        Raises:
            MissingExtraError: It is not.
        """
        found = cls.probe()
        if not found.usable:
            raise MissingExtraError(f"cannot recognise speech with {cls.name}", found.detail, found.fix)

    @classmethod
    @abc.abstractmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a local file or folder is a model of this recogniser, by its look."""

    @classmethod
    @abc.abstractmethod
    def at_hand(cls) -> str | None:
        """Return the name of the best model that is on this machine already; nothing is downloaded."""

    @classmethod
    @abc.abstractmethod
    def open(cls, model: str, *, device: str, threads: int) -> Self:
        """Load a model, which is downloaded where it is a name and not on this machine.

        Args:
            model: A model's name, or the path of its file or folder.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            threads: Threads on the CPU; 0 is every core that may be used.

        Raises:
            MissingExtraError: The library is not installed.
            EngineError: The model cannot be loaded.
        """

    @abc.abstractmethod
    def recognise(self, samples: npt.NDArray[np.float32], gate: SpeechGate) -> list[Segment]:
        """Recognise speech, always in the same way: no sampling, nothing carried over from before.

        Args:
            samples: [samples], float32, mono, 16 kHz, full scale 1, at most 30 s.
            gate: Language and thresholds.

        Returns:
            The segments in order, those that break a threshold included where the model gives them.
        """
