"""One strongly typed plan of one ONNX graph.

The same calls serve TensorRT 10.12 and later, TensorRT 11 and TensorRT for RTX. Where they differ, the
difference is named: the flag for strong typing (required by 10, ignored by 11), the compute capability
(only RTX takes one), the hardware compatibility level and the timing cache (only TensorRT).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_export.plans.library import Library
from taemi_export.plans.listener import distinct, make_recorder
from taemi_export.plans.monitor import Cancel, Phases, make_monitor, run_cancellable
from taemi_export.plans.symptoms import EXPORT_AGAIN, diagnose
from taemi_export.plans.targets import Target, sm_name
from taemi_export.plans.timing_cache import TimingCache
from taemi_runtime.backends.tensorrt_library import logger_of
from taemi_runtime.console import Tick
from taemi_runtime.errors import ExportError
from taemi_runtime.plan_sidecar import PlanProfile

if TYPE_CHECKING:
    import tensorrt

# Messages of a failing build repeat themselves; the last ones carry the cause.
_SHOWN = 3
_SHOWN_CHARACTERS = 400

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Args:
        target: For which GPU.
        workspace_bytes: The most scratch memory that the plan may use; the library's own limit, all of the
            GPU's, when ``None``. Large shapes can need several GB.
        tf32: Whether float32 products may be rounded to TF32, which keeps 10 bits of the mantissa and
            is beyond the fp32 gates.
    """

    target: Target
    workspace_bytes: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in memory.

    Args:
        plan: Its bytes; the library's own buffer.
        inputs: Element type of every input by name.
        outputs: Element type of every output by name.
        layer_types: Layers of the parsed network by the element type that they give.
        workspace_bytes: The limit of scratch memory that held.
        parse_seconds: How long reading the graph took.
        build_seconds: How long compiling took.
    """

    plan: memoryview
    inputs: dict[str, str]
    outputs: dict[str, str]
    layer_types: dict[str, int]
    workspace_bytes: int
    parse_seconds: float
    build_seconds: float


def build_plan(
    library: Library,
    onnx: Path,
    profiles: tuple[PlanProfile, ...],
    options: BuildOptions,
    *,
    cache: TimingCache | None = None,
    tick: Tick | None = None,
    cancel: Cancel | None = None,
) -> BuiltPlan:
    """Parse and compile a graph.

    Args:
        library: What builds.
        onnx: The graph; its types are the plan's.
        profiles: Ranges for every input.
        options: Target, scratch memory, TF32.
        cache: Measured kernels of earlier builds; TensorRT only.
        tick: Called with (phase, done, total) from the builder's threads.
        cancel: Stops the build at its next step when asked.

    Raises:
        ExportError: The library refused; the message holds its last errors, the node where it names one,
            what that means and what to do.
        KeyboardInterrupt: Ctrl-C; the build was told to stop and has.
    """
    cancel = cancel or Cancel()
    start = time.perf_counter()
    job = _Job(library, onnx, options)
    try:
        job.parse()
        parsed = time.perf_counter()
        job.configure(profiles, cache)
        phases = Phases(onnx.name, tick or _ignore)
        plan = run_cancellable(lambda: job.build(phases, cancel), cancel)
        if cache is not None and library.choice == "tensorrt":
            cache.keep(job.config)
        return BuiltPlan(
            memoryview(plan),
            {name: _dtype(tensor) for name, tensor in job.inputs().items()},
            {name: _dtype(tensor) for name, tensor in job.outputs().items()},
            job.layer_types(),
            job.workspace_bytes(),
            parsed - start,
            time.perf_counter() - parsed,
        )
    finally:
        job.close()


def _ignore(step: str, done: int, total: int) -> None:
    pass


class _Job:
    """One network with its builder; they must live as long as each other."""

    builder: tensorrt.Builder
    network: tensorrt.INetworkDefinition
    config: tensorrt.IBuilderConfig

    def __init__(self, library: Library, onnx: Path, options: BuildOptions) -> None:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = library.module
        self.library = library
        self.onnx = onnx
        self.options = options
        self.asked = f"cannot build a plan of {onnx} with {library.name} {library.version}"
        self.monitor: Any = None
        self.logger, self.logged = logger_of(library.module)
        self.logged.take()
        self.recorder = make_recorder(library)
        try:
            self.builder = trt.Builder(self.logger)
        except Exception as error:
            # Without a working driver the constructor is handed a null pointer.
            raise self.failure("", str(error)) from error
        # Required by TensorRT 10, accepted and without effect from 11 on.
        flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.network = self.builder.create_network(1 << int(flag))
        self.parser = trt.OnnxParser(self.network, self.logger)

    def parse(self) -> None:
        """Read the graph into the network."""
        # From the path and not from bytes: the graph may keep weights in files beside it.
        if not self.parser.parse_from_file(str(self.onnx)):
            said = [self.parser.get_error(index) for index in range(self.parser.num_errors)]
            node = next(
                (f"{item.node_name()} ({item.node_operator()})" for item in said if item.node_name()), ""
            )
            raise self.failure(node, *(item.desc() for item in said))
        allow_decomposition(self.network, self.library)

    def configure(self, profiles: tuple[PlanProfile, ...], cache: TimingCache | None) -> None:
        """Say for what to compile."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self.library.module
        # Not before the graph is parsed: the parser has errors of its own, and one that inherited a recorder
        # crashes the process when it is destroyed (TensorRT for RTX 1.7.1).
        self.builder.error_recorder = self.recorder
        self.config = config = self.builder.create_builder_config()
        if self.options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.options.workspace_bytes)
        if not self.options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        self._set_target()
        self._add_profiles(profiles)
        if cache is not None and self.library.choice == "tensorrt":
            cache.give(config)

    def _set_target(self) -> None:
        target = self.options.target
        capabilities: Any = self.library.optional("ComputeCapability")
        if capabilities is not None and target.capability is not None:
            config: Any = self.config
            config.num_compute_capabilities = 1
            if not config.set_compute_capability(
                getattr(capabilities, sm_name(target.capability).upper()), 0
            ):
                raise self.failure("", f"it does not take compute capability {target.name}")
        levels: Any = self.library.optional("HardwareCompatibilityLevel")
        if levels is not None:
            self.config.hardware_compatibility_level = getattr(
                levels, target.compatibility.upper().replace("-", "_")
            )

    def _add_profiles(self, profiles: tuple[PlanProfile, ...]) -> None:
        expected = set(profiles[0].inputs)
        if set(self.inputs()) != expected:
            raise ExportError(
                self.asked,
                f"the graph takes {sorted(self.inputs())}, the manifest says {sorted(expected)}",
                EXPORT_AGAIN,
            )
        for wanted in profiles:
            profile = self.builder.create_optimization_profile()
            for name, shapes in wanted.inputs.items():
                triple: Any = (shapes.minimum, shapes.optimum, shapes.maximum)
                try:
                    profile.set_shape(name, *triple)
                except (ValueError, RuntimeError, TypeError) as error:
                    raise self.failure(
                        "", f"profile {wanted.name}, input {name} {shapes}: {error}"
                    ) from error
            if self.config.add_optimization_profile(profile) < 0:
                ranges = ", ".join(f"{name} {shapes}" for name, shapes in wanted.inputs.items())
                raise self.failure("", f"profile {wanted.name} ({ranges}) is invalid")

    def build(self, phases: Phases, cancel: Cancel) -> Any:
        """Compile; the library's buffer."""
        self.monitor = make_monitor(self.library, phases, cancel)
        self.config.progress_monitor = self.monitor
        plan: Any = self.builder.build_serialized_network(self.network, self.config)
        if plan is None:
            if cancel.asked:
                raise ExportError(self.asked, "the build was cancelled")
            raise self.failure("")
        return plan

    def close(self) -> None:
        """Destroy what the library made, before the recorder and monitor that it calls when it goes."""
        for name in ("parser", "network", "config", "builder"):
            self.__dict__.pop(name, None)

    def failure(self, node: str, *said: str) -> ExportError:
        """Return the exception for a refusal, with everything that the library said about it."""
        messages = distinct([*said, *self.recorder.errors(), *self.logged.take()])
        symptom = diagnose(messages)
        shown = (
            "; ".join(messages[-_SHOWN:] if not said else messages[:_SHOWN]) or "the library gave no reason"
        )
        shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + " ..."
        at = f"at node {node}: " if node else ""
        meaning = f"{symptom.means} ({shown})" if symptom else shown
        fix = symptom.fix if symptom else EXPORT_AGAIN
        return ExportError(self.asked, at + meaning, fix)

    def inputs(self) -> dict[str, Any]:
        """Return the network's inputs by name."""
        tensors = [self.network.get_input(index) for index in range(self.network.num_inputs)]
        return {tensor.name: tensor for tensor in tensors}

    def outputs(self) -> dict[str, Any]:
        """Return the network's outputs by name."""
        tensors = [self.network.get_output(index) for index in range(self.network.num_outputs)]
        return {tensor.name: tensor for tensor in tensors}

    def workspace_bytes(self) -> int:
        """Return the limit of scratch memory."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self.library.module
        return int(self.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))

    def layer_types(self) -> dict[str, int]:
        """Count layers by the element type of their first output."""
        counts: dict[str, int] = {}
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            if layer.num_outputs:
                name = _dtype(layer.get_output(0))
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def allow_decomposition(network: tensorrt.INetworkDefinition, library: Library) -> None:
    """Let attention (opset 23 and later) be taken apart where no fused kernel fits, as for float32.

    Args:
        network: The parsed network.
        library: The library; releases before attention layers existed have nothing to allow.
    """
    kind = getattr(library.module.LayerType, "ATTENTION_OUTPUT", None)
    for index in range(network.num_layers):
        layer: Any = network.get_layer(index)
        if kind is not None and layer.type == kind:
            layer.__class__ = library.module.IAttentionOutputLayer
            layer.attention.decomposable = True


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _DTYPES.get(name, name.lower())
