"""What reads clips for a scorer, in its own process or in others: settings that can be sent anywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from taemi_runtime.faces.choice import open_detector
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.preprocessing import FACES_FILE, Preprocessing


@dataclass
class ClipDecoder:
    """Reads clips as a model takes them; the detector is opened where it is first used, and never pickled.

    Args:
        preprocessing: What the model takes, with the detector that is really used.
        faces: The YuNet file where ``preprocessing`` names one by its digest; ``None`` elsewhere.
        limits: What a clip may ask for.
    """

    preprocessing: Preprocessing
    faces: str | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    _detector: FaceDetector | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def detector(self) -> FaceDetector | None:
        """What finds faces, opened now at the latest; ``None`` for whole frames.

        Raises:
            TaemiError: It cannot be opened; see ``open_detector``.
        """
        if self._detector is None:
            used = self.preprocessing.vision.faces
            self._detector = open_detector(used, self.faces if used.startswith(FACES_FILE) else None)
        return self._detector

    def decode(self, path: str | PathLike[str]) -> tuple[Clip, float]:
        """Read a clip.

        Args:
            path: A local media file.

        Returns:
            The clip, and the milliseconds that reading it took.

        Raises:
            MediaError: The file is not readable media, or goes beyond a limit.
            TaemiError: The detector cannot be opened.
        """
        detector = self.detector
        start = time.perf_counter()
        clip = read_clip(Path(path), self.preprocessing, detector=detector, limits=self.limits)
        return clip, (time.perf_counter() - start) * 1e3

    def __getstate__(self) -> dict[str, object]:
        # OpenCV's detectors cannot be sent to another process.
        return {**self.__dict__, "_detector": None}
