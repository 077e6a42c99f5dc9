"""ONNX graphs on an NVIDIA GPU through ONNX Runtime's CUDA provider. Never executed on a GPU so far."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from taemi_runtime.backends.onnxruntime_binding import BoundEngine, has_fixed_shapes
from taemi_runtime.backends.onnxruntime_copies import IDENTITY
from taemi_runtime.backends.onnxruntime_session import (
    create_session,
    engine_info,
    import_onnxruntime,
    thread_count,
)
from taemi_runtime.engine import Backend, Engine, EngineOptions, Probe
from taemi_runtime.errors import DeviceError, EngineError, MissingExtraError, TaemiError
from taemi_runtime.host import cuda_driver, parse_device
from taemi_runtime.spec import GraphSpec

_log = logging.getLogger(__name__)

_PROVIDER = "CUDAExecutionProvider"
_INSTALL = 'pip install "taemi[gpu]"'


class OnnxRuntimeCuda(Backend):
    """ONNX Runtime's CUDA provider; whatever it cannot place runs on the CPU inside the same session."""

    name: ClassVar[str] = "onnxruntime-cuda"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    extra: ClassVar[str] = "gpu"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @classmethod
    def probe(cls) -> Probe:
        """Say whether a session really gets the CUDA provider; its mere listing proves nothing."""
        try:
            _require()
        except TaemiError as error:
            return Probe(False, error.found, error.fix)
        driver = cuda_driver()
        ort = import_onnxruntime(cls.extra)
        return Probe(
            True, f"onnxruntime {ort.__version__}, CUDA {driver.version}, {', '.join(driver.devices)}"
        )

    @classmethod
    def open(cls, path: Path, spec: GraphSpec, options: EngineOptions, **facts: Any) -> Engine:
        """Load a graph; see ``Backend.open``."""
        kind, index = parse_device(options.device)
        asked = f"cannot run {path} on {options.device}"
        if kind == "cpu":
            raise DeviceError(asked, f"{cls.name} runs on CUDA devices only")
        try:
            ort = _require()
        except TaemiError as error:
            raise type(error)(asked, error.found, error.fix) from error
        count = len(cuda_driver().devices)
        if index >= count:
            raise DeviceError(asked, f"there are {count} CUDA devices", f"Give cuda:0 to cuda:{count - 1}")
        threads = thread_count(options)
        session, graphs = _create(ort, path, spec, threads, index, options)
        if session.get_providers()[:1] != [_PROVIDER]:
            raise EngineError(
                asked,
                f"ONNX Runtime gave the session {session.get_providers()}, not {_PROVIDER}",
                "See what is wrong: taemi-infer --doctor",
            )
        info = engine_info(ort, cls.name, path, spec, f"cuda:{index}", threads, dict(facts))
        info = replace(info, tf32=options.tf32)
        return BoundEngine(
            ort,
            session,
            spec,
            info,
            open_session=lambda graph: create_session(ort, graph, 1, _providers(index, EngineOptions())),
            device="cuda",
            index=index,
            graphs=graphs,
            split_times=options.split_times,
        )


def _create(
    ort: ModuleType, path: Path, spec: GraphSpec, threads: int, index: int, options: EngineOptions
) -> tuple[Any, bool]:
    """Create a session, with CUDA graphs where shapes allow and the library takes them.

    Returns:
        The session, and whether it captures.
    """
    with _silent(ort):
        if options.cuda_graphs and has_fixed_shapes(spec):
            try:
                providers = _providers(index, options, graphs=True)
                return create_session(ort, path, threads, providers, options.trace), True
            except EngineError as error:
                # It refuses graphs of which it places a node on the CPU.
                _log.info("%s runs without CUDA graphs: %s", path, error.found)
        return create_session(ort, path, threads, _providers(index, options), options.trace), False


def _providers(index: int, options: EngineOptions, *, graphs: bool = False) -> list[Any]:
    # HEURISTIC, as the default searches kernels anew for each new shape (onnxruntime issues 6978,
    # 17443); kSameAsRequested, as the default doubles the arena with every larger clip (issue 7612).
    # TF32 keeps 10 bits of mantissa: it breaks the fp32 gates, so it is off unless asked for.
    settings = {
        "device_id": index,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": int(options.tf32),
    }
    if options.gpu_memory_bytes:
        settings["gpu_mem_limit"] = options.gpu_memory_bytes
    if graphs:
        settings["enable_cuda_graph"] = 1
    return [(_PROVIDER, settings), "CPUExecutionProvider"]


def _require() -> ModuleType:
    """Return onnxruntime when its CUDA provider works here, and raise what is wrong otherwise."""
    asked = "cannot run ONNX graphs on CUDA"
    ort = import_onnxruntime("gpu")
    providers = ort.get_available_providers()
    no_driver = cuda_driver().why
    if _PROVIDER not in providers:
        found = f"onnxruntime {ort.__version__} has no {_PROVIDER}, only {', '.join(providers)}"
        mend = f"Install the CUDA build: pip uninstall -y onnxruntime, then {_INSTALL}"
        if no_driver:
            # The other build alone would not help here: both reasons are said at once.
            found, mend = f"{found}; {no_driver}", f"Use --device cpu. Where there is an NVIDIA GPU: {mend}"
        raise MissingExtraError(asked, found, mend)
    if no_driver:
        raise DeviceError(asked, no_driver, "Install NVIDIA's driver, or use --device cpu")
    if why := _why_not_loaded(ort):
        raise EngineError(
            asked,
            f"onnxruntime {ort.__version__} could not load {_PROVIDER} ({why})",
            f"Install its CUDA libraries: {_INSTALL}",
        )
    return ort


@functools.cache
def _why_not_loaded(ort: ModuleType) -> str:
    with _silent(ort):
        # Finds the CUDA and cuDNN libraries of pip's nvidia-* packages, which are on no search path.
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        try:
            session = create_session(ort, IDENTITY, 1, _providers(0, EngineOptions()))
        except EngineError as error:
            return error.found
    if session.get_providers()[:1] == [_PROVIDER]:
        return ""
    # The library's own reason went to its log; the loader gives the same one.
    try:
        ctypes.CDLL(str(Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    return f"the session got {session.get_providers()}"


@contextlib.contextmanager
def _silent(ort: ModuleType) -> Iterator[None]:
    # Loading a provider is logged by the library's default logger, which session options do not
    # reach. There is no way to read its level; 2 (warning) is what it starts with.
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
