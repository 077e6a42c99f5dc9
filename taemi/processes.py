"""One training process among several: who it is, and how they agree.

``accelerate launch`` and ``torchrun`` start the processes and say in the environment which is which. One
process that was started in the ordinary way is alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from taemi.devices import torch_device
from taemi_runtime.errors import UsageError
from taemi_runtime.host import parse_device

# While the first process extracts features the others wait, which takes hours on a whole corpus.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model together.

    Args:
        rank: Its number, from 0.
        count: How many there are.
        device: Where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return what each process gave, in their order; all have to call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def first_alone(self, work: Callable[[], Any]) -> Any:
        """Return what ``work`` gives in the first process, to all; the others wait for it.

        Raises:
            Exception: Whatever ``work`` raised there, in all of them.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except Exception as error:  # The others would wait for ever.
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def any(self, flag: bool) -> bool:
        """Say whether it is so in any of the processes; all have to call it."""
        return bool(self.most(flag))

    def most(self, value: int) -> int:
        """Return the largest value of any of the processes; all have to call it."""
        if self.count == 1:
            return value
        told = torch.tensor([value], device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told.item())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes; all have to call it."""
        if self.count > 1:
            dist.all_reduce(values)
        return values


def launched() -> tuple[int, int]:
    """Return this process's number and how many there are, as the launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that were launched together, and leave them at the end.

    Args:
        device: ``cpu``, ``cuda[:N]``, or ``auto``: a GPU where there is one. Of several processes each takes
            the GPU of its local number.

    Raises:
        UsageError: There is no such device, or one GPU is named for several processes.
    """
    rank, count = launched()
    place = _device(device, count)
    if count == 1:
        yield Processes(0, 1, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, count, place)
    finally:
        dist.destroy_process_group()


def _device(name: str, count: int) -> torch.device:
    if count == 1:
        return torch_device(name)
    kind, index = parse_device(name)
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if index:
        raise UsageError(
            f"cannot train on {name}", f"{count} processes were launched", "Choose --device cuda: one each"
        )
    return torch_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
