"""Rows of a bundle's engine files: every backend that takes a file, with and without CUDA graphs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

from taemi_bench.resident_call import resident_call
from taemi_bench.rows import Row, Way
from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import EngineOptions
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Arrays, GraphSpec

GRAPHS = "CUDA graph"
_TITLES = {
    "onnxruntime-cpu": "ONNX Runtime CPU",
    "onnxruntime-cuda": "ONNX Runtime CUDA",
    "tensorrt": "TensorRT",
}


_BEST = {
    "cpu": (("onnxruntime-cpu", "int8", "taemi-export quantize BUNDLE"),),
    "cuda": (
        ("onnxruntime-cuda", "fp16", "taemi-export tensorrt BUNDLE makes it on the way"),
        ("tensorrt", "fp16", "taemi-export tensorrt BUNDLE, on the GPU's machine"),
    ),
}


def engine_ways(bundle: Bundle, graph: str, inputs: Arrays, device: str, threads: int) -> list[Way]:
    """Return the rows of a graph's engine files on a device.

    The engine's own check of names, types and shapes is part of a call; the search for NaN in the
    inputs, which is the caller's choice, is not.

    Args:
        bundle: The bundle.
        graph: The graph.
        inputs: The call's inputs.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads inside one call.
    """
    kind, index = parse_device(device)
    place = f"cuda:{index}" if kind == "cuda" else "cpu"
    spec = bundle.manifest.graphs[graph]
    ways = []
    for file, entry in bundle.engine_files(graph):
        precision = entry.precision or "fp32"
        for name in engine_backends(file, device):
            for graphs in (False, True) if kind == "cuda" else (False,):
                called = f"{title(name)} {precision}{f', {GRAPHS}' if graphs else ''}"
                row = Row(called, name, precision, graph, place, file=file, why=_why_not(name))
                options = EngineOptions(device=device, threads=threads, cuda_graphs=graphs, split_times=True)
                ways.append(Way(row, _opener(bundle, spec, inputs, options)))
    return ways


def lacking_ways(bundle: Bundle, graph: str, device: str) -> list[Way]:
    """Return rows that say how to make the engines that a device runs best, where the bundle lacks them.

    Args:
        bundle: The bundle.
        graph: The graph.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    kind, index = parse_device(device)
    place = f"cuda:{index}" if kind == "cuda" else "cpu"
    there = {
        (name, entry.precision or "fp32")
        for file, entry in bundle.engine_files(graph)
        for name in engine_backends(file, device)
    }
    return [
        Way(
            Row(
                f"{title(name)} {precision}",
                name,
                precision,
                graph,
                place,
                why=f"the bundle has none: {mend}",
            )
        )
        for name, precision, mend in _BEST[kind]
        if (name, precision) not in there
    ]


def title(backend_name: str) -> str:
    """Return what a backend is called in tables."""
    return _TITLES.get(backend_name, backend_name)


def engine_backends(file: str, device: str) -> list[str]:
    """Return the backends that take a file on a device, CPU or CUDA."""
    kind, _ = parse_device(device)
    return [name for name in takers(Path(file)) if kind in backend(name).devices]


def _why_not(name: str) -> str:
    probe = backend(name).probe()
    if probe.usable:
        return ""
    return f"{probe.detail}. {probe.fix}" if probe.fix else probe.detail


def _opener(bundle: Bundle, spec: GraphSpec, inputs: Arrays, options: EngineOptions) -> Callable[[Row], None]:
    def fill(row: Row) -> None:
        # Its digest is looked at before the clock starts: that is the bundle's cost, not the engine's.
        path = bundle.file(row.file)
        start = time.perf_counter()
        engine = open_engine(path, spec, options, backend=row.backend, precision=row.precision)
        row.load_ms = (time.perf_counter() - start) * 1e3
        if options.cuda_graphs and not engine.captures and row.device != "cpu":
            engine.close()
            row.why = f"calls of this graph are not captured into {GRAPHS}s by {row.backend}"
            return

        def bind(arrays: Arrays) -> Callable[[], object]:
            # An engine of half precision may describe itself with half-precision inputs.
            fed = {item.name: arrays[item.name].astype(item.dtype, copy=False) for item in engine.spec.inputs}

            def call() -> object:
                found = engine.run(fed, check_values=False)
                if engine.last_split is not None:
                    row.splits.append(engine.last_split)
                return found

            return call

        row.bind = bind
        if row.device != "cpu" and engine.pool is not None:
            row.bind_resident = functools.partial(resident_call, engine, engine.pool)
        row.run = bind(inputs)
        row.to_arrays = dict
        row.threads = engine.info.threads if row.device == "cpu" else 0
        row.versions = dict(engine.info.versions)
        row.tf32 = engine.info.tf32
        row.close = engine.close

    return fill
