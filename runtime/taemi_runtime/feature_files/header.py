"""The header of a safetensors file that nobody vouches for.

Everything that a header claims is compared with the file's size before anything is allocated for it.
Format: https://github.com/huggingface/safetensors#format (8 bytes with the header's length, JSON, data).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

# A header of ours takes a kilobyte or two; a hundredfold is still nothing.
_MOST_BYTES = 1 << 20
# What is read at once in the hope that the whole header is in it.
_FIRST_BYTES = 4096
_MOST_AXES = 8
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}


class Damaged(Exception):  # noqa: N818 - not an error by itself: whoever knows the file makes it one
    """A file is no safetensors file, or not a whole one; the message says why."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies.

    Args:
        dtype: Its element type by the format's name, e.g. ``F16``.
        shape: Its shape.
        start: Its first byte in the file.
        nbytes: Its length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file says that it holds.

    Args:
        metadata: Its free text by key.
        tensors: Its tensors by name.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the descriptor and the size of an ordinary file.

    Raises:
        Damaged: It is none, or cannot be opened.
    """
    try:
        # Without O_NONBLOCK a pipe would wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged("it is no ordinary file")
        yield handle, found.st_size
    finally:
        os.close(handle)


def read_header(handle: int, size: int) -> Header:
    """Read and check a header.

    Args:
        handle: The open file.
        size: Its size in bytes.

    Raises:
        Damaged: The header is damaged, or claims what the file does not have.
        OSError: The file cannot be read.
    """
    head = os.pread(handle, _FIRST_BYTES, 0)
    if len(head) < 8:
        raise Damaged(f"it has {len(head)} bytes and ends within its header's length")
    length = int.from_bytes(head[:8], "little")
    if length > _MOST_BYTES:
        raise Damaged(f"its header claims {length:,} bytes, at most {_MOST_BYTES:,} are read")
    if 8 + length > size:
        raise Damaged(f"it has {size:,} bytes, its header alone claims {8 + length:,}")
    text = head[8 : 8 + length]
    if len(text) < length:
        text = os.pread(handle, length, 8)
    try:
        data = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is no JSON ({error})") from error
    if not isinstance(data, dict):
        raise Damaged("its header is no JSON object")
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Damaged("its metadata is no table of strings")
    tensors = {name: _entry(name, value, 8 + length) for name, value in data.items()}
    end = max((item.start + item.nbytes for item in tensors.values()), default=8 + length)
    if end != size:
        raise Damaged(f"its tensors end at byte {end:,}, and it has {size:,}")
    return Header(metadata, tensors)


def _entry(name: str, value: Any, offset: int) -> TensorEntry:
    asked = f"its header describes tensor {name[:80]!r} wrongly"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise Damaged(asked)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise Damaged(f"{asked}: type {dtype!r} is unknown")
    if not _are_counts(shape) or len(shape) > _MOST_AXES or not _are_counts(offsets) or len(offsets) != 2:
        raise Damaged(asked)
    start, end = offsets
    nbytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - start != nbytes:
        raise Damaged(f"{asked}: {dtype} {shape} takes {nbytes:,} bytes, it has {end - start:,}")
    return TensorEntry(dtype, tuple(shape), offset + start, nbytes)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
