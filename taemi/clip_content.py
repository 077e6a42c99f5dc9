"""What training takes of a clip, from whichever of the corpus's files has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taemi.corpus import FACES, RAW, ClipRow
from taemi.crops import read_crops
from taemi.feature_pickles import read_features
from taemi_runtime.errors import DataError, MediaError
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.media import Watch, read_clip
from taemi_runtime.preprocessing import Preprocessing

# Features are kept in half precision.
_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Content:
    """A clip's sound and vision.

    Args:
        waveform: [samples] float32, mono, not normalised; ``None`` without sound.
        frames: [frames, 3, height, width] uint8 RGB; ``None`` without a picture or where there are features.
        features: [frames, width] float32, ready-made; ``None`` without any.
        remarks: What of it could not be read though the clip can be used.
        warnings: What was wrong with, and left out of, the media that could be read.
        read: Which of the row's files were looked into: ``audio``, ``media``, ``pictures``.
    """

    waveform: npt.NDArray[np.float32] | None
    frames: npt.NDArray[np.uint8] | None
    features: npt.NDArray[np.float32] | None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


def read_content(
    row: ClipRow, preprocessing: Preprocessing, detector: FaceDetector | None, watch: Watch | None = None
) -> Content:
    """Read a clip.

    Sound comes from the clip's audio file, and from the clip itself where there is none or it is broken.
    Vision comes from where the row says and from nowhere else: whole frames are no face crops.

    Args:
        row: The clip.
        preprocessing: How much is used of it, at which rate and size.
        detector: What finds faces in frames, where ``preprocessing`` asks for it.
        watch: See ``read_clip``; what it raises ends the reading.

    Raises:
        MediaError: None of its files can be read.
    """
    if row.audio is None and row.vision == RAW:
        clip = read_clip(row.media, preprocessing, detector=detector, watch=watch)
        return Content(clip.waveform, clip.frames, None, warnings=clip.warnings, read=("media",))
    reader = _Reader(row, preprocessing, detector, watch)
    frames = features = None
    if row.vision == FACES:
        frames = reader.crops()
    elif row.vision != RAW:
        features = reader.features()
    waveform = reader.sound_file()
    if row.vision == RAW or waveform is None:
        frames_of_clip, sound_of_clip = reader.clip(audio=waveform is None)
        frames = frames_of_clip if row.vision == RAW else frames
        waveform = sound_of_clip if waveform is None else waveform
    if not reader.readable:
        reasons = "; ".join(reader.remarks) or "none of its files is there"
        raise MediaError(f"cannot read clip {row.name}", reasons)
    remarks, warnings, read = (tuple(items) for items in (reader.remarks, reader.warnings, reader.read))
    return Content(waveform, frames, features, remarks, warnings, read)


class _Reader:
    """Reads the parts of one clip and notes what fails."""

    def __init__(
        self,
        row: ClipRow,
        preprocessing: Preprocessing,
        detector: FaceDetector | None,
        watch: Watch | None,
    ) -> None:
        self._row = row
        self._preprocessing = preprocessing
        self._detector = detector
        self._watch = watch
        self.remarks: list[str] = []
        self.warnings: list[str] = []
        self.read: list[str] = []
        self.readable = False

    def crops(self) -> npt.NDArray[np.uint8] | None:
        """Return the face crops."""
        if self._row.pictures is None:
            return None
        self.read.append("pictures")
        frames, broken = read_crops(self._row.pictures, self._preprocessing.vision)
        self.remarks += broken
        self.readable |= frames is not None
        return frames

    def features(self) -> npt.NDArray[np.float32] | None:
        """Return the ready-made features."""
        if self._row.pictures is None:
            return None
        self.read.append("pictures")
        try:
            features = read_features(self._row.pictures)
            if features is not None and np.abs(features).max() > _MOST:
                raise DataError(
                    f"cannot use features {self._row.pictures}", f"they hold numbers beyond {_MOST:.0f}"
                )
        except DataError as error:
            self.remarks.append(str(error))
            return None
        self.readable = True
        return None if features is None else features[: self._preprocessing.vision.max_frames]

    def sound_file(self) -> npt.NDArray[np.float32] | None:
        """Return the sound of the clip's audio file."""
        if self._row.audio is None:
            return None
        self.read.append("audio")
        try:
            clip = read_clip(self._row.audio, self._preprocessing, vision=False, watch=self._watch)
        except MediaError as error:
            self.remarks.append(str(error))
            return None
        self.readable = True
        self.warnings += clip.warnings
        return clip.waveform

    def clip(self, *, audio: bool) -> tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]:
        """Return frames, where they come from the clip, and sound, where it is asked for."""
        vision = self._row.vision == RAW
        self.read.append("media")
        try:
            clip = read_clip(
                self._row.media,
                self._preprocessing,
                audio=audio,
                vision=vision,
                detector=self._detector if vision else None,
                watch=self._watch,
            )
        except MediaError as error:
            self.remarks.append(str(error))
            return None, None
        self.readable = True
        self.warnings += clip.warnings
        return clip.frames, clip.waveform
