"""ONNX Runtime sessions: what the CPU and the CUDA backend share."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from taemi_runtime.engine import Engine, EngineInfo, EngineOptions
from taemi_runtime.errors import EngineError, MissingExtraError
from taemi_runtime.host import usable_cores
from taemi_runtime.input_checks import as_dtype
from taemi_runtime.release import release_of
from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, OutputSpec
from taemi_runtime.telemetry import disable_telemetry

_log = logging.getLogger(__name__)

# Every distribution that installs the import package onnxruntime; two of them overwrite each other's files.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

# Since then threads spin for a given time (microsoft/onnxruntime#27916); before, for milliseconds or never.
_BOUNDED_SPINNING = (1, 26)

# ORT_LOGGING_LEVEL: 2 is warning, 4 is fatal. Errors come as exceptions, so the log only repeats them.
_QUIET, _TALKATIVE = 4, 2


def import_onnxruntime(extra: str) -> ModuleType:
    """Import onnxruntime, without its telemetry, and warn once when two distributions share it.

    Args:
        extra: The extra to name when it is missing: ``cpu`` or ``gpu``.

    Raises:
        MissingExtraError: It is not installed.
        EngineError: It is installed and does not load.
    """
    asked = "cannot run ONNX graphs"
    disable_telemetry()
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise EngineError(asked, f"onnxruntime does not load ({error})") from error
        raise MissingExtraError(
            asked, "onnxruntime is not installed", f'Install it: pip install "taemi[{extra}]"'
        ) from error
    except ImportError as error:
        raise EngineError(
            asked, f"onnxruntime does not load ({error})", f'Reinstall it: pip install "taemi[{extra}]"'
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What pip leaves behind when one of two distributions is uninstalled: an empty namespace.
        raise EngineError(
            asked,
            f"onnxruntime is damaged: no InferenceSession in {list(getattr(onnxruntime, '__path__', []))}",
            "Reinstall it: pip uninstall -y onnxruntime onnxruntime-gpu, "
            f'then pip install --force-reinstall "taemi[{extra}]"',
        )
    _warn_about_second_distribution(onnxruntime)
    return onnxruntime  # type: ignore[no-any-return]


@functools.cache
def _warn_about_second_distribution(ort: ModuleType) -> None:
    found = installed_distributions()
    if len(found) > 1:
        providers = ", ".join(ort.get_available_providers())
        _log.warning(
            "%d distributions provide onnxruntime (%s) and overwrite each other; the one that loads is "
            "%s with %s. Keep one: pip uninstall -y %s, then pip install "
            '"taemi[cpu]" or "taemi[gpu]"',
            len(found),
            ", ".join(f"{name} {number}" for name, number in found.items()),
            ort.__version__,
            providers,
            " ".join(found),
        )


def installed_distributions() -> dict[str, str]:
    """Return the version of every installed distribution that provides onnxruntime."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def create_session(
    ort: ModuleType,
    model: Path | bytes,
    threads: int,
    providers: list[Any],
    trace: str = "",
    spin_us: int = 0,
) -> Any:
    """Create a session, turning every refusal into an EngineError.

    Args:
        ort: The imported onnxruntime.
        model: The graph's file or its bytes.
        threads: Threads inside one call.
        providers: Providers with their options, best first.
        trace: As in ``EngineOptions``.
        spin_us: How long a thread without work stays awake, in microseconds; 0 is not at all, and so is any
            time before version 1.26, which knows no bound.

    Raises:
        EngineError: The library refused the file, with its reason.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads sleep, at once or soon. Spinning, they take the cores from whatever decodes or runs
    # beside: with two busy cores a clip took three times as long.
    if spin_us and release_of(ort.__version__, 2) >= _BOUNDED_SPINNING:
        settings.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
    else:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if trace:
        settings.enable_profiling = True
        settings.profile_file_prefix = trace
    settings.log_severity_level = _TALKATIVE if _log.isEnabledFor(logging.DEBUG) else _QUIET
    name = model if isinstance(model, Path) else "the built-in test graph"
    try:
        # enable_fallback would retry on the CPU and say so on stdout, between the results.
        source = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions share no base class but this one
        raise EngineError(
            f"cannot load {name}",
            f"ONNX Runtime {ort.__version__} refused it ({reason(error)})",
            "Export it again: taemi-export onnx CKPT --force",
        ) from error


def reason(error: Exception) -> str:
    """Return the first line of an ONNX Runtime message without its prefix of codes."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("[ONNXRuntimeError] : ")


