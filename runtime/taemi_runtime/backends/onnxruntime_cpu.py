"""ONNX graphs on the CPU."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, ClassVar

from taemi_runtime.backends.onnxruntime_session import (
    OnnxRuntimeEngine,
    create_session,
    engine_info,
    import_onnxruntime,
    thread_count,
)
from taemi_runtime.contract import FUSION
from taemi_runtime.engine import Backend, Engine, EngineOptions, Probe
from taemi_runtime.errors import DeviceError, TaemiError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import GraphSpec

# How long threads of the fusion graph stay awake, in microseconds. It has many short operators, and runs when
# decoding and encoders have ended: 1.16 times as fast in int8, 1.10 in float32 (two cores). Longer gave no
# more, and took more from whatever else was busy. Encoders run beside decoding, which wants the core.
SPIN_US = 20

_log = logging.getLogger(__name__)


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU provider, which every build of it has."""

    name: ClassVar[str] = "onnxruntime-cpu"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    extra: ClassVar[str] = "cpu"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @classmethod
    def probe(cls) -> Probe:
        """Say whether onnxruntime imports."""
        try:
            ort = import_onnxruntime(cls.extra)
        except TaemiError as error:
            return Probe(False, error.found, error.fix)
        return Probe(True, f"onnxruntime {ort.__version__}")

    @classmethod
    def open(cls, path: Path, spec: GraphSpec, options: EngineOptions, **facts: Any) -> Engine:
        """Load a graph; see ``Backend.open``."""
        kind, _ = parse_device(options.device)
        if kind == "cuda":
            raise DeviceError(f"cannot run {path} on {options.device}", f"{cls.name} runs on the CPU only")
        ort = import_onnxruntime(cls.extra)
        if kind == "auto" and "CUDAExecutionProvider" in ort.get_available_providers():
            _say_why_not_cuda()
        threads = thread_count(options)
        spin_us = SPIN_US if spec.name == FUSION else 0
        session = create_session(ort, path, threads, ["CPUExecutionProvider"], options.trace, spin_us)
        return OnnxRuntimeEngine(
            session, spec, engine_info(ort, cls.name, path, spec, "cpu", threads, dict(facts))
        )


@functools.cache
def _say_why_not_cuda() -> None:
    # Somebody installed the CUDA build: that it is not used must not go unnoticed.
    from taemi_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda

    probe = OnnxRuntimeCuda.probe()
    if not probe.usable:
        _log.warning("running on the CPU, because %s. %s", probe.detail, probe.fix)
