"""Protobuf's text format, as far as writing a ``config.pbtxt`` needs it.

The server's message classes come with its client package, which a machine that exports has no need of;
the tests parse what is written here with those very classes.

Source: the text format language specification (protobuf.dev): a message is a sequence of ``name: value``
and ``name { ... }``; a repeated field is given once for each of its values, or as a list in brackets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """The name of an enum's value, which is written without quotes."""

    name: str


def format_message(message: Mapping[str, object]) -> str:
    """Format a message.

    Args:
        message: Field name -> a scalar (str, int, bool or [Word][]), a message, or a list of either.
            ``None`` and empty lists are left out; an empty message is written, since it means something.

    Raises:
        TypeError: A value is none of these.
    """
    return "".join(f"{line}\n" for line in _lines(message, 0))


def _lines(message: Mapping[str, object], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in message.items():
        if value is None:
            continue
        if isinstance(value, list) and not any(isinstance(item, Mapping) for item in value):
            if value:
                yield f"{indent}{name}: [{', '.join(map(_scalar, value))}]"
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(item, depth + 1)
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(item)}"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{"".join(map(_escape, value))}"'
    raise TypeError(f"the text format has no {type(value).__name__} here: {value!r}")


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    # Octal escapes are bytes of the UTF-8 form, three digits each.
    return "".join(f"\\{byte:03o}" for byte in character.encode())
