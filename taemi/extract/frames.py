"""Frames of many clips through the vision encoder, in batches that know no clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from taemi.encoders import VisionEncoder
from taemi_runtime.errors import DeviceError

T = TypeVar("T")


@dataclass
class _Open(Generic[T]):
    """A clip of which frames are on their way."""

    tag: T
    values: npt.NDArray[np.float32]
    missing: int


class FrameBatches(Generic[T]):
    """Fills batches with the frames of one clip after another.

    Every call of the encoder gets a whole batch, the last one filled up with whatever frames came before:
    kernels are chosen by a batch's shape, and a frame has the same features whichever clips stand beside it.

    Args:
        encoder: The encoder, on ``device``.
        device: Where it is.
        size: Frames a call.
    """

    def __init__(self, encoder: VisionEncoder, device: torch.device, size: int) -> None:
        self._encoder = encoder
        self._device = device
        self._frames = torch.zeros(
            (size, 3, encoder.height, encoder.width), dtype=torch.uint8, pin_memory=device.type == "cuda"
        )
        self._filled = 0
        # (clip, its first row in the batch, its first frame, how many)
        self._parts: list[tuple[_Open[T], int, int, int]] = []

    def add(self, tag: T, frames: npt.NDArray[np.uint8]) -> list[tuple[T, npt.NDArray[np.float32]]]:
        """Take a clip's frames, which are copied.

        Args:
            tag: What the clip is called.
            frames: [frames, 3, height, width] uint8 RGB.

        Returns:
            The clips that are done, each with its features, [frames, dim] float32.

        Raises:
            DeviceError: The device's memory does not hold a batch.
        """
        size = len(self._frames)
        clip = _Open(tag, np.empty((len(frames), self._encoder.dim), np.float32), len(frames))
        done = []
        start = 0
        while start < len(frames):
            count = min(size - self._filled, len(frames) - start)
            target = self._frames[self._filled : self._filled + count]
            target.numpy()[:] = frames[start : start + count]
            self._parts.append((clip, self._filled, start, count))
            self._filled += count
            start += count
            if self._filled == size:
                done += self.flush()
        return done

    def flush(self) -> list[tuple[T, npt.NDArray[np.float32]]]:
        """Encode what is there, and return the clips that are done as ``add`` does.

        Raises:
            DeviceError: The device's memory does not hold a batch.
        """
        if not self._filled:
            return []
        parts, self._parts, self._filled = self._parts, [], 0
        values = self._encode()
        done = []
        for clip, row, start, count in parts:
            clip.values[start : start + count] = values[row : row + count]
            clip.missing -= count
            if not clip.missing:
                done.append((clip.tag, clip.values))
        return done

    def _encode(self) -> npt.NDArray[np.float32]:
        try:
            with torch.inference_mode():
                encoded = self._encoder(self._frames.to(self._device, non_blocking=True))
                values: npt.NDArray[np.float32] = encoded.float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"cannot encode {len(self._frames)} frames at a time on {self._device}",
                str(error).splitlines()[0],
                "Give a smaller --batch",
            ) from error
        return values
