"""The calls of a row that are looked at while it is traced."""

from __future__ import annotations

import time
from collections.abc import Callable

WARM_CALLS = 2
"""So many calls before them are not looked at: the first ones allocate."""
CALLS_S = 2.0
_MOST_CALLS, _LEAST_CALLS = 20, 2


def call_often(
    call: Callable[[], object], *, seconds: float = CALLS_S, look: Callable[[], object] = lambda: None
) -> tuple[int, float]:
    """Make as many calls as fit into some seconds.

    Args:
        call: One call.
        seconds: How long; 0 makes as few calls as a mean needs.
        look: Called after each of them, off the clock.

    Returns:
        How many calls there were, and their mean in milliseconds.
    """
    spent, calls = 0.0, 0
    while calls < _LEAST_CALLS or (calls < _MOST_CALLS and spent < seconds):
        start = time.perf_counter()
        call()
        spent += time.perf_counter() - start
        look()
        calls += 1
    return calls, spent / calls * 1e3


def warm_up(call: Callable[[], object]) -> None:
    """Make the calls that are not looked at."""
    for _ in range(WARM_CALLS):
        call()
