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
# How JPEG (ITU-T T.81, B.1.1.3) and PNG (ISO/IEC 15948, 5.2 and 11.2.5) begin and end; some programs write a
# few bytes after the end.
_MARKS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND"}
_TAIL_BYTES = 256
_NO_PICTURE = "it is no JPEG or PNG picture"


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
            numbered = path.suffix.lower() in _SUFFIXES and stem.isascii() and stem.isdigit()
            # The entry's own answer costs nothing, and raises where a link leads in a circle.
            if numbered and (path.is_file() if entry.is_symlink() else entry.is_file()):
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
    """Say what is wrong with a crop as far as its first and last bytes tell; empty where nothing is.

    Two short reads, as a corpus has millions of crops: what is damaged within is found by decoding alone.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return _tell(error)
    try:
        head = os.pread(handle, _TAIL_BYTES, 0)
        tail = head
        if len(head) == _TAIL_BYTES:
            tail = os.pread(handle, _TAIL_BYTES, max(0, os.fstat(handle).st_size - _TAIL_BYTES))
    except OSError as error:
        return _tell(error)
    finally:
        os.close(handle)
    if not head:
        return "the file is empty (0 bytes)"
    end = next((end for begin, end in _MARKS.items() if head.startswith(begin)), None)
    if end is None:
        return _NO_PICTURE
    return "" if end in tail else "the picture ends too soon"


def _read_crop(path: Path, preprocessing: VisionPreprocessing) -> npt.NDArray[np.uint8]:
    with Image.open(path, formats=_FORMATS) as image:
        _check_size(image)
        pixels = np.asarray(image.convert("RGB"))
    return resize_frame(pixels, preprocessing.height, preprocessing.width)


def _check_size(image: Image.Image) -> None:
    DecodeLimits().check_frame(image.width, image.height)


def _tell(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return _NO_PICTURE
    if isinstance(error, LimitExceeded):
        return error.found
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
