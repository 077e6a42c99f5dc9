"""How long one call takes: a graph's files and PyTorch in turn, in one process.

A quick look for the table that ``quantize`` prints. Figures to publish come from ``taemi-bench``, which
reports its samples, its machine and the noise of both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.spec import Arrays, GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

_ROUNDS = 15
_SECONDS = 8.0
_SETTLE = 0.06
PYTORCH = "PyTorch"


@dataclass(frozen=True)
class Speed:
    """Median call times.

    Args:
        sizes: The lengths of the call, by symbol.
        median_ms: Median time of a call in milliseconds, by what ran it.
        ratio: Median over the rounds of the time of the others over that of the last file.
    """

    sizes: dict[str, int]
    median_ms: dict[str, float]
    ratio: dict[str, float]


def compare_speed(spec: GraphSpec, files: Mapping[str, Path], source: ExportSource | None = None) -> Speed:
    """Time the files of one graph against each other, on the CPU, at the graph's typical lengths.

    Args:
        spec: The graph.
        files: Engine files by label; the last is what the others are compared with.
        source: The opened checkpoint, for PyTorch's side; not timed when ``None``.
    """
    free = {symbol.name: symbol.typical for symbol in spec.free_symbols}
    sizes = spec.sizes(free)
    inputs = draw_inputs(spec, free, ragged=False, poison=False)
    engines = [
        open_engine(path, spec, EngineOptions(device="cpu"), precision=label) for label, path in files.items()
    ]
    calls: dict[str, Callable[[], object]] = {}
    if source is not None:
        calls[PYTORCH] = _eager(spec, source, inputs)
    for label, engine in zip(files, engines, strict=True):
        calls[label] = lambda engine=engine: engine.run(inputs)  # type: ignore[misc]
    try:
        times = _in_turn(calls)
    finally:
        for engine in engines:
            engine.close()
    last = times[list(files)[-1]]
    return Speed(
        sizes,
        {label: statistics.median(values) * 1e3 for label, values in times.items()},
        {
            label: statistics.median(a / b for a, b in zip(values, last, strict=True))
            for label, values in times.items()
            if values is not last
        },
    )


def _eager(spec: GraphSpec, source: ExportSource, inputs: Arrays) -> Callable[[], object]:
    import torch

    graph = source.graph(spec.name)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return lambda: graph.reference(tensors)


def _in_turn(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {label: [] for label in calls}
    for call in calls.values():
        call()
    start = time.perf_counter()
    for number in range(_ROUNDS):
        # Every other round backwards: nobody always runs behind the same predecessor.
        for label in list(calls)[:: -1 if number % 2 else 1]:
            # The threads of the one before spin for some 50 ms; then its own must wake up.
            time.sleep(_SETTLE)
            calls[label]()
            begin = time.perf_counter()
            calls[label]()
            times[label].append(time.perf_counter() - begin)
        if time.perf_counter() - start > _SECONDS and number >= 2:
            break
    return times
