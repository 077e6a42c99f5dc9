"""OpenVINO's own counters: what each node of a graph took, as it runs them after fusing.

They come with every call (``InferRequest.profiling_info``; docs.openvino.ai, "OpenVINO Runtime"), in whole
microseconds, and name neither shapes nor element types: no node has a floor, and there is no trace.
"""

from __future__ import annotations

from pathlib import Path

from taemi_bench.openvino_row import bind_request, compile_file
from taemi_bench.profiles import Profile, ProfiledNode
from taemi_bench.traced_calls import call_often, warm_up
from taemi_runtime.spec import Arrays


def count_openvino(path: Path, inputs: Arrays, threads: int) -> Profile:
    """Run a graph with OpenVINO's counters on, and return of every node that took time its mean.

    Args:
        path: The ONNX file.
        inputs: The call's inputs.
        threads: Threads inside one call.
    """
    compiled = compile_file(path, threads, counters=True)
    request = compiled.create_infer_request()
    call = bind_request(compiled, request, inputs)
    spent: dict[str, float] = {}
    types: dict[str, str] = {}

    def look() -> None:
        for node in request.profiling_info:
            ms = node.real_time.total_seconds() * 1e3
            if ms:
                spent[node.node_name] = spent.get(node.node_name, 0.0) + ms
                types[node.node_name] = node.node_type

    warm_up(call)
    calls, call_ms = call_often(call, look=look)
    total = sum(spent.values())
    nodes = tuple(
        ProfiledNode(name, types[name], 1, ms / calls, ms / total)
        for name, ms in sorted(spent.items(), key=lambda item: -item[1])
    )
    return Profile("", "", "", calls, call_ms, nodes)
