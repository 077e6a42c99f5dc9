"""What a GPU does while it is measured: its clocks, what slows it, and who else uses it.

``nvidia-smi`` is asked before, every few seconds meanwhile, and after; it costs a little time of a core, none
of the GPU. Clocks are never changed, only written down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from taemi_bench.nvidia_smi import Gpu, read_gpus
from taemi_runtime.interrupts import start_all

EVERY_SECONDS = 5.0
BUSY_PERCENT = 5.0
CLOCK_SPREAD = 0.05


@dataclass(frozen=True)
class GpuActivity:
    """What was seen of one GPU.

    Args:
        samples: How often it was looked at.
        sm_clock_min_mhz: The slowest clock while it was busy; ``None`` if unknown.
        sm_clock_max_mhz: The fastest.
        temperature_max_c: Its highest temperature.
        slowed_by: Every reason for lower clocks that was active at some time.
        others: Most processes of others that computed on it at a time.
        busy_before_percent: How busy it was before the run; ``None`` if unknown.
        note: What a reader should know; empty when it was undisturbed.
    """

    samples: int
    sm_clock_min_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    temperature_max_c: float | None = None
    slowed_by: tuple[str, ...] = ()
    others: int = 0
    busy_before_percent: float | None = None
    note: str = ""


class GpuWatch:
    """Watches one GPU for as long as the context lasts.

    Args:
        index: The device's number; ``None`` watches nothing.
        before: What was there before anything was opened on it, where somebody looked.
        read: Asks for the devices.
        every: Seconds between two looks.
    """

    def __init__(
        self,
        index: int | None,
        *,
        before: Gpu | None = None,
        read: Callable[[], tuple[tuple[Gpu, ...], str]] = read_gpus,
        every: float = EVERY_SECONDS,
    ) -> None:
        self._index = index
        self._read = read
        self._every = every
        self._before = before
        self._seen: list[Gpu] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="taemi-gpu-watch", daemon=True)

    def activity(self) -> GpuActivity | None:
        """Return what was seen; ``None`` where there was nothing to watch."""
        return judge_gpu(self._before, self._seen) if self._seen else None

    def _look(self) -> None:
        gpus, _ = self._read()
        if self._index is not None and self._index < len(gpus):
            self._seen.append(gpus[self._index])

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def __enter__(self) -> Self:
        if self._index is not None:
            self._look()
            start_all([self._thread])
        return self

    def __exit__(self, *error: object) -> None:
        if self._index is not None:
            self._stop.set()
            self._look()


def judge_gpu(before: Gpu | None, seen: Sequence[Gpu]) -> GpuActivity:
    """Say what a reader should know of a GPU during a measurement.

    Args:
        before: The reading before anything of ours was on it; ``None`` where nobody looked.
        seen: The readings meanwhile, at least one.
    """
    busy = [gpu for gpu in seen if (gpu.utilisation_percent or 0) >= BUSY_PERCENT] or list(seen)
    clocks = [gpu.sm_clock_mhz for gpu in busy if gpu.sm_clock_mhz is not None]
    warm = [gpu.temperature_c for gpu in seen if gpu.temperature_c is not None]
    slowed = tuple(dict.fromkeys(reason for gpu in seen for reason in gpu.slowed_by))
    notes = []
    others = max(gpu.processes for gpu in seen)
    used = before.utilisation_percent if before is not None else None
    if others:
        notes.append(f"{others} other process{'es' * (others > 1)} computed on the GPU")
    if used is not None and used >= BUSY_PERCENT:
        notes.append(f"the GPU was {used:.0f}% busy before")
    if slowed:
        notes.append(f"the GPU was slowed by {', '.join(slowed)}")
    if clocks and min(clocks) < (1 - CLOCK_SPREAD) * max(clocks):
        notes.append(f"its clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz")
    return GpuActivity(
        samples=len(seen),
        sm_clock_min_mhz=min(clocks, default=None),
        sm_clock_max_mhz=max(clocks, default=None),
        temperature_max_c=max(warm, default=None),
        slowed_by=slowed,
        others=others,
        busy_before_percent=used,
        note="; ".join(notes),
    )
