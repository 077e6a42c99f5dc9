"""Which windows there are, and when each is complete.

Window k of a stretch covers the seconds from k * hop to k * hop + 12, or whatever the model's longest sound
is. The last window is the first that reaches the stretch's end: it may be shorter, and a stretch shorter than
a window is one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# A rest of a stretch that is shorter than this makes no window of its own: sound tracks end some tens of
# milliseconds after the pictures.
_REST_S = 0.1
# Times are compared to this accuracy, in seconds.
_EXACT_S = 1e-6


@dataclass(frozen=True)
class Window:
    """A window of a stretch.

    Args:
        number: Its position among the stretch's windows, from 0.
        start_s: Its beginning, in seconds from the stretch's.
        end_s: Its end.
        partial: Whether the stretch ended before the window's full length.
    """

    number: int
    start_s: float
    end_s: float
    partial: bool = False


class Schedule:
    """Gives the windows of a stretch, each once, as soon as it is complete.

    Args:
        hop_s: From the beginning of one window to that of the next, above 0.
        length_s: Length of a window.
    """

    def __init__(self, hop_s: float, length_s: float) -> None:
        self._hop_s = hop_s
        self._length_s = length_s
        self._next = 0

    @property
    def needed_from_s(self) -> float:
        """Nothing before this time is needed any longer."""
        return self._next * self._hop_s

    @property
    def next_end_s(self) -> float:
        """The end of the next window, where the stretch does not end before."""
        return self._next * self._hop_s + self._length_s

    def complete(self, reached_s: float) -> Iterator[Window]:
        """Yield the windows that are complete now that a stretch is read up to a time."""
        while self.next_end_s <= reached_s + _EXACT_S:
            yield self._hand_out(self.next_end_s, partial=False)

    def last(self, end_s: float) -> Iterator[Window]:
        """Yield the windows that remain of a stretch with a known end."""
        yield from self.complete(end_s)
        start_s = self.needed_from_s
        covered_s = (self._next - 1) * self._hop_s + self._length_s if self._next else 0.0
        rest_s = end_s - max(covered_s, start_s)
        if end_s > 0 and (self._next == 0 or rest_s > _REST_S):
            yield self._hand_out(end_s, partial=True)

    def _hand_out(self, end_s: float, *, partial: bool) -> Window:
        window = Window(self._next, self.needed_from_s, end_s, partial)
        self._next += 1
        return window
