"""How a frame has to be turned and mirrored to stand upright."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return the upper left 2 x 2 part (a, b, c, d) of a frame's display matrix, when it has one.

    Beside data of a kind that PyAV does not know, as photographs with EXIF have it, only the matrix's angle
    can be had: a picture that is to be mirrored, too, then is upright and stays mirrored.
    """
    try:
        items: Any = frame.side_data
    except ValueError:
        return _quarter_turn(frame.rotation)
    for item in items:
        if item.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(item), dtype=np.int32)[:5].tolist()
            return a, b, c, d
    return None


def _quarter_turn(angle_deg: int) -> tuple[int, int, int, int]:
    """Return the matrix of a turn to the left, which is how FFmpeg counts; the nearest quarter."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[round(angle_deg / 90) % 4]
    return cosine, -sine, sine, cosine


def orient(pixels: npt.NDArray[np.uint8], matrix: tuple[int, int, int, int] | None) -> npt.NDArray[np.uint8]:
    """Turn and mirror an image as a display matrix says.

    A pixel at (x, y) belongs at (a x + c y, b x + d y), up to a shift (ISO/IEC 14496-12, 8.3.2; y runs
    downwards). Cameras write quarter turns and mirror images only; another angle counts as the
    nearest of these.

    Args:
        pixels: [rows, columns, 3], uint8.
        matrix: (a, b, c, d); ``None`` leaves the image as it is.

    Returns:
        [rows, columns, 3] or [columns, rows, 3], uint8; may share memory with ``pixels``.
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, right, down = pixels.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
