"""Which clips make which optimiser step, and which process reads them.

The order of an epoch follows from the seed and the epoch's number alone. A step is a stretch of that order of
batch size x accumulation x processes clips, whoever computes it: so one process with a batch of 32 takes the
same steps as two with 16 each, or as one with 16 and two batches a step, and a run that was cut off can go on
at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

# So many steps' clips are sorted by length together: enough for even batches, few enough to keep them random.
_STEPS_A_POOL = 50


@dataclass(frozen=True)
class Share:
    """What one process computes at a time.

    Args:
        clips: Indices of the clips.
        counted: How many of them count, from the first. Where a step has fewer clips than there are processes
            some get one that does not count, as all of them have to take part.
        of: How many clips the whole step has.
        last: Whether the optimiser steps after it.
    """

    clips: tuple[int, ...]
    counted: int
    of: int
    last: bool


@dataclass(frozen=True)
class StepPlan:
    """How clips are dealt out.

    Args:
        clips: How many there are.
        batch_size: Clips that a process computes at a time.
        accumulation: Batches a step.
        processes: How many processes share a step.
        seed: Seed of the order.
        lengths: The length of each clip, by which they are put together; ``None`` for any order.
    """

    clips: int
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    seed: int = 0
    lengths: tuple[int, ...] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return -(-self.clips // self._step_clips)

    @property
    def _step_clips(self) -> int:
        return self.batch_size * self.accumulation * self.processes

    def epoch(self, epoch: int, rank: int = 0, skip: int = 0) -> list[Share]:
        """Return what a process computes in an epoch.

        Args:
            epoch: The epoch's number.
            rank: The process, from 0.
            skip: Steps that are done already.
        """
        at_once = self.batch_size * self.processes
        shares = []
        for step in list(self._steps(epoch))[skip:]:
            batches = [step[start : start + at_once] for start in range(0, len(step), at_once)]
            for number, batch in enumerate(batches, 1):
                mine = batch[rank :: self.processes]
                last = number == len(batches)
                shares.append(Share(tuple(mine or batch[:1]), len(mine), len(step), last))
        return shares

    def _steps(self, epoch: int) -> Iterator[Sequence[int]]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order: list[int] = torch.randperm(self.clips, generator=generator).tolist()
        size = self._step_clips
        if self.lengths is not None:
            pool = size * _STEPS_A_POOL
            pools = [order[start : start + pool] for start in range(0, len(order), pool)]
            order = [clip for part in pools for clip in sorted(part, key=self.lengths.__getitem__)]
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        if self.lengths is not None:
            # Else every epoch would go from the short clips to the long ones.
            steps = [steps[at] for at in torch.randperm(len(steps), generator=generator).tolist()]
        yield from steps
