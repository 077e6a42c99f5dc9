"""How long a measurement runs, and in which order its rounds call the rows.

``balanced`` order, the default, lets every row directly follow every other one equally often (E. J.
Williams, "Experimental designs balanced for the estimation of residual effects of treatments",
Australian Journal of Scientific Research A2, 1949); mere rotation would keep most rows behind the same
predecessor. ``fixed`` order is A B C, A B C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from taemi_bench.stats import samples_needed
from taemi_runtime.errors import UsageError

Order = Literal["balanced", "fixed"]
Stop = Literal["done", "capped", "interrupted"]


@dataclass(frozen=True)
class Schedule:
    """How long a measurement runs.

    Args:
        rounds: Fewest rounds.
        seconds: Shortest time for all rounds together; both must be reached.
        max_rounds: No round is begun after so many.
        max_seconds: No round is begun after so many seconds, and no warm-up of a row lasts longer.
        least_rounds: Rounds that ``max_seconds`` does not cut off, as long as they end within twice of it.
        warmup_calls: Fewest warm-up calls of each row, the cold one not counted.
        warmup_seconds: Shortest warm-up of each row; both must be reached.
        settle_seconds: Settling time at the start of a turn: calls of the row off the clock, or idle
            where one call takes longer than that.
        settle_call_seconds: A row whose call takes longer than settling, but not than this, makes one call
            off the clock instead: other rows had the caches (wav2vec2 in int8: 1.06 times as long).
        block_seconds: A turn times as many calls as fit into this at the row's warm-up pace, at
            least one: fast rows collect the samples that high percentiles need.
        block_calls: Most timed calls in a turn.
        slow_seconds: A row whose cold call takes longer is not warmed up; ``None`` sets no limit.
        order: In which order a round gives the rows their turns.

    Raises:
        UsageError: A number is out of range or a cap lies below its minimum.
    """

    rounds: int = 30
    seconds: float = 3.0
    max_rounds: int = 5000
    max_seconds: float = 60.0
    warmup_calls: int = 3
    warmup_seconds: float = 0.5
    settle_seconds: float = 0.05
    settle_call_seconds: float = 0.5
    block_seconds: float = 0.02
    block_calls: int = 10
    slow_seconds: float | None = None
    order: Order = "balanced"
    least_rounds: int = 0

    def __post_init__(self) -> None:
        waits = (
            self.seconds,
            self.warmup_calls,
            self.warmup_seconds,
            self.settle_seconds,
            self.block_seconds,
        )
        if self.rounds < 1 or self.block_calls < 1 or min(waits) < 0:
            raise UsageError(
                "cannot time with this schedule",
                f"rounds {self.rounds}, block calls {self.block_calls}, seconds {self.seconds}, warm-up "
                f"{self.warmup_calls} calls and {self.warmup_seconds} s",
                "Give at least one round and no negative number",
            )
        if self.max_rounds < self.rounds or self.max_seconds < self.seconds:
            raise UsageError(
                "cannot time with this schedule",
                f"rounds {self.rounds} to {self.max_rounds}, seconds {self.seconds} to {self.max_seconds}",
                "Raise the cap or lower the minimum",
            )


def default_schedule(
    *,
    quick: bool = False,
    rounds: int | None = None,
    seconds: float | None = None,
    max_seconds: float | None = None,
) -> Schedule:
    """Return the usual schedule, or a short one, with what was asked for in its place.

    Args:
        quick: A first look: ten rounds are the fewest that give a median of slow rows.
        rounds: Fewest rounds.
        seconds: Shortest time; a cap below it gives way.
        max_seconds: Longest time.

    Raises:
        UsageError: A number is out of range.
    """
    usual = Schedule(rounds=10, seconds=1.0, max_seconds=15.0, warmup_seconds=0.2) if quick else Schedule()
    # A median needs ten rounds of a row that gets one call in each.
    least_rounds = min(samples_needed(50), usual.rounds if rounds is None else rounds)
    least = usual.seconds if seconds is None else seconds
    fewest = usual.rounds if rounds is None else rounds
    return replace(
        usual,
        rounds=fewest,
        seconds=least,
        max_rounds=max(fewest, usual.max_rounds),
        max_seconds=max(least, usual.max_seconds if max_seconds is None else max_seconds),
        least_rounds=least_rounds if max_seconds is None else 0,
    )


def round_orders(count: int, order: Order) -> Iterator[tuple[int, ...]]:
    """Yield the order of each round, for ever.

    Args:
        count: How many rows there are.
        order: ``fixed`` or ``balanced``; ``balanced`` repeats after ``count`` rounds, or after twice as
            many when ``count`` is odd, and within them every row directly follows every other row
            equally often and stands at every place equally often.
    """
    square = [tuple(range(count))]
    if order == "balanced" and count > 1:
        # Williams: 0, 1, n-1, 2, n-2, ... shifted by one each round; an odd n needs the mirror image, too.
        zigzag = [0, *((step + 1) // 2 if step % 2 else count - step // 2 for step in range(1, count))]
        square = [tuple((place + shift) % count for place in zigzag) for shift in range(count)]
        if count % 2:
            square += [tuple(reversed(turn)) for turn in square]
    while True:
        yield from square
