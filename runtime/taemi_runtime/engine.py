"""The one contract of every engine: a dict of arrays in, a dict of arrays out.

Backends implement [Engine._run][]; input checks, timing and closing live here, so that a caller sees
the same behaviour whatever runs underneath.
"""

from __future__ import annotations

import abc
import functools
import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from taemi_runtime.closing import Closing
from taemi_runtime.device_array import Pool
from taemi_runtime.errors import EngineError, UsageError
from taemi_runtime.input_checks import check_cover, check_finite, check_half_range
from taemi_runtime.ranges import span
from taemi_runtime.resident import DeviceRows, Inputs, Keep, device_inputs
from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, OutputSpec
from taemi_runtime.stopwatch import SplitMs, count_device_ms

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is.

    Args:
        path: The file that was loaded.
        backend: The backend's registered name, e.g. ``onnxruntime-cpu``.
        precision: ``fp32``, ``fp16`` or ``int8``, as built.
        device: ``cpu`` or ``cuda:N``.
        versions: Version of each library underneath.
        limits: Largest length of each bounded axis.
        threads: Threads inside one call; 0 where the backend decides.
        inputs: Dtypes of the inputs that the engine takes otherwise than the GraphSpec says, e.g.
            ``{"x": "float16"}``; callers may give float32 or that.
        outputs: Dtypes of the outputs that it computes otherwise than the GraphSpec says; on the host they
            are as the GraphSpec says, on a device as they were computed.
        tf32: Whether float32 products may be rounded to TF32; ``None`` where the device has none.
    """

    path: str
    backend: str
    precision: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    threads: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    tf32: bool | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; an explicit device never falls back.
        threads: Threads inside one call; 0 lets the backend use the cores that this process may use.
        tf32: Whether CUDA matrix products may round to TF32 (ONNX graphs; a plan has it built in).
        cuda_backend: The device layer under TensorRT: ``cuda-python`` or ``pycuda``.
        contexts: How many threads a TensorRT plan serves at a time; each has buffers of its own, and
            further ones wait.
        cuda_graphs: Whether calls are captured into CUDA graphs where that is possible.
        gpu_memory_bytes: How much device memory ONNX Runtime's arena may take; 0 is as much as there is.
        trace: What the name of a file begins with into which ONNX Runtime writes, as the engine is closed,
            how long each operator of each call took; none is taken when empty.
        split_times: Whether calls on a GPU note how long copies and computing took apart; it costs a TensorRT
            plan two more events in every call.

    Raises:
        UsageError: ``contexts`` is below 1, or ``gpu_memory_bytes`` below 0.
    """

    device: str = "auto"
    threads: int = 0
    tf32: bool = False
    cuda_backend: str = "cuda-python"
    contexts: int = 4
    cuda_graphs: bool = True
    gpu_memory_bytes: int = 0
    trace: str = ""
    split_times: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("contexts", 1), ("gpu_memory_bytes", 0)):
            if getattr(self, name) < lowest:
                raise UsageError(
                    f"cannot open an engine with {name} {getattr(self, name)}", "", f"Give {lowest} or more"
                )


@dataclass(frozen=True)
class Probe:
    """Whether a backend can be used on this host, and if not, why and what mends it."""

    usable: bool
    detail: str
    fix: str = ""


