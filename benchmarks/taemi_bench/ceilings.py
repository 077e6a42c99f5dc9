"""The CPU's ceilings, measured in the same run and with the same threads as the rows.

Arithmetic: large matrix products by the libraries that the rows use, ONNX Runtime and, where it is there,
PyTorch; the best call of all counts. Bytes: every thread passes over arrays of its own, far larger than the
caches, in three ways (copy, sum of two, largest element), and the best way counts: the numpy loops release
the interpreter's lock, so that the threads run side by side. Once more with arrays that stay in the caches: a
small network's activations, and its weights where they fit, never come from memory.

What a ceiling is not: the processor's data sheet. A call that reaches it does what these libraries can do
at their best on this machine at this time; another process on it lowers ceilings and rows alike.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_bench.roofline import Ceilings
from taemi_runtime.backends.onnxruntime_session import create_session, import_onnxruntime
from taemi_runtime.crew import map_all
from taemi_runtime.errors import TaemiError
from taemi_runtime.host import parse_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

SIDES = (128, 512, 1024, 2048)
"""Sides of the square matrices, the smallest first: small ones fit the caches, large ones hide overheads."""
SECONDS = 0.4
"""How long each figure is measured, by default; all of them together take a few seconds."""
_PATIENCE_S = 0.25
"""A product whose call would take longer is not tried: where a precision has no kernel of its own (float16
on most processors), one of 2048 x 2048 takes minutes."""
_LEAST_ARRAY_BYTES = 64 * 2**20
_CACHE_ROOT = Path("/sys/devices/system/cpu/cpu0/cache")
_SMALL_ARRAY_BYTES = 2**18


def measure_ceilings(device: str, threads: int, *, seconds: float = SECONDS) -> Ceilings:
    """Measure what a device can do at most.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads that the rows on the CPU have.
        seconds: How long each figure is measured; every figure gets at least two calls.
    """
    kind, index = parse_device(device)
    if kind == "cuda":
        from taemi_bench.cuda_ceilings import measure_cuda_ceilings

        return measure_cuda_ceilings(index, seconds=seconds)
    rates: dict[str, float] = {}
    how: dict[str, str] = {}
    for precision, name, product in _products(threads):
        for side in SIDES:
            if precision in rates and side**3 / rates[precision] > _PATIENCE_S:
                break
            try:
                rate = best_rate(product(side), side**3, seconds / len(SIDES))
            # A library lacks a kernel for a precision, which PyTorch says with a kind of RuntimeError.
            except (TaemiError, RuntimeError):
                break
            if rate > rates.get(precision, 0.0):
                rates[precision], how[precision] = rate, f"{name}, {side} x {side} x {side}"
    cache = last_level_cache()
    memory, memory_how = _bandwidth(max(_LEAST_ARRAY_BYTES, 2 * cache // threads), threads, seconds)
    cached, cached_how = max(
        _bandwidth(nbytes, threads, seconds / 2)
        for nbytes in {_SMALL_ARRAY_BYTES, max(_SMALL_ARRAY_BYTES, cache // 12 // threads)}
    )
    how |= {"bytes": memory_how, "cached bytes": cached_how}
    return Ceilings("cpu", threads, rates, memory, how, cached, cache)


def best_rate(call: Callable[[], object], work: float, seconds: float) -> float:
    """Return work per second of the fastest call.

    Args:
        call: Does it once.
        work: How much one call does.
        seconds: How long it is called; one call warms up, and at least two count.
    """
    call()
    best, calls, end = float("inf"), 0, time.perf_counter() + seconds
    while calls < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return work / best


def last_level_cache(root: Path = _CACHE_ROOT) -> int:
    """Return the size in bytes of the first processor's last cache that holds data; 0 where unknown.

    Args:
        root: The kernel's description of its caches (sysfs, ABI/testing/sysfs-devices-system-cpu).
    """
    sizes: dict[int, int] = {}
    for folder in sorted(root.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return sizes[max(sizes)] if sizes else 0


def _products(threads: int) -> Iterator[tuple[str, str, Callable[[int], Callable[[], object]]]]:
    """Yield precision, name, and what makes a product of a given side, of every library that is here."""
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        yield "fp32", "ONNX Runtime MatMul", functools.partial(_ort_product, "MatMul", threads)
        yield "int8", "ONNX Runtime MatMulInteger", functools.partial(_ort_product, "MatMulInteger", threads)
    if importlib.util.find_spec("torch"):
        for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")):
            yield precision, f"PyTorch {dtype} product", functools.partial(_torch_product, dtype, threads)


def _ort_product(operator: str, threads: int, side: int) -> Callable[[], object]:
    """Return a call of a graph of one product, its second factor constant, as a network's weights are."""
    integer = operator == "MatMulInteger"
    random = np.random.default_rng(0)
    given: Any = random.random((side, side), dtype=np.float32)
    weight: Any = random.random((side, side), dtype=np.float32)
    if integer:
        given, weight = (given * 255).astype(np.uint8), (weight * 127).astype(np.int8)
    ort = import_onnxruntime("cpu")
    graph = _graph(operator, given, weight).SerializeToString()
    session = create_session(ort, graph, threads, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": given})


def _graph(operator: str, given: Any, weight: Any) -> onnx.ModelProto:
    from onnx import helper, numpy_helper

    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in (given, weight)]
    result = helper.np_dtype_to_tensor_dtype(
        np.dtype(np.int32 if operator == "MatMulInteger" else np.float32)
    )
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], given.shape)],
        [helper.make_tensor_value_info("y", result, given.shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _torch_product(dtype: str, threads: int, side: int) -> Callable[[], object]:
    import torch

    left, right = (torch.rand(side, side).to(getattr(torch, dtype)) for _ in range(2))
    result = torch.empty_like(left)

    def call() -> object:
        with _torch_threads(threads), torch.inference_mode():
            return torch.mm(left, right, out=result)

    return call


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bandwidth(nbytes: int, threads: int, seconds: float) -> tuple[float, str]:
    """Return bytes per second of the best way over arrays of ``nbytes`` in every thread, and how."""
    elements = nbytes // 4

    def run(_: int) -> list[float]:
        a, b, c = (np.ones(elements, np.float32) for _ in range(3))
        ways: list[tuple[Callable[[], object], int]] = [
            (lambda: np.copyto(b, a), 2),
            (lambda: np.add(a, b, out=c), 3),
            (a.max, 1),
        ]
        return [best_mean_rate(call, arrays * a.nbytes, seconds / len(ways)) for call, arrays in ways]

    found = [sum(rates) for rates in zip(*map_all(run, range(threads), threads, "bandwidth"), strict=True)]
    best = max(range(len(found)), key=found.__getitem__)
    name = ("copy", "sum of two", "largest element")[best]
    size = f"{nbytes / 2**20:g} MiB" if nbytes >= 2**20 else f"{nbytes // 1024} KiB"
    return found[best], f"{name}, arrays of {size} in each of {threads} threads"


def best_mean_rate(call: Callable[[], object], work: float, seconds: float) -> float:
    """Return work per second over the best third of some time, so that threads are seen side by side.

    The fastest single call of each thread may fall into a moment when the others pause; a mean over many
    calls does not.

    Args:
        call: Does it once.
        work: How much one call does.
        seconds: How long it is called.
    """
    call()
    best = 0.0
    for _ in range(3):
        start = now = time.perf_counter()
        calls = 0
        while calls == 0 or now - start < seconds / 3:
            call()
            calls += 1
            now = time.perf_counter()
        best = max(best, calls * work / (now - start))
    return best
