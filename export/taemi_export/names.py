"""Names for what a conversion adds to a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Names:
    """Gives out names that nothing in a graph has, the same ones in the same order every time.

    Args:
        taken: The names that the graph has, of values and of nodes.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def new(self, wanted: str) -> str:
        """Return ``wanted``, or ``wanted.2``, ``wanted.3`` and so on where that is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}.{number}"
        self._taken.add(name)
        return name
