"""PyTorch's rows: eager and compiled, in float32 and in half precision.

What an expert would call fair. On the CPU the eager float32 row is the reference, i.e. the training model or
the library's own class, which is what somebody without an exporter has; every other row runs the export
module, which computes the same. Half precision is a copy with converted weights, float16 on a GPU and
bfloat16 on a CPU, not autocast, which casts every weight anew in each call; its inputs come in float32, as
everywhere, and are cast within the call. Compiled rows know the lengths that they are timed at
(``dynamic=False``), so that nothing is compiled again; compiling ends before the first call that counts. On
a GPU inputs wait in pinned memory and outputs return to the host. Never executed on a GPU so far.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taemi_bench.rows import PYTORCH, Row, Way
from taemi_runtime.errors import DeviceError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import Array, Arrays, GraphSpec
from taemi_runtime.stopwatch import SplitMs

if TYPE_CHECKING:
    import torch

    from taemi.exportable import ExportGraph

EAGER = "PyTorch eager fp32"
COMPILED = "compiled"
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SLOW = "compiling takes from seconds to minutes: ask for it with --with {}"


@dataclass(frozen=True)
class _Mode:
    """One of PyTorch's ways.

    Args:
        word: What it is called.
        compile: The mode of ``torch.compile``; empty for eager.
    """

    word: str
    compile: str = ""


MODES = (
    _Mode("eager"),
    _Mode(COMPILED, "default"),
    _Mode("reduce-overhead", "reduce-overhead"),
    _Mode("max-autotune", "max-autotune"),
)


def pytorch_ways(
    graph: ExportGraph | None, spec: GraphSpec, inputs: Arrays, device: str, threads: int, why: str
) -> list[Way]:
    """Return PyTorch's rows of a graph on a device; the first is what others are compared with.

    Args:
        graph: The graph of the opened checkpoint; ``None`` when there is none.
        spec: The graph as the bundle describes it.
        inputs: The call's inputs.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads that PyTorch has been given.
        why: Why there is no ``graph``.
    """
    kind, index = parse_device(device)
    place = f"cuda:{index}" if kind == "cuda" else "cpu"
    half = "fp16" if kind == "cuda" else "bf16"
    ways = []
    for mode in MODES:
        # On a CPU, compiling for half precision is one more long compilation for a row that few deploy.
        for precision in ("fp32", half) if kind == "cuda" or not mode.compile else ("fp32",):
            row = Row(
                f"PyTorch {mode.word} {precision}{', CUDA' if kind == 'cuda' else ''}",
                PYTORCH,
                precision,
                spec.name,
                place,
                threads=0 if kind == "cuda" else threads,
                tf32=False if kind == "cuda" else None,
                why=why if graph is None else _why_not(mode, kind, index),
            )
            opener = None if graph is None else _opener(graph, inputs, mode)
            ways.append(Way(row, opener, _SLOW.format(mode.word) if mode.compile else ""))
    return ways


def _why_not(mode: _Mode, kind: str, index: int) -> str:
    if kind == "cpu":
        if mode.compile == "reduce-overhead":
            return "it is torch.compile's default mode with CUDA graphs: on a CPU it equals the compiled row"
        return ""
    import torch

    count = torch.cuda.device_count()
    return "" if index < count else f"torch {torch.__version__} sees {count} CUDA devices"


def _opener(graph: ExportGraph, inputs: Arrays, mode: _Mode) -> Callable[[Row], None]:
    def fill(row: Row) -> None:
        import torch

        row.versions = {"torch": str(torch.__version__)}
        row.to_arrays = tensors_to_arrays
        if row.device == "cpu" and row.precision == "fp32":
            row.weight_bytes = sum(tensor.nbytes for tensor in graph.weights.values())
            if not mode.compile:
                row.bind = functools.partial(_reference_call, graph)
                row.run = row.bind(inputs)
                return
        if mode.compile:
            require_compiler(row.device)
        start = time.perf_counter()
        module: Any = _module(graph, row)
        if mode.compile:
            module = compile_module(module, mode.compile)
            if row.device != "cpu":
                module = _in_steps(module)
            row.close = _forget_compiled
        call = _cpu_call if row.device == "cpu" else _cuda_call
        bind = functools.partial(call, graph.spec, module, row)
        run = bind(inputs)
        if mode.compile:
            run()  # compiles; the first call that is timed as cold comes after it
            row.splits.clear()
        else:
            row.bind = bind
        row.load_ms = (time.perf_counter() - start) * 1e3
        row.run = run
        if row.device != "cpu":
            row.synchronise = lambda: torch.cuda.synchronize(row.device)

    return fill


def compile_module(module: torch.nn.Module, mode: str, *, dynamic: bool = False) -> Any:
    """Return what ``torch.compile`` makes of a module; it compiles within the first call.

    Args:
        module: The module.
        mode: ``default``, ``reduce-overhead`` or ``max-autotune``.
        dynamic: Whether it takes any length; else each set of lengths is compiled by itself.
    """
    import torch
    from torch._inductor import select_algorithm

    # It prints a table for every product that it tries kernels for.
    select_algorithm.PRINT_AUTOTUNE = False
    return torch.compile(module, mode=mode, dynamic=dynamic)


def require_compiler(device: str) -> None:
    """Refuse to compile where what PyTorch compiles with is missing.

    Raises:
        DeviceError: Says what it is.
    """
    asked = "cannot use torch.compile"
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # InvalidCxxCompiler, whose place differs between versions
            raise DeviceError(asked, f"there is no C++ compiler ({error})", "Install g++") from error
    elif importlib.util.find_spec("triton") is None:
        raise DeviceError(asked, "triton is not installed", "Install it: pip install triton")


@contextlib.contextmanager
def fresh_compile_cache() -> Iterator[None]:
    """Let ``torch.compile`` begin with nothing in its caches: its time is that of a first compilation.

    Processes that are started within share the cache, so that they find what was compiled here.
    """
    before = {name: os.environ.get(name) for name in _CACHES}
    _clear_compiler()
    with tempfile.TemporaryDirectory(prefix="taemi-bench-", ignore_cleanup_errors=True) as folder:
        os.environ.update(dict.fromkeys(_CACHES, folder))
        try:
            yield
        finally:
            _clear_compiler()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Give PyTorch the engines' threads, and full float32 on CUDA as the engines have it.

    Args:
        threads: Threads inside one call on the CPU.
    """
    import torch

    backends = torch.backends
    threads_before = torch.get_num_threads()
    tf32_before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads)
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = tf32_before


