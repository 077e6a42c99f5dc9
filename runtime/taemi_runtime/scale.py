"""How much of a machine many clips use: processes that decode, threads that score, clips a batch.

On a CPU every lane runs its engines on its share of the cores: two calls on one core each take less time than
one after the other on two, as no core waits for the other. On a GPU one lane prepares while another runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from taemi_runtime.errors import UsageError
from taemi_runtime.host import usable_cores

# Starting workers takes about as long as reading this many short clips.
_TOO_FEW = 8
_MOST_WORKERS = 16
_MOST_LANES = 8
_GPU_LANES = 2
# A batch saves calls, which are cheap on a CPU, and what it holds is lost when the process is killed.
_CPU_BATCH = 4
_GPU_BATCH = 8


@dataclass(frozen=True)
class Scale:
    """How much is done at a time.

    Args:
        workers: Processes that decode; 0 decodes and scores clip by clip in this one.
        lanes: Threads that score.
        threads: Threads inside a call of an engine, as in ``EngineOptions``.
        batch: Clips that a lane scores together, at most.
    """

    workers: int = 0
    lanes: int = 1
    threads: int = 0
    batch: int = 1


def choose_scale(
    clips: int | None, *, workers: int | None, batch: int | None, threads: int, on_cpu: bool, cores: int = 0
) -> Scale:
    """Choose how clips are scored on this machine.

    Args:
        clips: How many there are; ``None`` where nobody knows.
        workers: How many processes were asked for; ``None`` leaves it to the machine.
        batch: How many clips a batch were asked for; ``None`` for the default.
        threads: Threads inside a call that were asked for; 0 leaves them to the machine.
        on_cpu: Whether engines run on the CPU.
        cores: How many cores there are; counted when 0.

    Raises:
        UsageError: Workers were asked for on a system that cannot have them.
    """
    cores = cores or usable_cores()
    if workers is None:
        pays = (clips is None or clips >= _TOO_FEW) and cores > 1 and has_workers()
        workers = min(cores, _MOST_WORKERS) if pays else 0
    elif workers and not has_workers():
        raise UsageError(
            f"cannot decode in {workers} processes",
            "this system passes no descriptors on",
            "Give --workers 0",
        )
    if not workers:
        return Scale(threads=threads)
    most = max(1, clips) if clips is not None else workers
    lanes = max(1, min(cores // (threads or 1), _MOST_LANES, clips or cores)) if on_cpu else _GPU_LANES
    return Scale(
        workers=min(workers, most),
        lanes=lanes,
        threads=threads or (max(1, cores // lanes) if on_cpu else 0),
        batch=batch or (_CPU_BATCH if on_cpu else _GPU_BATCH),
    )


def has_workers() -> bool:
    """Return whether decode workers can be started here: they inherit descriptors, as POSIX has it."""
    return os.name == "posix"