class Engine(Closing):
    """A loaded graph.

    Args:
        spec: The graph's description.
        info: What was loaded.
    """

    def __init__(self, spec: GraphSpec, info: EngineInfo) -> None:
        self.spec = spec
        self.info = info
        self._closed = False
        self._mine = threading.local()

    @property
    def last_run_ms(self) -> float:
        """Milliseconds that the last call of this thread took; 0 before its first.

        On the device, by its own events, where the backend records them; else by the clock.
        """
        return getattr(self._mine, "run_ms", 0.0)

    @property
    def last_split(self) -> SplitMs | None:
        """Where this thread's last call spent its time; ``None`` unless ``split_times`` was asked for."""
        return getattr(self._mine, "split", None)

    @property
    def captures(self) -> bool:
        """Whether calls are captured into CUDA graphs."""
        return False

    @property
    def pool(self) -> Pool | None:
        """What lends memory for outputs that stay on the device; ``None`` where they come to the host."""
        return None

    @property
    def calls_at_a_time(self) -> int:
        """How many threads' calls are worth having under way, so that copies overlap computing."""
        return 1

    def run(self, inputs: Inputs, *, check_values: bool = True, keep: Keep | None = None) -> dict[str, Array]:
        """Compute the outputs.

        Args:
            inputs: One array for each input of the spec; nothing is modified or kept. What the engine takes
                in half precision may come as float16, too. Those on a device are taken as they are where
                ``why_not_from`` has nothing against it, and come to the host otherwise.
            check_values: Whether NaN and Inf in valid input, and numbers that the engine's half precision
                does not reach, are looked for (a pass over the data); never in what lies on a device.
            keep: What is to stay on the device, of engines that have a ``pool``.

        Returns:
            Outputs by name, less those that were kept; the arrays belong to the caller.

        Raises:
            InputError: An input does not fit the spec, is not finite where it is valid, or is beyond
                65504 there and enters in half precision.
            EngineError: The engine is closed or the backend failed.
        """
        if self._closed:
            raise EngineError(f"cannot run {self.info.path}", "the engine is closed", "Open it again")
        resident = device_inputs(inputs)
        if resident:
            inputs, resident = self._bring(inputs, resident)
        halves = frozenset(name for name, dtype in self.info.inputs.items() if dtype == "float16")
        sizes = self.spec.check(inputs, halves)
        if keep:
            self._check_keep(keep, sizes)
        if check_values:
            check_finite(self.spec, inputs)
            check_half_range(self.spec, inputs, halves)
        self._mine.device_ms = None
        start = time.perf_counter()
        with span(self.spec.name):
            if keep or resident:
                outputs = self._run_resident(inputs, keep or {})
            else:
                outputs = self._run(cast("Arrays", inputs))
        wall_ms = (time.perf_counter() - start) * 1e3
        device_ms: float | None = self._mine.device_ms
        if device_ms is not None:
            count_device_ms(device_ms)
        self._mine.run_ms = wall_ms if device_ms is None else device_ms
        return outputs

    def why_not_from(self, name: str, dtype: Any, devices: Collection[str]) -> str:
        """Return why an input is not taken from a device; empty where it is.

        Args:
            name: The input.
            dtype: Its element type there.
            devices: Where it lies.
        """
        del name, dtype
        return f"{self.info.backend} takes its inputs from the host, not from {', '.join(devices)}"

    def dtype_of(self, item: InputSpec | OutputSpec) -> np.dtype[Any]:
        """Return the element type in which an input is taken, or an output computed, on the device."""
        changed = self.info.inputs if isinstance(item, InputSpec) else self.info.outputs
        return np.dtype(changed.get(item.name, item.dtype))

    def _check_keep(self, keep: Keep, sizes: Mapping[str, int]) -> None:
        """Refuse what is no part of an output, or is to go where it does not fit.

        Raises:
            EngineError: Says which piece, and why.
        """
        outputs = {item.name: item for item in self.spec.outputs}
        for name, pieces in keep.items():
            asked = f"cannot keep {self.spec.name}.{name} on the device"
            if name not in outputs:
                raise EngineError(asked, f"its outputs are {', '.join(outputs)}")
            shape, dtype = self.spec.shape(outputs[name], sizes), self.dtype_of(outputs[name])
            for piece in pieces:
                there = (piece.target.device, piece.target.dtype)
                if there != (self.info.device, dtype):
                    here = f"{dtype} on {self.info.device}"
                    raise EngineError(asked, f"it is {here}, the array {there[1]} on {there[0]}")
                piece.span(shape)

    def _bring(
        self, inputs: Inputs, resident: Mapping[str, DeviceRows]
    ) -> tuple[Inputs, dict[str, DeviceRows]]:
        """Bring inputs to the host that cannot be taken from where they lie; return all, and what stays."""
        for name, given in resident.items():
            check_cover(self.spec, name, given)
            if why := self.why_not_from(name, given.dtype, given.devices):
                say_by_host(f"{self.spec.name}.{name}", why)
                inputs = {**inputs, name: given.numpy()}
        return inputs, device_inputs(inputs)

    def _note_device_ms(self, ms: float) -> None:
        """Note how long this thread's call took by the device's own events."""
        self._mine.device_ms = ms

    def _note_split(self, split: SplitMs | None) -> None:
        """Note where this thread's call spent its time."""
        self._mine.split = split

    def stop(self, threads: Collection[int]) -> None:
        """Make the calls that some threads are in fail soon, where the backend can; later calls run.

        Args:
            threads: Their identifiers, as ``threading.get_ident`` gives them.
        """

    @abc.abstractmethod
    def _run(self, inputs: Arrays) -> dict[str, Array]:
        """Run checked inputs."""

    def _run_resident(self, inputs: Inputs, keep: Keep) -> dict[str, Array]:
        """Run checked inputs, some of which lie on the device, and keep outputs there."""
        del inputs, keep
        raise EngineError(
            f"cannot keep outputs of {self.info.path} on a device", f"{self.info.backend} has none"
        )

    def padded_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Return the lengths that a call is padded to, wherever it is padded: callers may do so at once.

        Args:
            lengths: The length of every symbol of the inputs.
        """
        return dict(lengths)

    def close(self) -> None:
        """Free what the engine holds; closing twice does nothing."""
        self._closed = True


class Backend(abc.ABC):
    """A way to run graphs; one subclass a library, registered by dotted path in ``backends``.

    ``name`` is its registered name, ``suffixes`` the files that it takes, ``extra`` the extra that
    installs its library, ``devices`` the kinds of device that it may be asked for.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @classmethod
    @abc.abstractmethod
    def probe(cls) -> Probe:
        """Say whether this host can use the backend, without raising."""

    @classmethod
    def check_host(cls, path: Path, options: EngineOptions, **facts: Any) -> None:
        """Refuse a file that was made for another kind of host, before it is read.

        Args:
            path: The engine file.
            options: Device and threads.
            facts: What the manifest says about the file, as for ``open``.

        Raises:
            DeviceError: The device is not there.
            MissingExtraError: The library is not installed.
            EngineError: The file was made for another library or device.
        """
        # Most kinds of file run wherever their library does.
        del path, options, facts

    @classmethod
    @abc.abstractmethod
    def open(cls, path: Path, spec: GraphSpec, options: EngineOptions, **facts: Any) -> Engine:
        """Load ``path`` as the graph that ``spec`` describes.

        Args:
            path: The engine file.
            spec: The graph.
            options: Device and threads.
            facts: What the manifest says about the file, e.g. ``precision``.

        Raises:
            MissingExtraError: The library is not installed.
            DeviceError: The device cannot be used.
            EngineError: The library refused the file.
        """


@functools.cache
def say_by_host(what: str, why: str) -> None:
    """Say once that something on a device goes by the host."""
    _log.info("%s goes by the host: %s", what, why)


def why_not_here(engine: Engine, name: str, dtype: Any, devices: Collection[str]) -> str:
    """Return why an engine on a device does not take an input from there; empty where it does.

    Args:
        engine: The engine.
        name: The input.
        dtype: Its element type on the device.
        devices: Where it lies.
    """
    item, info = engine.spec.input(name), engine.info
    if set(devices) != {info.device}:
        return f"it lies on {', '.join(sorted(devices))}, {info.path} runs on {info.device}"
    if item.role != "data":
        return f"it is a {item.role}"
    if dtype != engine.dtype_of(item):
        return f"it is {dtype} there, {info.path} takes {engine.dtype_of(item)}"
    return ""
