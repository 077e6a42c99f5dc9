"""A GPU's ceilings by PyTorch: large products and copies. Never executed on a GPU so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taemi_bench.roofline import Ceilings
from taemi_runtime.errors import DeviceError, MissingExtraError

SIDE = 8192
"""Side of the square matrices: a product of this size keeps every multiprocessor of today's GPUs busy."""
ARRAY_BYTES = 2**30
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}


def measure_cuda_ceilings(index: int, *, seconds: float) -> Ceilings:
    """Measure a GPU, full float32 and not TF32 as the engines have it.

    Args:
        index: The device's number.
        seconds: How long each figure is measured.

    Raises:
        MissingExtraError: torch is not installed.
        DeviceError: torch sees no such device.
    """
    asked = f"cannot measure the ceilings of cuda:{index}"
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            asked, "torch is not installed", 'Install it: pip install "taemi[train]"'
        ) from error
    if index >= torch.cuda.device_count():
        raise DeviceError(asked, f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    place = torch.device("cuda", index)
    facts: Any = torch.cuda.get_device_properties(place)
    rates: dict[str, float] = {}
    how: dict[str, str] = {}
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        for precision, dtype in _DTYPES.items():
            try:
                call = _product(torch, place, dtype)
                rates[precision] = _best_rate(torch, place, call, SIDE**3, seconds)
                how[precision] = f"PyTorch {dtype} product, {SIDE} x {SIDE} x {SIDE}"
            except RuntimeError:
                continue  # a precision that this device or this build lacks
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    memory = _copy_rate(torch, place, ARRAY_BYTES, seconds)
    cache = int(getattr(facts, "L2_cache_size", 0))
    cached = _copy_rate(torch, place, cache // 4, seconds) if cache else None
    how["bytes"] = f"PyTorch copy of {ARRAY_BYTES // 2**20} MiB"
    if cached is not None:
        how["cached bytes"] = f"PyTorch copy of {cache // 4 // 1024} KiB"
    return Ceilings(f"cuda:{index}", 0, rates, memory, how, cached, cache)


def _product(torch: Any, place: Any, dtype: str) -> Callable[[], object]:
    if dtype == "int8":
        left, right = (
            torch.randint(-128, 127, (SIDE, SIDE), dtype=torch.int8, device=place) for _ in range(2)
        )
        return lambda: torch._int_mm(left, right)
    left, right = (torch.rand(SIDE, SIDE, device=place).to(getattr(torch, dtype)) for _ in range(2))
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result)


def _copy_rate(torch: Any, place: Any, nbytes: int, seconds: float) -> float:
    source, target = (torch.zeros(nbytes, dtype=torch.uint8, device=place) for _ in range(2))
    return _best_rate(torch, place, lambda: target.copy_(source), 2 * nbytes, seconds)


def _best_rate(
    torch: Any, place: Any, call: Callable[[], object], work: float, seconds: float, batch: int = 10
) -> float:
    """Return work per second by CUDA events around batches of calls: launching overlaps with computing."""
    with torch.cuda.device(place):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(2):
            call()
        torch.cuda.synchronize(place)
        best, rounds, stop = float("inf"), 0, time.perf_counter() + seconds
        while rounds < 2 or time.perf_counter() < stop:
            begin.record()
            for _ in range(batch):
                call()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / batch)
            rounds += 1
    return work / (best / 1e3)
