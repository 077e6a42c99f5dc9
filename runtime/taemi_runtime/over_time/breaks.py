"""Where the timestamps of a source break: it stopped for a while, or its clock started over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.stream import Stream

# Where no track gives anything for longer than this, in seconds, the source stopped and returned. Tracks of
# whole recordings leave gaps of tenths of a second; slides on a screen say how long they stand.
BREAK_S = 2.0
# So many packets are looked at after a break to find which of them is the earliest.
_LOOKAHEAD = 32


@dataclass(frozen=True)
class Change:
    """A break, before a packet.

    Args:
        axis_s: How far the packet lies after the stretch's beginning, by its timestamp, in seconds.
        after_s: How far after it the next stretch begins.
        gap_s: For how long nothing came.
        why: What happened.
    """

    axis_s: float
    after_s: float
    gap_s: float
    why: str


class Times:
    """Follows the timestamps of a stretch's packets."""

    def __init__(self) -> None:
        self._last_s: dict[int, float] = {}

    def note(self, packet: Packet[Stream]) -> None:
        """Remember a packet of the stretch."""
        if packet.dts is not None and packet.time_base is not None:
            self._last_s[packet.stream.index] = float(packet.dts * packet.time_base)

    def change(
        self, packet: Packet[Stream], axis_s: float, seen_s: float, waited_s: float = 0.0
    ) -> Change | None:
        """Return the break that a packet comes after; ``None`` where it goes on.

        Args:
            packet: The packet.
            axis_s: The timestamp of the stretch's beginning, in seconds.
            seen_s: The end of the last packet, in seconds from there.
            waited_s: How long the packet was waited for, which tells the gap where its timestamp does not.
        """
        if packet.pts is None or packet.dts is None or not seen_s:
            return None
        time_s = starts_s(packet) - axis_s
        if time_s > seen_s + BREAK_S:
            gap_s = time_s - seen_s
            return Change(time_s, time_s, gap_s, f"nothing came for {gap_s:.1f} s")
        last_s = self._last_s.get(packet.stream.index, -math.inf)
        if float(packet.dts * packet.time_base) < last_s - BREAK_S:
            return Change(time_s, seen_s + waited_s, waited_s, "the source's timestamps started over")
        return None


def look_ahead(
    packet: Packet[Stream], packets: Iterator[Packet[Stream]], tracks: int
) -> tuple[list[Packet[Stream]], float]:
    """Read on until every track has given a packet of the new stretch.

    Args:
        packet: The first of it.
        packets: Those that follow.
        tracks: How many tracks there are.

    Returns:
        The packets, and how much earlier than the first of them the earliest is, in seconds.
    """
    ahead = [packet]
    while len({item.stream.index for item in ahead}) < tracks and len(ahead) < _LOOKAHEAD:
        further = next(packets, None)
        if further is None:
            break
        ahead.append(further)
    begin_s = starts_s(packet)
    earlier_s = (begin_s - starts_s(item) for item in ahead if item.pts is not None)
    return ahead, max((by_s for by_s in earlier_s if 0 <= by_s < BREAK_S), default=0.0)


def starts_s(packet: Packet[Stream]) -> float:
    """Return a packet's timestamp in seconds."""
    return float((packet.pts or 0) * packet.time_base)
