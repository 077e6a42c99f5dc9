"""OpenVINO on the CPU, as a peer from outside: it reads the very ONNX files that the bundle holds.

Its precision hint is float32, as its default on a CPU with bfloat16 units would be bfloat16; it has the
threads of the other rows, one stream, and the lengths that the file leaves open stay open, as for every
engine. API: docs.openvino.ai, "OpenVINO Runtime" (2026).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taemi_bench.rows import Row, Way
from taemi_runtime.bundle import Bundle
from taemi_runtime.spec import Array, Arrays, GraphSpec

OPENVINO = "openvino"
# Half-precision graphs are for GPUs: on a CPU they are converted back.
_PRECISIONS = ("fp32", "int8")


def openvino_ways(bundle: Bundle, graph: str, inputs: Arrays, threads: int) -> list[Way]:
    """Return OpenVINO's rows of a graph's ONNX files.

    Args:
        bundle: The bundle.
        graph: The graph.
        inputs: The call's inputs.
        threads: Threads inside one call.
    """
    spec = bundle.manifest.graphs[graph]
    why = "" if importlib.util.find_spec(OPENVINO) else "openvino is not installed: pip install openvino"
    return [
        Way(
            Row(
                f"OpenVINO CPU {precision}",
                OPENVINO,
                precision,
                graph,
                "cpu",
                file=file,
                threads=threads,
                why=why,
            ),
            _opener(bundle, spec, inputs, threads),
        )
        for file, entry in bundle.engine_files(graph)
        if file.endswith(".onnx") and (precision := entry.precision or "fp32") in _PRECISIONS
    ]


def _opener(bundle: Bundle, spec: GraphSpec, inputs: Arrays, threads: int) -> Callable[[Row], None]:
    def fill(row: Row) -> None:
        path = bundle.file(row.file)
        version = str(importlib.import_module(OPENVINO).__version__)
        start = time.perf_counter()
        compiled = compile_file(path, threads)
        request = compiled.create_infer_request()
        row.load_ms = (time.perf_counter() - start) * 1e3
        row.bind = functools.partial(bind_request, compiled, request)
        row.run = row.bind(inputs)
        row.to_arrays = lambda found: _by_name(spec, found)
        row.versions = {OPENVINO: version.partition("-")[0]}

    return fill


def compile_file(path: Path, threads: int, *, counters: bool = False) -> Any:
    """Read and compile an ONNX file.

    Args:
        path: The file.
        threads: Threads inside one call.
        counters: Whether calls note what each node took, which makes them slower.

    Returns:
        OpenVINO's ``CompiledModel``.
    """
    core = importlib.import_module(OPENVINO).Core()
    return core.compile_model(
        core.read_model(path),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERF_COUNT": counters,
        },
    )


def bind_request(compiled: Any, request: Any, inputs: Arrays) -> Callable[[], Any]:
    """Return one call on inputs.

    Args:
        compiled: What ``compile_file`` returned.
        request: A request of it.
        inputs: Arrays by name; those that the file does not take are left out.
    """
    taken = {name for port in compiled.inputs for name in port.get_names()}
    fed = {name: array for name, array in inputs.items() if name in taken}
    return lambda: request.infer(fed, share_inputs=True)


def _by_name(spec: GraphSpec, found: Mapping[Any, Array]) -> dict[str, Array]:
    arrays = {name: array for port, array in found.items() for name in port.get_names()}
    return {item.name: arrays[item.name].copy() for item in spec.outputs}
