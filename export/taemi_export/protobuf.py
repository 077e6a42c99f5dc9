"""Protobuf's wire format, as far as reading an ONNX file needs it.

Source: the protobuf encoding guide: a message is a sequence of fields, each a key (number and wire
type in one varint) and a value.
"""

from __future__ import annotations

from collections.abc import Iterator

Value = int | memoryview
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5


def fields(view: memoryview) -> Iterator[tuple[int, int, Value]]:
    """Yield each field of a message: its number, its wire type, and its value.

    Raises:
        ValueError: The bytes are no message.
    """
    at = 0
    while at < len(view):
        key, at = varint(view, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(view, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at byte {at}")
        if number == 0 or at + length > len(view):
            raise ValueError(f"field {number} of {length} bytes at byte {at} leaves the file")
        yield number, kind, view[at : at + length]
        at += length


def varint(view: memoryview, at: int) -> tuple[int, int]:
    """Read a variable-length integer; return it and where the next byte is.

    Raises:
        ValueError: It does not end.
    """
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Negative int64 values are written as their two's complement.
            return (value - (1 << 64) if value >> 63 else value), at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {at} has more than 64 bits")


def as_str(value: Value) -> str:
    """Return a field's value as a string."""
    return bytes(as_message(value)).decode()


def as_message(value: Value) -> memoryview:
    """Return a field's value as a message or as bytes.

    Raises:
        ValueError: It is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def as_int(value: Value) -> int:
    """Return a field's value as a number.

    Raises:
        ValueError: It is a message.
    """
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")
    return value


def packed(value: Value) -> list[int]:
    """Return a packed repeated field's numbers."""
    view = as_message(value)
    numbers, at = [], 0
    while at < len(view):
        number, at = varint(view, at)
        numbers.append(number)
    return numbers
