"""Copies within a device through ONNX Runtime, which has no call for them: a graph of one Identity.

An output that clips share is computed in one piece and taken apart, an input is put together from one piece
for each clip. The library's own copies go between host and device only; a session on the same device, whose
input and output are bound to any two addresses, copies between them and needs no other CUDA library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# ONNX, IR 10, opset 20: y = Identity(x), uint8 [n].
IDENTITY = (
    b'\x08\n:9\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x10\n\x01x\x12\x0b\n\t\x08\x02\x12\x05\n\x03'
    b"\x12\x01nb\x10\n\x01y\x12\x0b\n\t\x08\x02\x12\x05\n\x03\x12\x01nB\x02\x10\x14"
)


class DeviceCopies:
    """Copies bytes between addresses of one device; one caller at a time.

    Args:
        open_session: Opens a graph's bytes in a session on the device; called with the first copy.
        device: The device as ONNX Runtime names it: its kind and number.
    """

    def __init__(self, open_session: Callable[[bytes], Any], device: tuple[str, int]) -> None:
        self._open_session = open_session
        self._device = device
        self._session: Any = None
        self._binding: Any = None

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copy, and wait for it.

        Args:
            source: The address of the first byte that is read.
            target: And of the first that is written; the two ranges do not overlap.
            nbytes: How many; nothing happens for 0.
        """
        if not nbytes:
            return
        if self._session is None:
            self._session = self._open_session(IDENTITY)
            self._binding = self._session.io_binding()
        kind = np.dtype(np.uint8)
        self._binding.bind_input("x", *self._device, kind, (nbytes,), source)
        self._binding.bind_output("y", *self._device, kind, (nbytes,), target)
        self._session.run_with_iobinding(self._binding, None)
        self._binding.synchronize_outputs()

    def close(self) -> None:
        """Free the session."""
        self._binding = self._session = None
