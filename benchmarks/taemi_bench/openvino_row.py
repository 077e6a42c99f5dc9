"""OpenVINO on the CPU, as a peer from outside: it reads the very ONNX files that the bundle holds.

Its precision hint is float32, as its default on a CPU with bfloat16 units would be bfloat16; it has the
threads of the other rows, one stream, and the lengths that the file leaves open stay open, as for every
engine. API: docs.openvino.ai, "OpenVINO Runtime" (2026).
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping
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
        openvino: Any = importlib.import_module(OPENVINO)
        path = bundle.file(row.file)
        start = time.perf_counter()
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(path),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            },
        )
        request = compiled.create_infer_request()
        row.load_ms = (time.perf_counter() - start) * 1e3
        taken = {name for port in compiled.inputs for name in port.get_names()}

        def bind(arrays: Arrays) -> Callable[[], Any]:
            fed = {name: array for name, array in arrays.items() if name in taken}
            return lambda: request.infer(fed, share_inputs=True)

        row.bind = bind
        row.run = bind(inputs)
        row.to_arrays = lambda found: _by_name(spec, found)
        row.versions = {OPENVINO: str(openvino.__version__).split("-")[0]}

    return fill


def _by_name(spec: GraphSpec, found: Mapping[Any, Array]) -> dict[str, Array]:
    arrays = {name: array for port, array in found.items() for name in port.get_names()}
    return {item.name: arrays[item.name].copy() for item in spec.outputs}
