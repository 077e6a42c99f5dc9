"""Where a cluster is: an option whose value may be left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer
from typer.core import TyperCommand

from taemi_runtime.errors import UsageError

OPTION = "--ray"
LOCAL = "local"
"""A cluster of this machine, started for the job and stopped after it: the option without a value."""

# What ray.init() takes that a clip is hardly called: a running cluster of this machine, one by its head
# node's address and port, and Ray's client.
_ADDRESS = re.compile(r"local|auto|ray://\S+|([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def is_address(word: str) -> bool:
    """Return whether a word of the command line can be the address of a cluster."""
    return _ADDRESS.fullmatch(word) is not None


def check_address(address: str) -> str:
    """Return an address.

    Raises:
        UsageError: It is none.
    """
    if not is_address(address):
        raise UsageError(
            f"cannot find a Ray cluster at {address!r}",
            "that is no address",
            f"Give {OPTION} alone, {OPTION}=auto or {OPTION}=HOST:PORT",
        )
    return address


def spell_out(words: Sequence[str], option: str = OPTION) -> list[str]:
    """Give an option without a value its default, and tie the value of one with a value to it.

    typer's options have a value or have none. What follows the option belongs to it where it looks like an
    address, and is the next argument otherwise, so that no clip is swallowed.

    Args:
        words: The command line, without the command's name.
        option: The option.

    Returns:
        The command line with ``OPTION=ADDRESS`` in the place of ``OPTION`` and ``OPTION ADDRESS``.
    """
    found: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            # Whatever follows is no option.
            return [*found, *words[at - 1 :]]
        if word == option:
            address = LOCAL
            if at < len(words) and is_address(words[at]):
                address = words[at]
                at += 1
            word = f"{option}={address}"
        found.append(word)
    return found


class ClusterCommand(TyperCommand):
    """A command with the option ``--ray [ADDRESS]``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the command line."""
        return super().parse_args(ctx, spell_out(args))
