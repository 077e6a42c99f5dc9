"""The process in which ``memory`` opens rows: ``python -m taemi_bench.memory_child``, never by hand.

The first line of its input is the job, each further one a row to open; each answer is a line. It reads the
checkpoint once and forks for every row. What a row takes is the fork's largest resident memory
(``VmHWM``, proc_pid_status(5)) less its resident memory before the row was opened. Pages of shared libraries
count in neither: a fork maps them anew as their code is first run, which is no memory of the row's. PyTorch's
float32 rows use the weights that lie in the checkpoint's memory already: their bytes are added.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_bench.graph_rows import graph_ways
from taemi_bench.memory import MemoryJob
from taemi_bench.nvidia_smi import read_gpus
from taemi_bench.pytorch_rows import torch_settings
from taemi_bench.rows import Row, Way, open_row
from taemi_bench.selection import graph_source
from taemi_bench.timer import describe_failure
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Arrays

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

_SEED = 20
_LIBRARIES = ("onnxruntime", "openvino")


def main() -> None:
    """Answer requests until the input ends."""
    job = MemoryJob(**json.loads(sys.stdin.readline()))
    bundle = Bundle.open(Path(job.bundle))
    source = _open_source(job)
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    inputs: dict[str, Arrays] = {}
    for line in sys.stdin:
        request = json.loads(line)
        graph = request["graph"]
        if graph not in inputs:
            inputs[graph] = draw_inputs(
                bundle.manifest.graphs[graph], job.sizes.get(graph), seed=_SEED, ragged=False, poison=False
            )
        answer = _fork(job, bundle, source, inputs[graph], request)
        print(json.dumps(answer), flush=True)


def _open_source(job: MemoryJob) -> ExportSource | None:
    if not job.checkpoint:
        return None
    import torch

    from taemi.exportable import open_source

    torch.set_num_threads(1)
    return open_source(Path(job.checkpoint), attention=job.attention)


def _fork(
    job: MemoryJob, bundle: Bundle, source: ExportSource | None, inputs: Arrays, request: dict[str, Any]
) -> dict[str, Any]:
    """Measure a row in a fork, and end it when its time is over."""
    gc.collect()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # What libraries print must not be taken for an answer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        try:
            found = _measure(job, bundle, source, inputs, request)
        except BaseException as error:
            found = {"note": describe_failure(error)}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], request["seconds"])
        if not ready:
            return {"note": f"stopped after {request['seconds']:.0f} s"}
        answer = os.read(reading, 1 << 16)
        return dict(json.loads(answer)) if answer else {"note": "its process died"}
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _measure(
    job: MemoryJob, bundle: Bundle, source: ExportSource | None, inputs: Arrays, request: dict[str, Any]
) -> dict[str, Any]:
    graph, note = graph_source(source, request["graph"], "no checkpoint file is known")
    ways = graph_ways(bundle, request["graph"], inputs, graph, note, threads=job.threads, devices=job.devices)
    way = next(way for way in ways if way.name == request["row"])
    with torch_settings(job.threads) if source is not None else contextlib.nullcontext():
        return _open_and_call(way)


def _open_and_call(way: Way) -> dict[str, Any]:
    on_gpu = way.row.device != "cpu"
    held = _device_bytes(way.row) if on_gpu else None
    before = _resident("VmRSS") - _library_bytes()
    # "5" sets the peak back to what is resident now (proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5")
    row = open_row(way)
    if row.run is None:
        return {"note": row.why}
    row.run()
    after = _resident("VmHWM") - _library_bytes()
    taken = _device_bytes(way.row) if on_gpu else None
    return {
        "host_bytes": max(0, after - before) + row.weight_bytes,
        "device_bytes": max(0, taken - held) if taken is not None and held is not None else None,
    }


def _resident(field: str) -> int:
    """Return a field of this process's status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def _library_bytes() -> int:
    """Return how much of the resident memory is shared libraries."""
    total, library = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            name = Path(head[5]).name if len(head) > 5 else ""
            library = name.endswith(".so") or ".so." in name
        elif library and head[0] == "Rss:":
            total += int(head[1]) * 1024
    return total


def _device_bytes(row: Row) -> int | None:
    """Return how much of the row's GPU is taken, by whomever."""
    gpus, _ = read_gpus()
    _, index = parse_device(row.device)
    return gpus[index].memory_used_bytes if index < len(gpus) else None


if __name__ == "__main__":
    main()
