"""One caller's way through a plan: a stream, buffers of the largest size, execution contexts, graphs.

Nothing is allocated on the way: buffers have the size of the largest profile from the start, and lie in
device memory and in pinned host memory, so that copies need no staging. Every shape runs by plain enqueue
first. When a bucket comes a second time, it gets an execution context of its own (a captured graph breaks
when the context that it was captured from is given another shape), runs on it once uncaptured, since
TensorRT allocates then, and is captured; from the third time on one launch does the copies and the call.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taemi_runtime.backends.tensorrt_buckets import fill
from taemi_runtime.backends.tensorrt_plan import ContextState, Plan, Tensor
from taemi_runtime.cuda.contract import DeviceBuffer, DeviceLayer, Event, Graph, PinnedBuffer
from taemi_runtime.device_array import Memory
from taemi_runtime.errors import EngineError
from taemi_runtime.plan_sidecar import Shape
from taemi_runtime.resident import DeviceRows, Inputs, Keep, Piece, all_in_use, device_inputs, host_inputs
from taemi_runtime.spec import Array
from taemi_runtime.stopwatch import SplitMs

# Captured graphs that a lane keeps, and shapes that it remembers to have seen.
_MOST_GRAPHS = 8
_MOST_SEEN = 64
# TensorRT asks for scratch memory aligned to 256 bytes, which allocations are.
Key = tuple[int, tuple[Shape, ...], tuple[str, ...], tuple[str, ...]]


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


@dataclass(frozen=True)
class _Way:
    """A call with what of it comes from the host, and goes there.

    Args:
        call: The call.
        up: The inputs that are uploaded.
        down: The outputs that are downloaded.
    """

    call: Call
    up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]

    @property
    def key(self) -> Key:
        """What graphs are kept by."""
        up, down = (tuple(tensor.name for tensor in tensors) for tensors in (self.up, self.down))
        return self.call.profile, tuple(self.call.shapes.values()), up, down


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
        split_times: Whether calls note how long copies and computing took apart.
    """

    def __init__(self, plan: Plan, layer: DeviceLayer, *, split_times: bool = False) -> None:
        self.plan = plan
        self.layer = layer
        self.counts = Counts()
        self.why_no_graph = ""
        self._events: list[Event] = []
        self._buffers: dict[str, DeviceBuffer] = {}
        self._twins: dict[str, PinnedBuffer] = {}
        self._scratch: DeviceBuffer | None = None
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._plain: ContextState | None = None
        self.device_ms = 0.0
        """How long the last call took on the device, its copies included."""
        self.split: SplitMs | None = None
        """Where it spent that time."""
        self._marks: tuple[Event, ...] = ()
        self._stream = layer.stream()
        try:
            self._begin, self._end = (self._event() for _ in range(2))
            if split_times:
                self._marks = (self._event(), self._event())
            for tensor in (*plan.inputs, *plan.outputs):
                self._buffers[tensor.name] = layer.alloc(tensor.max_bytes)
                self._twins[tensor.name] = layer.pin(tensor.max_bytes)
            if plan.scratch_bytes:
                self._scratch = layer.alloc(plan.scratch_bytes)
            self._plain = self._new_state()
        except EngineError:
            self.close()
            raise

    def run(self, call: Call, inputs: Inputs, keep: Keep) -> dict[str, Array]:
        """Compute one call.

        Args:
            call: Where it goes.
            inputs: By name, of the call's shapes or smaller.
            keep: What of which outputs stays on the device.

        Returns:
            The other outputs at the call's shapes, in the plan's element types: views of this lane's memory
            that hold until its next call.

        Raises:
            EngineError: The library or the device failed, or an array on the device is closed.
        """
        with all_in_use(inputs, keep) as memory:
            try:
                return self._run(call, inputs, keep, memory)
            except BaseException:
                # What is queued reads and writes memory that is lent to others after this.
                self._settle()
                raise

    def _run(self, call: Call, inputs: Inputs, keep: Keep, memory: Mapping[int, Memory]) -> dict[str, Array]:
        resident, host = device_inputs(inputs), host_inputs(inputs)
        way = _Way(
            call,
            tuple(tensor for tensor in self.plan.inputs if tensor.name in host),
            tuple(tensor for tensor in self.plan.outputs if tensor.name not in keep),
        )
        for tensor in way.up:
            # Padding may hold what half precision cannot; the graph replaces it before it is used.
            with np.errstate(over="ignore", invalid="ignore"):
                fill(self._view(tensor, call.shapes[tensor.name]), host[tensor.name])
        start = time.perf_counter()
        self._stream.record(self._begin)
        for name, rows in resident.items():
            self._bring(name, rows, call.shapes[name], memory)
        slot = self._slots.get(way.key)
        fresh = None
        if slot is not None:
            self._slots.move_to_end(way.key)
            self._stream.launch(slot.graph)
            self.counts.replayed += 1
            outputs = slot.outputs
        else:
            if call.capture and not self.why_no_graph and self._was_seen(way.key):
                fresh = self._new_state()
            state = fresh or self._plain
            assert state is not None
            outputs = state.bind(call.profile, call.shapes, self._addresses())
            if fresh is None:
                self._queue(state, way, outputs)
            else:
                self._warm(state, way, outputs)
            self.counts.enqueued += 1
        for name, pieces in keep.items():
            self._hand_out(name, pieces, outputs[name], memory)
        self._stream.record(self._end)
        enqueue_ms = (time.perf_counter() - start) * 1e3
        self._wait()
        self.device_ms = self._end.elapsed_ms(self._begin)
        if self._marks:
            up, done = self._marks
            self.split = SplitMs(
                enqueue_ms,
                up.elapsed_ms(self._begin),
                done.elapsed_ms(up),
                self._end.elapsed_ms(done),
            )
        if fresh is not None:
            self._keep_graph(fresh, way, outputs)
        return {tensor.name: self._view(tensor, outputs[tensor.name]) for tensor in way.down}

    def _bring(self, name: str, rows: DeviceRows, shape: Shape, memory: Mapping[int, Memory]) -> None:
        """Queue the copies of an input that lies on the device; what they leave out holds anything."""
        entry_bytes = rows.dtype.itemsize * math.prod(shape[1:])
        for place, part in enumerate(rows.parts):
            if part is not None:
                self._stream.copy(
                    self._buffers[name], memory[id(part)], part.nbytes, target_offset=place * entry_bytes
                )

    def _hand_out(
        self, name: str, pieces: Sequence[Piece], shape: Shape, memory: Mapping[int, Memory]
    ) -> None:
        """Queue the copies of an output that stays on the device."""
        for piece in pieces:
            source, target, nbytes = piece.span(shape)
            self._stream.copy(
                memory[id(piece.target)],
                self._buffers[name],
                nbytes,
                target_offset=target,
                source_offset=source,
            )

    def _keep_graph(self, state: ContextState, way: _Way, outputs: dict[str, Shape]) -> None:
        try:
            graph = self._capture(state, way, outputs)
        except EngineError as error:
            self.why_no_graph = error.found or str(error)
            return
        self.counts.captured += 1
        self._slots[way.key] = _Slot(state, graph, outputs)
        if len(self._slots) > _MOST_GRAPHS:
            _, oldest = self._slots.popitem(last=False)
            oldest.graph.close()

    def _warm(self, state: ContextState, way: _Way, outputs: Mapping[str, Shape]) -> None:
        """Run uncaptured at the shape that is captured next; it is this call's result, too."""
        self._queue(state, way, outputs)

    def _capture(self, state: ContextState, way: _Way, outputs: Mapping[str, Shape]) -> Graph:
        if not state.can_be_captured:
            raise EngineError("cannot capture", "the library says that this plan cannot be captured")
        self._stream.begin_capture()
        try:
            self._queue(state, way, outputs, captured=True)
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

    def _queue(
        self, state: ContextState, way: _Way, outputs: Mapping[str, Shape], *, captured: bool = False
    ) -> None:
        """Queue the copies to the device, the call, and the copies back, with the marks between them."""
        for tensor in way.up:
            self._upload(tensor, _nbytes(tensor, way.call.shapes[tensor.name]))
        if self._marks:
            self._stream.record(self._marks[0], captured=captured)
        state.enqueue()
        if self._marks:
            self._stream.record(self._marks[1], captured=captured)
        for tensor in way.down:
            self._download(tensor, _nbytes(tensor, outputs[tensor.name]))

    def _upload(self, tensor: Tensor, nbytes: int) -> None:
        self._stream.upload(self._buffers[tensor.name], self._twins[tensor.name], nbytes)

    def _download(self, tensor: Tensor, nbytes: int) -> None:
        self._stream.download(self._twins[tensor.name], self._buffers[tensor.name], nbytes)

    def _wait(self) -> None:
        self._stream.synchronise()

    def _settle(self) -> None:
        """Let what is queued end, whatever becomes of it."""
        try:
            self._stream.synchronise()
        except EngineError:
            # The first failure is the cause.
            return

    def _event(self) -> Event:
        event = self.layer.event(timing=True)
        self._events.append(event)
        return event

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
        for resource in (*self._events, *self._buffers.values(), *self._twins.values()):
            resource.close()
        self._events.clear()
        self._buffers.clear()
        self._twins.clear()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None
        self._stream.close()


def _nbytes(tensor: Tensor, shape: Shape) -> int:
    return tensor.dtype.itemsize * math.prod(shape)
