"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from taemi_runtime.errors import UsageError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def parse_sizes(options: list[str], option_name: str = "--size") -> dict[str, int]:
    """Read ``S=N`` options.

    Args:
        options: What was given.
        option_name: What the option is called.

    Raises:
        UsageError: One is no ``S=N`` with a whole number from 1 up.
    """
    sizes = {}
    for option in options:
        name, _, length = option.partition("=")
        if not name or not (length.isascii() and length.isdigit()) or int(length) < 1:
            raise UsageError(
                f"cannot read {option_name} {option}",
                "expected S=N, N a whole number from 1 up",
                f"E.g. {option_name} batch=4" if option_name == "--size" else f"E.g. {option_name} NAME=300",
            )
        sizes[name.strip()] = int(length)
    return sizes
