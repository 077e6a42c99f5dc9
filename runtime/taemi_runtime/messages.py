"""What a scoring process and its decode workers say to each other over pipes.

A message is its length in eight bytes and a pickle: both ends are this program, started by itself. Arrays are
not among it: they lie in memory that both map, cut into slots, so that nothing is copied through a pipe.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import tempfile
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from taemi_runtime.preprocessing import Preprocessing

_LENGTH = struct.Struct("<Q")
_ALIGNED = 4096


class Closed(Exception):  # noqa: N818 - the other end is gone, which may well be meant
    """The other end has closed its pipe, by ending or by dying.

    Attributes:
        unasked: Whether it was gone before it heard of anything.
    """

    unasked = False


@dataclass(frozen=True)
class Layout:
    """How the shared memory is cut up.

    Args:
        slots: Clips that have room.
        sound_bytes: Bytes of the longest waveform.
        picture_bytes: Bytes of the most frames.
    """

    slots: int
    sound_bytes: int
    picture_bytes: int

    @classmethod
    def of(cls, preprocessing: Preprocessing, slots: int) -> Layout:
        """Return a layout for what a model takes at most of a clip."""
        vision = preprocessing.vision
        return cls(
            slots,
            4 * preprocessing.audio.max_samples,
            vision.max_frames * 3 * vision.height * vision.width,
        )

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot, in whole pages: those that a clip does not reach are never backed by memory."""
        return -(-(self.sound_bytes + self.picture_bytes) // _ALIGNED) * _ALIGNED

    @property
    def total_bytes(self) -> int:
        """Bytes of all slots."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Packed:
    """A clip whose arrays lie in a slot.

    Args:
        clip: What was read, without its arrays.
        samples: Length of the waveform; ``None`` without one.
        frames: Shape of the frames; ``None`` without any.
    """

    clip: Any
    samples: int | None
    frames: tuple[int, ...] | None


def pack(clip: Any, memory: mmap.mmap, layout: Layout, slot: int) -> Packed:
    """Copy a clip's arrays into a slot; see ``Decoder.decode`` for what a clip is here."""
    start = slot * layout.slot_bytes
    samples = shape = None
    if clip.waveform is not None:
        samples = clip.waveform.size
        np.frombuffer(memory, np.float32, samples, start)[:] = clip.waveform
    if clip.frames is not None:
        shape = clip.frames.shape
        target = np.frombuffer(memory, np.uint8, clip.frames.size, start + layout.sound_bytes)
        target.reshape(shape)[:] = clip.frames
    return Packed(replace(clip, waveform=None, frames=None), samples, shape)


def unpack(packed: Packed, memory: mmap.mmap, layout: Layout, slot: int) -> Any:
    """Return a packed clip; its arrays are views that hold until the slot is used again."""
    start = slot * layout.slot_bytes
    waveform = frames = None
    if packed.samples is not None:
        waveform = np.frombuffer(memory, np.float32, packed.samples, start)
    if packed.frames is not None:
        size = int(np.prod(packed.frames))
        flat = np.frombuffer(memory, np.uint8, size, start + layout.sound_bytes)
        frames = flat.reshape(packed.frames)
    return replace(packed.clip, waveform=waveform, frames=frames)


def open_memory(size: int) -> int:
    """Return the descriptor of memory that has no name, so that nothing can be left behind, kill -9 included.

    Args:
        size: Bytes; they are backed by memory when they are first written.
    """
    if hasattr(os, "memfd_create"):
        # Not bound by the size of /dev/shm, which containers keep small.
        descriptor = os.memfd_create("taemi-clips")
    else:
        with tempfile.TemporaryFile() as stream:
            descriptor = os.dup(stream.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def send(stream: IO[bytes], message: Any) -> None:
    """Send a message.

    Raises:
        Closed: Nobody reads it any more.
    """
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    try:
        stream.write(_LENGTH.pack(len(content)) + content)
        stream.flush()
    except (OSError, ValueError) as error:
        raise Closed from error


def receive(stream: IO[bytes]) -> Any:
    """Wait for a message.

    Raises:
        Closed: None will come.
    """
    try:
        head = stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise Closed
        (length,) = _LENGTH.unpack(head)
        content = stream.read(length)
    except (OSError, ValueError) as error:
        raise Closed from error
    if len(content) < length:
        raise Closed
    return pickle.loads(content)
