"""What every speech recogniser offers."""

from __future__ import annotations

import abc
import importlib.util
import logging
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.engine import Probe
from taemi_runtime.errors import EngineError, MissingExtraError
from taemi_runtime.preprocessing import SpeechGate
from taemi_runtime.telemetry import disable_telemetry

_log = logging.getLogger(__name__)

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
        whisper: The library's own object.
    """

    name: ClassVar[str]
    """Its name in results and on the command line; its distribution's name, too."""
    module: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str]
    """The extra that installs it."""
    remedy: ClassVar[str]
    """What to do about a model that does not load."""
    takes_repositories: ClassVar[bool] = False
    """Whether a model may be named by a repository of the Hugging Face hub."""

    def __init__(self, model: str, whisper: Any) -> None:
        self.model = model
        self._whisper = whisper

    @classmethod
    def install_command(cls) -> str:
        """Return what installs the library beside what is installed already."""
        return f'pip install "taemi[{cls.extra}]"'

    @classmethod
    def probe(cls) -> Probe:
        """Return whether the library is installed; nothing is imported."""
        fix = cls.install_command()
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
    def at_hand(cls) -> str | None:
        """Return the name of the best model that is on this machine already; nothing is downloaded."""
        if not cls.probe().usable:
            return None
        try:
            library = cls.library()
        except EngineError as error:
            _log.debug("%s", error)
            return None
        known = set(library.available_models())
        return next((name for name in PREFERRED if name in known and cls.find(library, name)), None)

    @classmethod
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
        cls.require()
        library = cls.library()
        asked = f"cannot load {cls.name} model {model}"
        place: str | Path | None = Path(model)
        if Path(model).exists():
            cls.check(Path(model), asked)
        else:
            place = cls.find(library, model)
        if place is None:
            known = library.available_models()
            # A name with a slash is another one's repository on the hub.
            if model not in known and not (cls.takes_repositories and "/" in model):
                names = ", ".join(known)
                raise EngineError(asked, f"there is no such model, file or folder (known: {names})")
            _log.warning("model %s is not on this machine and is downloaded, as --asr names it", model)
            place = cls.fetch(library, model, asked)
        try:
            whisper = cls.load(library, str(place), device=device, threads=threads)
        except Exception as error:  # CTranslate2's, torch's, urllib's and the libraries' own errors
            raise EngineError(asked, f"{type(error).__name__}: {error}", cls.remedy) from error
        return cls(model, whisper)

    @classmethod
    def library(cls) -> Any:
        """Import the library.

        Raises:
            EngineError: It is installed and does not import.
        """
        disable_telemetry()
        try:
            return import_module(cls.module)
        except Exception as error:  # torch, numba and broken wheels each fail in their own ways
            raise EngineError(
                f"cannot recognise speech with {cls.name}",
                f"it does not import ({type(error).__name__}: {error})",
                f'Install it again: pip install --force-reinstall --no-deps "{cls.name}"',
            ) from error

    @classmethod
    @abc.abstractmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a local file or folder is a model of this recogniser, by its look."""

    @classmethod
    def check(cls, path: Path, asked: str) -> None:
        """Look at a local model before it is loaded.

        Raises:
            EngineError: Something of it is missing.
        """
        del path, asked

    @classmethod
    @abc.abstractmethod
    def find(cls, library: Any, model: str) -> Path | None:
        """Return where a model that is named is on this machine; ``None`` where it is not."""

    @classmethod
    @abc.abstractmethod
    def fetch(cls, library: Any, model: str, asked: str) -> str | Path:
        """Download a model that is named, and return what ``load`` takes.

        Raises:
            EngineError: It cannot be had.
        """

    @classmethod
    @abc.abstractmethod
    def load(cls, library: Any, place: str, *, device: str, threads: int) -> Any:
        """Load a model with the library; may raise anything."""

    @abc.abstractmethod
    def recognise(self, samples: npt.NDArray[np.float32], gate: SpeechGate) -> list[Segment]:
        """Recognise speech, always in the same way: no sampling, nothing carried over from before.

        Args:
            samples: [samples], float32, mono, 16 kHz, full scale 1, at most 30 s.
            gate: Language and thresholds.

        Returns:
            The segments in order, those that break a threshold included where the model gives them.
        """
