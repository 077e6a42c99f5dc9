"""A plan that was deserialised: what it takes, what it gives, for which shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taemi_runtime.backends.tensorrt_library import logger_of
from taemi_runtime.backends.tensorrt_messages import explain
from taemi_runtime.backends.tensorrt_signature import other_graph
from taemi_runtime.cuda.contract import DeviceLayer, Stream
from taemi_runtime.errors import EngineError
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, Shape, ShapeRange
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan.

    Args:
        item: Its description.
        dtype: Its element type in the plan.
        max_bytes: Its size at the largest shape of any profile.
    """

    item: InputSpec | OutputSpec
    dtype: np.dtype[Any]
    max_bytes: int

    @property
    def name(self) -> str:
        """Its name."""
        return self.item.name


class Plan:
    """A deserialised plan.

    Args:
        trt: The library.
        path: The plan.
        spec: The graph that it should be.
        sidecar: What is known of it, compared with the host already.
        facts: What the messages' placeholders stand for.
        layer: The device, whose context is current.

    Raises:
        EngineError: The library refuses the plan, or it is not the graph of the spec.
    """

    def __init__(
        self,
        trt: Any,
        path: Path,
        spec: GraphSpec,
        sidecar: PlanSidecar,
        facts: Mapping[str, str],
        layer: DeviceLayer,
    ) -> None:
        self.trt = trt
        self.path = path
        self.spec = spec
        self.sidecar = sidecar
        self.facts = dict(facts)
        logger, self.errors = logger_of(trt)
        self.errors.take()
        # The runtime must outlive the engine.
        self._runtime = trt.Runtime(logger)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes()) if self._runtime else None
        if engine is None:
            raise self.failure(f"cannot load {path}")
        self._engine: Any = engine
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        self._check_signature()
        self.profiles = self._read_profiles()
        self.inputs = tuple(self._input(item) for item in spec.inputs)
        self.outputs = self._size_outputs(layer)

    def failure(self, asked: str, **facts: str) -> EngineError:
        """Return the error for a call that returned ``None`` or ``False``, with the library's reason."""
        return EngineError(asked, *explain(self.errors.take(), self.facts | facts))

    def context(self) -> Any:
        """Create an execution context without memory of its own.

        Raises:
            EngineError: The library refused.
        """
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self.failure(f"cannot make an execution context for {self.path}")
        return context

    def _check_signature(self) -> None:
        engine, trt = self._engine, self.trt
        there = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        wrong = []
        pairs: list[tuple[str, InputSpec | OutputSpec]] = [("input", item) for item in self.spec.inputs]
        pairs += [("output", item) for item in self.spec.outputs]
        for what, item in pairs:
            mode = trt.TensorIOMode.INPUT if what == "input" else trt.TensorIOMode.OUTPUT
            if item.name not in there or engine.get_tensor_mode(item.name) != mode:
                wrong.append(f"there is no {what} {item.name}")
                continue
            dtype = self._dtype(item.name)
            shape = tuple(engine.get_tensor_shape(item.name))
            fits = dtype == item.dtype or (dtype == "float16" and item.dtype == "float32")
            # A named axis must have stayed dynamic; a fixed one may be dynamic in the plan.
            fits &= len(shape) == len(item.shape) and all(
                found in (-1, axis) for axis, found in zip(item.shape, shape, strict=True)
            )
            if not fits:
                wrong.append(
                    f"{what} {item.name} is {dtype} {list(shape)}, expected {item.dtype} {list(item.shape)}"
                )
            if engine.get_tensor_location(item.name) != trt.TensorLocation.DEVICE:
                wrong.append(f"{what} {item.name} lies on the host, so that shapes would depend on values")
        known = {item.name for _, item in pairs}
        inputs = {name for name in there if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        wrong += [
            f"{'input' if name in inputs else 'output'} {name} is unknown"
            for name in there
            if name not in known
        ]
        if wrong:
            raise other_graph(self.path, wrong)

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        try:
            found: np.dtype[Any] = np.dtype(self.trt.nptype(kind))
        except TypeError as error:
            raise EngineError(
                f"cannot use {self.path}",
                f"tensor {name} is of type {kind}, which numpy does not have",
                f"Build it with inputs and outputs in fp32 or fp16: {self.facts['rebuild']}",
            ) from error
        return found

    def _read_profiles(self) -> tuple[PlanProfile, ...]:
        """Return the plan's profiles, under the names that the sidecar gives them."""
        count = int(self._engine.num_optimization_profiles)
        found = []
        for index in range(count):
            inputs = {}
            for item in self.spec.inputs:
                shapes = [tuple(shape) for shape in self._engine.get_tensor_profile_shape(item.name, index)]
                inputs[item.name] = ShapeRange(*shapes)
            said = self.sidecar.profiles[index] if index < len(self.sidecar.profiles) else None
            found.append(PlanProfile(said.name if said else str(index), inputs))
        if tuple(found) != self.sidecar.profiles:
            raise EngineError(
                f"cannot use {self.path}",
                f"it has the profiles {_tell(found)}, its sidecar says {_tell(self.sidecar.profiles)}",
                f"Build it again: {self.facts['rebuild']}",
            )
        return tuple(found)

    def _input(self, item: InputSpec) -> Tensor:
        dtype = self._dtype(item.name)
        largest = max(_count(profile.inputs[item.name].maximum) for profile in self.profiles)
        return Tensor(item, dtype, largest * dtype.itemsize)

    def _size_outputs(self, layer: DeviceLayer) -> tuple[Tensor, ...]:
        """Ask a context for the shapes of the outputs at the largest inputs of every profile."""
        largest = dict.fromkeys((item.name for item in self.spec.outputs), 0)
        stream = layer.stream()
        try:
            state = ContextState(self, stream)
            for index, profile in enumerate(self.profiles):
                shapes = {name: held.maximum for name, held in profile.inputs.items()}
                for name, shape in state.set_shapes(index, shapes).items():
                    largest[name] = max(largest[name], _count(shape))
            stream.synchronise()
        finally:
            stream.close()
        found = []
        for item in self.spec.outputs:
            dtype = self._dtype(item.name)
            found.append(Tensor(item, dtype, largest[item.name] * dtype.itemsize))
        return tuple(found)


class ContextState:
    """An execution context, and what was last set in it.

    Args:
        plan: The plan.
        stream: Where everything of this context is queued.
    """

    def __init__(self, plan: Plan, stream: Stream) -> None:
        self.plan = plan
        self.stream = stream
        self.context = plan.context()
        self._profile = -1
        self._key: tuple[int, tuple[Shape, ...]] | None = None
        self._outputs: dict[str, Shape] = {}

    def bind(
        self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> dict[str, Shape]:
        """Set profile and shapes, then every address; nothing is done where all is so already.

        Args:
            profile: The profile's index.
            shapes: The shape of every input by name.
            addresses: The address of every input and output by name; always the same ones.

        Returns:
            The shapes of the outputs.

        Raises:
            EngineError: The library refused something.
        """
        key = (profile, tuple(shapes.values()))
        if key != self._key:
            # Unknown until all of it is done.
            self._key = None
            self._outputs = self.set_shapes(profile, shapes)
            self.set_addresses(addresses)
            self._key = key
        return self._outputs

    def set_shapes(self, profile: int, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set profile and input shapes, and return the outputs' shapes."""
        asked = f"cannot run {self.plan.path}"
        if profile != self._profile:
            if not self.context.set_optimization_profile_async(profile, self.stream.handle):
                raise self.plan.failure(asked, shapes=f"there is no profile {profile}")
            self._profile = profile
        for name, shape in shapes.items():
            if not self.context.set_input_shape(name, shape):
                raise self.plan.failure(asked, shapes=f"{name} {'x'.join(map(str, shape))}")
        unresolved = self.context.infer_shapes()
        if unresolved:
            raise self.plan.failure(asked, shapes=f"{', '.join(unresolved)} stay open")
        found = {
            item.name: tuple(self.context.get_tensor_shape(item.name)) for item in self.plan.spec.outputs
        }
        if any(length < 0 for shape in found.values() for length in shape):
            raise self.plan.failure(asked, shapes=f"outputs of {found}")
        return found

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Set the address of every input and output."""
        for name, address in addresses.items():
            if not self.context.set_tensor_address(name, address):
                raise self.plan.failure(f"cannot give {self.plan.path} the memory of {name}")

    def enqueue(self) -> None:
        """Queue one call.

        Raises:
            EngineError: The library refused.
        """
        if not self.context.execute_async_v3(self.stream.handle):
            raise self.plan.failure(f"cannot run {self.plan.path}")

    @property
    def can_be_captured(self) -> bool:
        """Whether the library says that a call at these shapes can be captured; TensorRT for RTX does."""
        ask = getattr(self.context, "is_stream_capturable", None)
        return ask is None or bool(ask(self.stream.handle))


def _count(shape: Shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _tell(profiles: Any) -> str:
    return "; ".join(
        f"{profile.name} ({', '.join(f'{name} {held}' for name, held in profile.inputs.items())})"
        for profile in profiles
    )