def tensors_to_arrays(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Turn tensors into arrays; bfloat16, which numpy does not have, into float32."""
    found = {name: tensor.detach().cpu() for name, tensor in outputs.items()}
    return {
        name: (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        for name, tensor in found.items()
    }


def _module(graph: ExportGraph, row: Row) -> torch.nn.Module:
    """Return the graph's module at the row's place and precision; on the CPU in float32 it is no copy."""
    if row.device == "cpu" and row.precision == "fp32":
        return graph.module
    return copy.deepcopy(graph.module).eval().to(row.device, dtype=_dtype(row.precision))


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _to_tensors(inputs: Arrays) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}


def _reference_call(graph: ExportGraph, inputs: Arrays) -> Callable[[], dict[str, Any]]:
    tensors, reference = _to_tensors(inputs), graph.reference
    return lambda: reference(tensors)


def _cpu_call(spec: GraphSpec, module: Any, row: Row, inputs: Arrays) -> Callable[[], dict[str, Any]]:
    import torch

    dtype, tensors = _dtype(row.precision), _to_tensors(inputs)

    def call() -> dict[str, Any]:
        with torch.inference_mode():
            return named_outputs(spec, module(*(cast(tensors[item.name], dtype) for item in spec.inputs)))

    return call


def _cuda_call(spec: GraphSpec, module: Any, row: Row, inputs: Arrays) -> Callable[[], dict[str, Any]]:
    """Return a call from pinned host memory to host memory, which notes where its time went."""
    import torch

    dtype = _dtype(row.precision)
    pinned = {name: tensor.pin_memory() for name, tensor in _to_tensors(inputs).items()}
    begin, up, done, end = (torch.cuda.Event(enable_timing=True) for _ in range(4))

    def call() -> dict[str, Any]:
        start = time.perf_counter()
        with torch.inference_mode(), torch.cuda.device(row.device):
            begin.record()
            given = [pinned[item.name].to(row.device, non_blocking=True) for item in spec.inputs]
            up.record()
            found = named_outputs(spec, module(*(cast(tensor, dtype) for tensor in given)))
            done.record()
            enqueue_ms = (time.perf_counter() - start) * 1e3
            values = {name: value.cpu() for name, value in found.items()}
            end.record()
        end.synchronize()
        row.splits.append(
            SplitMs(enqueue_ms, begin.elapsed_time(up), up.elapsed_time(done), done.elapsed_time(end))
        )
        return values

    return call


def _in_steps(module: Any) -> Callable[..., Any]:
    """Return a module's call that begins a step each time: outputs in CUDA graphs live until the next."""
    import torch

    def call(*tensors: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return module(*tensors)

    return call


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of floating-point numbers in another type, and others as they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def named_outputs(spec: GraphSpec, found: Any) -> dict[str, Any]:
    """Return what a module gave, a tensor or several, by the names of the graph's outputs."""
    values = found if isinstance(found, tuple | list) else (found,)
    return {item.name: value for item, value in zip(spec.outputs, values, strict=True)}


def _clear_compiler() -> None:
    """Let the compiler forget what it knows of a folder, headers that it compiled there among it."""
    utils = sys.modules.get("torch._inductor.utils")
    if utils is not None:
        utils.clear_caches()


def _forget_compiled() -> None:
    import torch

    torch._dynamo.reset()
