"""Face crops: a folder a clip, a picture a frame, called by the frame's number."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from taemi_runtime.images import resize_frame
from taemi_runtime.limits import DecodeLimits, LimitExceeded
from taemi_runtime.preprocessing import VisionPreprocessing

# How many crops the corpus has a second: every fifth of clip 00001's are 39, and it lasts 6.1 s.
CROPS_PER_S = 30.0
_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG")
# A whole JPEG ends with this marker (ITU-T T.81, B.1.1.3); some programs write a few bytes after it.
_JPEG_END, _JPEG_TAIL = b"\xff\xd9", 256


@dataclass(frozen=True)
class CropFolder:
    """What is in a folder of crops.

    Args:
        crops: The crops in the order of their numbers, each with its number.
        others: Everything else, such as the ``Thumbs.db`` of file managers.
    """

    crops: tuple[tuple[int, Path], ...]
    others: tuple[Path, ...]


def list_crops(folder: Path) -> CropFolder:
    """List a folder of crops; 10.jpg comes after 9.jpg.

    Raises:
        OSError: The folder cannot be read.
    """
    crops, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            stem = path.stem
            if path.suffix.lower() in _SUFFIXES and stem.isascii() and stem.isdigit() and entry.is_file():
                crops.append((int(stem), path))
            else:
                others.append(path)
    return CropFolder(tuple(sorted(crops)), tuple(sorted(others)))


def read_crops(
    folder: Path, preprocessing: VisionPreprocessing
) -> tuple[npt.NDArray[np.uint8] | None, list[str]]:
    """Read as many of a clip's crops as the model takes.

    With ``max_fps`` the first crop of every step of 1 / max_fps is taken, a crop's number telling its time.

    Args:
        folder: The folder of crops.
        preprocessing: Size, rate and number of frames.

    Returns:
        [frames, 3, height, width] uint8 RGB, or ``None`` where there is none that can be read, and what is
        wrong with the others.
    """
    try:
        listed = list_crops(folder)
    except OSError as error:
        return None, [f"{folder} cannot be listed: {error.strerror or error}"]
    frames: list[npt.NDArray[np.uint8]] = []
    broken: list[str] = []
    step = -1
    for number, path in listed.crops:
        if len(frames) == preprocessing.max_frames:
            break
        if preprocessing.max_fps is not None:
            due = math.floor(number * preprocessing.max_fps / CROPS_PER_S + 1e-6)
            if due <= step:
                continue
        try:
            frames.append(_read_crop(path, preprocessing))
        except (OSError, ValueError, SyntaxError, LimitExceeded, Image.DecompressionBombError) as error:
            broken.append(f"{path} is left out: {_tell(error)}")
            continue
        if preprocessing.max_fps is not None:
            step = due
    return (np.stack(frames) if frames else None), broken


def crop_fault(path: Path) -> str:
    """Say what is wrong with a crop as far as its first and last bytes tell; empty where nothing is."""
    try:
        size = path.stat().st_size
        if not size:
            return "the file is empty (0 bytes)"
        with path.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
            _check_size(image)
            if image.format == "JPEG":
                stream.seek(-min(size, _JPEG_TAIL), os.SEEK_END)
                if _JPEG_END not in stream.read():
                    return "the picture ends too soon"
    except (OSError, ValueError, SyntaxError, LimitExceeded, Image.DecompressionBombError) as error:
        return _tell(error)
    return ""


def _read_crop(path: Path, preprocessing: VisionPreprocessing) -> npt.NDArray[np.uint8]:
    with Image.open(path, formats=_FORMATS) as image:
        _check_size(image)
        pixels = np.asarray(image.convert("RGB"))
    return resize_frame(pixels, preprocessing.height, preprocessing.width)


def _check_size(image: Image.Image) -> None:
    DecodeLimits().check_frame(image.width, image.height)


def _tell(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no JPEG or PNG picture"
    if isinstance(error, LimitExceeded):
        return error.found
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
