"""What reads clips for a scorer, in its own process or in others: settings that can be sent anywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from taemi_runtime.faces.choice import open_detector
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import Clip, Watch, read_clip
from taemi_runtime.preprocessing import FACES_FILE, Preprocessing
from taemi_runtime.ranges import span


class Decoder(Protocol):
    """What decode workers run; it is sent to them once."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What the model takes, which says how much memory a clip needs."""

    @property
    def limits(self) -> DecodeLimits:
        """What reading one thing may ask for."""

    @property
    def detector(self) -> FaceDetector | None:
        """What finds faces, opened now at the latest."""

    def decode(self, what: Any, /) -> tuple[Any, float]:
        """Read one thing.

        Returns:
            A frozen dataclass with the arrays ``waveform`` and ``frames`` as in [Clip][], either of which
            may be ``None``, and the milliseconds that reading took.
        """


@dataclass
class ClipDecoder:
    """Reads clips as a model takes them; the detector is opened where it is first used, and never pickled.

    Args:
        preprocessing: What the model takes, with the detector that is really used.
        faces: The YuNet file where ``preprocessing`` names one by its digest; ``None`` elsewhere.
        limits: What a clip may ask for.
        audio: Whether the audio track is read.
        vision: Whether the video track is read.
    """

    preprocessing: Preprocessing
    faces: str | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    audio: bool = True
    vision: bool = True
    _idle: list[FaceDetector] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def detector(self) -> FaceDetector | None:
        """What finds faces, opened now at the latest; ``None`` for whole frames. For one thread at a time.

        Raises:
            TaemiError: It cannot be opened; see ``open_detector``.
        """
        if not self._idle and (opened := self._open()) is not None:
            self._idle.append(opened)
        return self._idle[-1] if self._idle else None

    def decode(self, path: str | PathLike[str], watch: Watch | None = None) -> tuple[Clip, float]:
        """Read a clip; any number of threads may do so.

        Args:
            path: A local media file.
            watch: Is shown the tracks after every packet; see ``read_clip``.

        Returns:
            The clip, and the milliseconds that reading it took.

        Raises:
            MediaError: The file is not readable media, or goes beyond a limit.
            TaemiError: The detector cannot be opened.
        """
        # Detectors keep state between the frames of a call: each serves one thread at a time.
        try:
            detector: FaceDetector | None = self._idle.pop()
        except IndexError:
            detector = self._open() if self.vision else None
        try:
            start = time.perf_counter()
            with span("decode"):
                clip = read_clip(
                    Path(path),
                    self.preprocessing,
                    audio=self.audio,
                    vision=self.vision,
                    detector=detector,
                    limits=self.limits,
                    watch=watch,
                )
            return clip, (time.perf_counter() - start) * 1e3
        finally:
            if detector is not None:
                self._idle.append(detector)

    def _open(self) -> FaceDetector | None:
        used = self.preprocessing.vision.faces
        return open_detector(used, self.faces if used.startswith(FACES_FILE) else None)

    def __getstate__(self) -> dict[str, object]:
        # OpenCV's detectors cannot be sent to another process.
        return {**self.__dict__, "_idle": []}
