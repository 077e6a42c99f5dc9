"""From a frame or face crop of any size to the vision encoder's input size.

Preprocessing of pixels ends at uint8: scaling to [0, 1] and normalisation are the first operators of
the vision graph, so that the same bytes feed every engine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from taemi_runtime.errors import InputError


def resize_frame(frame: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize an image as the image processor of the vision encoder does.

    Pillow's bilinear filter widens its support when it shrinks an image (antialiasing), as
    ``ViTImageProcessorPil`` of transformers does by calling it; filters without that, such as plain
    bilinear interpolation of four neighbours, differ by tens of grey levels on fine detail.

    Args:
        frame: [rows, columns, 3], uint8, RGB in [0, 255].
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        [3, height, width], uint8, RGB in [0, 255], contiguous.

    Raises:
        InputError: ``frame`` is no RGB image of that type.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(
            "cannot resize a frame",
            f"got {frame.dtype} {list(frame.shape)}, expected uint8 [rows, columns, 3]",
            "Give an RGB image with its channels last",
        )
    image = Image.fromarray(np.ascontiguousarray(frame))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))
