"""Strict reading of our own JSON and TOML into frozen dataclasses.

msgspec checks types and runs each constructor's own checks; unknown keys, which it would ignore for
dataclasses, are refused here, so that a misspelt or newer field is never silently dropped.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def from_plain(data: Any, kind: type[T]) -> T:
    """Build ``kind`` (a dataclass tree) from plain values.

    Args:
        data: What ``json.loads`` or ``tomllib.loads`` gave.
        kind: The dataclass to build.

    Raises:
        ValueError: A field is missing, unknown, of the wrong type, or refused by a constructor. The
            message names the place as a path, e.g. ``$.files[0].bytes``.
    """
    value = msgspec.convert(data, type=kind, strict=True)
    _refuse_unknown(data, value, "$")
    return value


def to_plain(value: Any) -> Any:
    """Turn a dataclass tree into plain dicts, lists, numbers and strings."""
    return msgspec.to_builtins(value)


def to_json(value: Any) -> str:
    """Format a dataclass tree as indented JSON with a closing newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _refuse_unknown(data: Any, value: Any, place: str) -> None:
    if is_dataclass(value):
        if not isinstance(data, dict):
            return
        known = {field.name for field in fields(value)}
        extra = sorted(set(data) - known)
        if extra:
            raise ValueError(
                f"unknown field {', '.join(extra)} at {place} (known: {', '.join(sorted(known))})"
            )
        for name in known & set(data):
            _refuse_unknown(data[name], getattr(value, name), f"{place}.{name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(data, dict) and key in data:
                _refuse_unknown(data[key], item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_unknown(data[index], item, f"{place}[{index}]")
