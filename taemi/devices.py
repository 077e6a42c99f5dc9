"""Which device PyTorch computes on."""

from __future__ import annotations

import torch

from taemi_runtime.errors import DeviceError
from taemi_runtime.host import parse_device


def torch_device(asked: str) -> torch.device:
    """Return the device that somebody asked for.

    Args:
        asked: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is CUDA where PyTorch has it.

    Raises:
        UsageError: It is none of these.
        DeviceError: PyTorch has no such device.
    """
    kind, index = parse_device(asked)
    count = torch.cuda.device_count() if kind != "cpu" and torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return torch.device("cpu")
    if index >= count:
        raise DeviceError(
            f"cannot use {asked}",
            f"PyTorch {torch.__version__} finds {count} CUDA devices",
            "Give --device cpu",
        )
    return torch.device("cuda", index)
