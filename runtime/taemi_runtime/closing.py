"""What is closed at the end of its ``with`` block."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """Something that is its own context: leaving the block closes it."""

    @abc.abstractmethod
    def close(self) -> object:
        """Give back what it holds; closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
