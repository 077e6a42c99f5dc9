"""Resizing frames, against the image processor that vision encoders come with."""

from __future__ import annotations

import numpy as np
import pytest

from taemi_runtime.errors import InputError
from taemi_runtime.images import resize_frame


def picture(height: int, width: int) -> np.ndarray:
    """Fine stripes, hard edges and noise: what aliasing shows on."""
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[:height, :width]
    stripes = 127 + 127 * np.sin(columns * 1.7 + rows * 0.3)
    edges = 255 * ((rows // 7 + columns // 5) % 2)
    noise = rng.integers(0, 256, (height, width))
    return np.stack([stripes, edges, noise], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (40, 40),
        (41, 57),
        (224, 224),
        (225, 223),
        (333, 480),
        (720, 405),
        (1_000, 1_000),
        (40, 1_000),
        (997, 61),
    ],
)
@pytest.mark.parametrize("size", [(224, 224), (32, 48)])
def test_crops_equal_the_image_processor(height: int, width: int, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]}, do_rescale=False, do_normalize=False
    )
    frame = picture(height, width)
    expected = np.asarray(
        processor(frame, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    )
    got = resize_frame(frame, *size)
    assert (got.dtype, got.shape) == (np.uint8, (3, *size))
    assert np.abs(got.astype(int) - expected[0]).max() <= 1


def test_shrinking_averages_instead_of_picking() -> None:
    # Every other column is white: four-neighbour interpolation would give black, white or a mixture of both.
    frame = np.zeros((64, 64, 3), dtype=np.uint8)
    frame[:, ::2] = 255
    assert np.abs(resize_frame(frame, 8, 8).astype(int) - 127).max() < 10


def test_the_right_size_is_kept_as_it_is() -> None:
    frame = picture(24, 36)
    np.testing.assert_array_equal(resize_frame(frame, 24, 36), frame.transpose(2, 0, 1))


def test_turned_and_mirrored_views_are_taken() -> None:
    frame = picture(50, 70)
    for view in (frame[::-1], frame[:, ::-1], frame.transpose(1, 0, 2)):
        np.testing.assert_array_equal(
            resize_frame(view, 20, 20), resize_frame(np.ascontiguousarray(view), 20, 20)
        )


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((10, 10, 3), dtype=np.float32),
        np.zeros((10, 10), dtype=np.uint8),
        np.zeros((3, 10, 10), dtype=np.uint8),
        np.zeros((0, 10, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(InputError, match="rows, columns, 3"):
        resize_frame(frame, 8, 8)
