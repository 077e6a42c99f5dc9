"""Rows: the same graph, on the same inputs, run by different engines."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_bench.resident_call import resident_call
from taemi_bench.timer import describe_failure
from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import DeviceError, MissingExtraError, TaemiError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Array, Arrays, GraphSpec

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph

PYTORCH = "pytorch"
_TITLES = {"onnxruntime-cpu": "ONNX Runtime CPU", "onnxruntime-cuda": "ONNX Runtime CUDA"}


@dataclass
class Row:
    """One way to run one graph.

    Args:
        name: What it is called in tables, e.g. ``ONNX Runtime CPU fp32``.
        backend: ``pytorch`` or a registered backend's name.
        precision: ``fp32``, ``fp16`` or ``int8``.
        scope: The graph that one call computes.
        device: ``cpu`` or ``cuda:N``.
        run: One call on fixed inputs; ``None`` when the row cannot run here.
        to_arrays: Turns what ``run`` returned into arrays by output name.
        synchronise: Waits for work that ``run`` only queued.
        threads: Threads inside one call; 0 where that means nothing.
        file: The engine file; empty for PyTorch.
        versions: Versions of the libraries underneath.
        why: Why it cannot run here.
        failed: Whether ``why`` is a failure of something that should have run, and not a package or
            device that is not there.
        close: Frees what the row holds.
        bind: Returns one call on other inputs, without opening anything again; ``None`` where the row is for
            its inputs alone.
        bind_resident: Likewise with inputs that lie on the device and outputs that stay there; ``None`` on a
            CPU.
    """

    name: str
    backend: str
    precision: str
    scope: str
    device: str
    run: Callable[[], Any] | None = None
    to_arrays: Callable[[Any], dict[str, Array]] = field(default=dict)
    synchronise: Callable[[], None] | None = None
    threads: int = 0
    file: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    why: str = ""
    failed: bool = False
    close: Callable[[], None] = field(default=lambda: None)
    bind: Callable[[Arrays], Callable[[], Any]] | None = None
    bind_resident: Callable[[Arrays], Callable[[], Any]] | None = None


def pytorch_row(
    graph: ExportGraph | None, spec: GraphSpec, inputs: Arrays, device: str, threads: int, why: str
) -> Row:
    """Build the row that others are compared with: PyTorch, eager, float32.

    On the CPU the reference runs, i.e. the training model or the library's own class, which is what
    somebody without an exporter has. A CUDA device runs a copy of the export module, which computes
    the same; its inputs come from host memory and its outputs return there, as an engine's do.

    Args:
        graph: The graph of the opened checkpoint; ``None`` when there is none.
        spec: The graph as the bundle describes it.
        inputs: The call's inputs.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads that PyTorch has been given.
        why: Why there is no ``graph``.
    """
    kind, index = parse_device(device)
    name = "PyTorch eager fp32" + (", CUDA" if kind == "cuda" else "")
    place = f"cuda:{index}" if kind == "cuda" else "cpu"
    row = Row(name, PYTORCH, "fp32", spec.name, place, threads=0 if kind == "cuda" else threads)
    if graph is None:
        row.why = why
        return row
    import torch

    row.versions = {"torch": str(torch.__version__)}
    row.to_arrays = tensors_to_arrays
    if kind == "cpu":
        row.bind = functools.partial(_reference_call, graph)
        row.run = row.bind(inputs)
        return row
    if index >= torch.cuda.device_count():
        row.why = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        return row
    try:
        module = copy.deepcopy(graph.module).eval().to(place)
        row.bind = functools.partial(_cuda_call, graph, module, place)
        row.bind_resident = functools.partial(_cuda_call, graph, module, place, stay=True)
        row.run = row.bind(inputs)
    except RuntimeError as error:
        row.why, row.failed = describe_failure(error), True
    row.synchronise = lambda: torch.cuda.synchronize(place)
    return row


def engine_row(
    path: Callable[[], Path],
    file: str,
    precision: str,
    spec: GraphSpec,
    inputs: Arrays,
    name: str,
    device: str,
    threads: int,
) -> Row:
    """Build the row of one engine file on one backend.

    The engine's own check of names, types and shapes is part of a call; the search for NaN in the
    inputs, which is the caller's choice, is not.

    Args:
        path: Returns the file, checked; it may raise.
        file: The file's name.
        precision: The precision that the manifest gives.
        spec: The graph.
        inputs: The call's inputs.
        name: The backend's registered name.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads inside one call.
    """
    kind, index = parse_device(device)
    place = f"cuda:{index}" if kind == "cuda" else "cpu"
    row = Row(f"{title(name)} {precision}", name, precision, spec.name, place, file=file)
    try:
        probe = backend(name).probe()
        if not probe.usable:
            row.why = f"{probe.detail}. {probe.fix}" if probe.fix else probe.detail
            return row
        options = EngineOptions(device=device, threads=threads)
        engine = open_engine(path(), spec, options, backend=name, precision=precision)
    except TaemiError as error:
        row.why = describe_failure(error)
        row.failed = not isinstance(error, MissingExtraError | DeviceError)
        return row
    row.bind = functools.partial(_engine_call, engine)
    if kind == "cuda" and engine.pool is not None:
        row.bind_resident = functools.partial(resident_call, engine, engine.pool)
    row.run = row.bind(inputs)
    row.to_arrays = dict
    row.threads = engine.info.threads if kind == "cpu" else 0
    row.versions = dict(engine.info.versions)
    row.close = engine.close
    return row


def engine_backends(file: str, device: str) -> list[str]:
    """Return the backends that take a file on a device, CPU or CUDA."""
    kind, _ = parse_device(device)
    return [name for name in takers(Path(file)) if kind in backend(name).devices]


def tensors_to_arrays(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Turn tensors into arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in outputs.items()}


def title(backend_name: str) -> str:
    """Return what a backend is called in tables."""
    return _TITLES.get(backend_name, backend_name)


def to_tensors(inputs: Arrays) -> dict[str, Any]:
    """Copy arrays into tensors on the CPU."""
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}


def _engine_call(engine: Engine, inputs: Arrays) -> Callable[[], dict[str, Array]]:
    # An engine of half precision may describe itself with half-precision inputs.
    fed = {item.name: inputs[item.name].astype(item.dtype, copy=False) for item in engine.spec.inputs}
    return lambda: engine.run(fed, check_values=False)


def _reference_call(graph: ExportGraph, inputs: Arrays) -> Callable[[], dict[str, Any]]:
    tensors, reference = to_tensors(inputs), graph.reference
    return lambda: reference(tensors)


def _cuda_call(
    graph: ExportGraph, module: Any, place: str, inputs: Arrays, *, stay: bool = False
) -> Callable[[], dict[str, Any]]:
    """Return a call; with ``stay`` its inputs lie on the device, and its outputs stay there."""
    import torch

    tensors = to_tensors(inputs)
    if stay:
        tensors = {name: tensor.to(place) for name, tensor in tensors.items()}
    names = [item.name for item in graph.spec.outputs]

    def call() -> dict[str, Any]:
        with torch.inference_mode():
            found = module(*(tensors[item.name].to(place) for item in graph.spec.inputs))
            values = found if isinstance(found, tuple | list) else (found,)
            return {name: value if stay else value.cpu() for name, value in zip(names, values, strict=True)}

    return call
