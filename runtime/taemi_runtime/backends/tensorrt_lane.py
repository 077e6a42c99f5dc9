"""One caller's way through a plan: a stream, buffers of the largest size, execution contexts, graphs.

Nothing is allocated on the way: buffers have the size of the largest profile from the start, and lie in
device memory and in pinned host memory, so that copies need no staging. Every shape runs by plain enqueue
first. When a bucket comes a second time, it gets an execution context of its own (a captured graph breaks
when the context that it was captured from is given another shape), runs on it once uncaptured, since
TensorRT allocates then, and is captured; from the third time on one launch does the copies and the call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi_runtime.backends.tensorrt_buckets import fill
from taemi_runtime.backends.tensorrt_plan import ContextState, Plan, Tensor
from taemi_runtime.cuda.contract import DeviceBuffer, DeviceLayer, Graph, PinnedBuffer
from taemi_runtime.errors import EngineError
from taemi_runtime.plan_sidecar import Shape
from taemi_runtime.spec import Array, Arrays

# Captured graphs that a lane keeps, and shapes that it remembers to have seen.
_MOST_GRAPHS = 8
_MOST_SEEN = 64
# TensorRT asks for scratch memory aligned to 256 bytes, which allocations are.
Key = tuple[int, tuple[Shape, ...]]


@dataclass(frozen=True)
class Call:
    """Where a call goes.

    Args:
        profile: The optimisation profile's index.
        shapes: The shape of every input as it is run, padding included.
        capture: Whether a graph of it is worth having.
    """

    profile: int
    shapes: dict[str, Shape]
    capture: bool

    @property
    def key(self) -> Key:
        """What graphs are kept by."""
        return self.profile, tuple(self.shapes.values())


@dataclass
class Counts:
    """How often a lane did what."""

    enqueued: int = 0
    captured: int = 0
    replayed: int = 0


@dataclass
class _Slot:
    state: ContextState
    graph: Graph
    outputs: dict[str, Shape]


class Lane:
    """What one caller at a time uses; made, used and closed with the device's context current.

    Args:
        plan: The plan.
        layer: The device.
    """

    def __init__(self, plan: Plan, layer: DeviceLayer) -> None:
        self.plan = plan
        self.layer = layer
        self.counts = Counts()
        self.why_no_graph = ""
        self._buffers: dict[str, DeviceBuffer] = {}
        self._twins: dict[str, PinnedBuffer] = {}
        self._scratch: DeviceBuffer | None = None
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._plain: ContextState | None = None
        self._stream = layer.stream()
        try:
            for tensor in (*plan.inputs, *plan.outputs):
                self._buffers[tensor.name] = layer.alloc(tensor.max_bytes)
                self._twins[tensor.name] = layer.pin(tensor.max_bytes)
            if plan.scratch_bytes:
                self._scratch = layer.alloc(plan.scratch_bytes)
            self._plain = self._new_state()
        except EngineError:
            self.close()
            raise

    def run(self, call: Call, inputs: Arrays) -> dict[str, Array]:
        """Compute one call.

        Args:
            call: Where it goes.
            inputs: By name, of the call's shapes or smaller.

        Returns:
            The outputs at the call's shapes, in the plan's element types: views of this lane's memory
            that hold until its next call.

        Raises:
            EngineError: The library or the device failed.
        """
        for tensor in self.plan.inputs:
            # Padding may hold what half precision cannot; the graph replaces it before it is used.
            with np.errstate(over="ignore", invalid="ignore"):
                fill(self._view(tensor, call.shapes[tensor.name]), inputs[tensor.name])
        slot = self._slots.get(call.key)
        if slot is not None:
            self._slots.move_to_end(call.key)
            self._stream.launch(slot.graph)
            self.counts.replayed += 1
            outputs = slot.outputs
            self._wait()
        elif call.capture and not self.why_no_graph and self._was_seen(call.key):
            outputs = self._run_and_capture(call)
        else:
            assert self._plain is not None
            outputs = self._plain.bind(call.profile, call.shapes, self._addresses())
            self._queue(self._plain, call.shapes, outputs)
            self.counts.enqueued += 1
            self._wait()
        return {tensor.name: self._view(tensor, outputs[tensor.name]) for tensor in self.plan.outputs}

    def _run_and_capture(self, call: Call) -> dict[str, Shape]:
        state = self._new_state()
        outputs = state.bind(call.profile, call.shapes, self._addresses())
        self._warm(state, call.shapes, outputs)
        try:
            graph = self._capture(state, call.shapes, outputs)
        except EngineError as error:
            self.why_no_graph = error.found or str(error)
            return outputs
        self.counts.captured += 1
        self._slots[call.key] = _Slot(state, graph, outputs)
        if len(self._slots) > _MOST_GRAPHS:
            _, oldest = self._slots.popitem(last=False)
            oldest.graph.close()
        return outputs

    def _warm(self, state: ContextState, shapes: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
        """Run uncaptured at the shape that is captured next; it is this call's result, too."""
        self._queue(state, shapes, outputs)
        self.counts.enqueued += 1
        self._wait()

    def _capture(
        self, state: ContextState, shapes: Mapping[str, Shape], outputs: Mapping[str, Shape]
    ) -> Graph:
        if not state.can_be_captured:
            raise EngineError("cannot capture", "the library says that this plan cannot be captured")
        self._stream.begin_capture()
        try:
            self._queue(state, shapes, outputs)
        except BaseException:
            # Ctrl-C, too: a stream that still captures would swallow every later call.
            self._abandon_capture()
            raise
        return self._stream.end_capture()

    def _abandon_capture(self) -> None:
        try:
            self._stream.end_capture().close()
        except EngineError:
            # The first failure is the cause; the stream works again whether this call succeeds or not.
            return

    def _queue(self, state: ContextState, shapes: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
        """Queue the copies to the device, the call, and the copies back."""
        for tensor in self.plan.inputs:
            self._upload(tensor, _nbytes(tensor, shapes[tensor.name]))
        state.enqueue()
        for tensor in self.plan.outputs:
            self._download(tensor, _nbytes(tensor, outputs[tensor.name]))

    def _upload(self, tensor: Tensor, nbytes: int) -> None:
        self._stream.upload(self._buffers[tensor.name], self._twins[tensor.name], nbytes)

    def _download(self, tensor: Tensor, nbytes: int) -> None:
        self._stream.download(self._twins[tensor.name], self._buffers[tensor.name], nbytes)

    def _wait(self) -> None:
        self._stream.synchronise()

    def _new_state(self) -> ContextState:
        state = ContextState(self.plan, self._stream)
        if self._scratch is not None:
            # One block for all contexts of the lane: they run one after the other on one stream.
            state.context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        return state

    def _was_seen(self, key: Key) -> bool:
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return False

    def _addresses(self) -> dict[str, int]:
        return {name: buffer.address for name, buffer in self._buffers.items()}

    def _view(self, tensor: Tensor, shape: Shape) -> Array:
        raw = self._twins[tensor.name].array[: _nbytes(tensor, shape)]
        return raw.view(tensor.dtype).reshape(shape)

    def close(self) -> None:
        """Give everything back; closing twice does nothing."""
        for slot in self._slots.values():
            slot.graph.close()
        self._slots.clear()
        # Contexts go before the memory that they were given.
        self._plain = None
        for resource in (*self._buffers.values(), *self._twins.values()):
            resource.close()
        self._buffers.clear()
        self._twins.clear()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None
        self._stream.close()


def _nbytes(tensor: Tensor, shape: Shape) -> int:
    count = tensor.dtype.itemsize
    for length in shape:
        count *= length
    return count