class OnnxRuntimeEngine(Engine):
    """One ONNX graph in one session."""

    def __init__(self, session: Any, spec: GraphSpec, info: EngineInfo) -> None:
        nodes = session.get_inputs()
        self._feeds = {node.name: _DTYPES.get(node.type, node.type) for node in nodes}
        halves = {
            item.name: "float16"
            for item in spec.inputs
            if item.dtype == "float32" and self._feeds.get(item.name) == "float16"
        }
        given = {node.name: element_type(node) for node in session.get_outputs()}
        outputs = {
            item.name: "float16"
            for item in spec.outputs
            if item.dtype == "float32" and given.get(item.name) == "float16"
        }
        super().__init__(spec, replace(info, inputs=halves, outputs=outputs))
        self._session = session
        self._running: dict[int, Any] = {}
        self._outputs = [item.name for item in spec.outputs]
        wrong = _mismatches(spec.inputs, nodes, "input")
        wrong += _mismatches(spec.outputs, session.get_outputs(), "output")
        if wrong:
            # Refused here, with both sides, and not by a puzzling message from inside the first run.
            raise EngineError(
                f"cannot use {info.path}",
                f"it is not the graph that the manifest describes: {'; '.join(wrong)}",
                "Use an engine that was exported with this bundle",
            )

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        feeds = {name: as_dtype(inputs[name], dtype) for name, dtype in self._feeds.items()}
        thread = threading.get_ident()
        options = self._running[thread] = _run_options()
        try:
            values = self._session.run(self._outputs, feeds, options)
        except Exception as error:  # see create_session
            raise EngineError(
                f"cannot run {self.info.path}", f"ONNX Runtime failed ({reason(error)})"
            ) from error
        finally:
            self._running.pop(thread, None)
        return {
            item.name: value.astype(item.dtype, copy=False)
            for item, value in zip(self.spec.outputs, values, strict=True)
        }

    def stop(self, threads: Collection[int]) -> None:
        """Make calls of these threads fail at their next node."""
        for thread in threads:
            options = self._running.get(thread)
            if options is not None:
                options.terminate = True

    def close(self) -> None:
        """Free the session's memory and threads."""
        super().close()
        self._session = None


def _run_options() -> Any:
    from onnxruntime import RunOptions

    return RunOptions()


def engine_info(
    ort: ModuleType, name: str, path: Path, spec: GraphSpec, device: str, threads: int, facts: dict[str, Any]
) -> EngineInfo:
    """Describe an engine that this library runs."""
    return EngineInfo(
        path=str(path),
        backend=name,
        precision=str(facts.get("precision") or "fp32"),
        device=device,
        versions={"onnxruntime": ort.__version__},
        limits={symbol.name: symbol.maximum for symbol in spec.symbols if symbol.maximum is not None},
        threads=threads,
    )


def thread_count(options: EngineOptions) -> int:
    """Return the threads inside one call."""
    return options.threads or usable_cores()


def element_type(node: Any) -> str:
    """Return an input's or output's element type, by numpy's name where it has one."""
    return _DTYPES.get(node.type, str(node.type))


def _mismatches(
    expected: tuple[InputSpec, ...] | tuple[OutputSpec, ...], nodes: list[Any], what: str
) -> list[str]:
    found = {node.name: (_DTYPES.get(node.type, node.type), list(node.shape)) for node in nodes}
    wrong = []
    for item in expected:
        if item.name not in found:
            wrong.append(f"there is no {what} {item.name}")
            continue
        dtype, shape = found[item.name]
        half = dtype == "float16" and item.dtype == "float32"
        fits = dtype == item.dtype or half
        fits &= len(shape) == len(item.shape) and all(map(_fits, item.shape, shape))
        if not fits:
            wrong.append(f"{what} {item.name} is {dtype} {shape}, expected {item.dtype} {list(item.shape)}")
    known = {item.name for item in expected}
    return wrong + [f"{what} {name} is unknown" for name in found if name not in known]


def _fits(axis: int | str, length: int | str | None) -> bool:
    # A named axis must have stayed dynamic; a fixed one may be dynamic in the file.
    return (
        not isinstance(length, int)
        if isinstance(axis, str)
        else length == axis or not isinstance(length, int)
    )
