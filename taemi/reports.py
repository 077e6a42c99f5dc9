"""What training says of each epoch."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class EpochReport:
    """What one epoch did.

    Args:
        epoch: From 1.
        epochs: The most there will be.
        loss: Mean squared error over the training clips of the epoch.
        rho: Mean validation correlation over the outputs.
        rho_by_output: The correlation of each output.
        best: Whether it is the best so far.
        seconds: Wall time, validation included; of its last part where the run was cut off in it.
        training_seconds: Wall time of its steps, of that part likewise.
        waiting_seconds: The part of them in which the first process waited for batches to be read.
        clips_per_s: Clips trained on a second, over all processes, in that part.
        learning_rate: Rate of its last step.
        peak_memory_bytes: On CUDA the most that tensors took in this process since its start, else the most
            memory that the process had.
    """

    epoch: int
    epochs: int
    loss: float
    rho: float
    rho_by_output: tuple[float, ...]
    best: bool
    seconds: float
    training_seconds: float = 0.0
    waiting_seconds: float = 0.0
    clips_per_s: float = 0.0
    learning_rate: float = 0.0
    peak_memory_bytes: int = 0


Report = Callable[[EpochReport], None]


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that training has taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in units of 1,024 bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
