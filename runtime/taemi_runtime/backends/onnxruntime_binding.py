"""ONNX Runtime sessions whose inputs and outputs keep their places on the device (IOBinding).

Without it every call allocates on the device, copies in and out of fresh memory, and cannot be captured
into a CUDA graph. Here each shape has arrays of its own that are filled again, for the few shapes that
were used last. Calls of several threads run one after the other, as they would on the session's one
CUDA stream.

Features may come from the device and stay there: they are bound where they lie, at addresses that change from
call to call, so that such calls are not captured. Every call waits for its own work. An input must lie in one
piece there, and an output is written in one: what clips share is put together and taken apart by copies
within the device.

Copies between host and device go over the default stream and wait for themselves (``cudaMemcpy`` in ONNX
Runtime's cuda_provider_factory.cc); the graph runs on a stream of the session's own, where nobody else can
record events, and its run waits for it. Where a call spends its time is therefore told by the host's clock.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from taemi_runtime.backends.onnxruntime_copies import DeviceCopies
from taemi_runtime.backends.onnxruntime_session import OnnxRuntimeEngine, element_type, reason
from taemi_runtime.device_array import Pool
from taemi_runtime.engine import EngineInfo, why_not_here
from taemi_runtime.errors import EngineError
from taemi_runtime.input_checks import as_dtype
from taemi_runtime.plan_sidecar import Shape
from taemi_runtime.ranges import span
from taemi_runtime.resident import DeviceRows, Inputs, Keep, all_in_use, device_inputs, host_inputs
from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, OutputSpec
from taemi_runtime.stopwatch import SplitMs

# Shapes that keep their arrays; captured graphs are never freed by ONNX Runtime, so that later shapes
# than the first few run without.
_MOST_SHAPES = 8
_NO_GRAPH = -1

# The inputs' shapes, which of them lie on the device, which outputs stay there.
Key = tuple[tuple[Shape, ...], frozenset[str], frozenset[str]]


@dataclass
class _Slot:
    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    options: Any
    shapes: dict[str, Shape]


@dataclass(frozen=True)
class _Block:
    """Memory that ONNX Runtime allocated; it is freed with the last reference to it."""

    value: Any
    address: int
    nbytes: int


class OrtPool(Pool):
    """A pool of memory that ONNX Runtime allocates.

    Args:
        ort: The imported onnxruntime.
        name: The device, e.g. ``cuda:0``.
        place: The device as ONNX Runtime names it: its kind and number.
    """

    def __init__(self, ort: ModuleType, name: str, place: tuple[str, int]) -> None:
        super().__init__(name)
        self._ort = ort
        self._place = place

    def _allocate(self, nbytes: int) -> _Block:
        try:
            value = self._ort.OrtValue.ortvalue_from_shape_and_type((nbytes,), np.uint8, *self._place)
        except Exception as error:  # the library's exceptions share no base class but this one
            asked = f"cannot keep {nbytes} bytes on {self.device}"
            raise EngineError(asked, f"ONNX Runtime failed ({reason(error)})") from error
        return _Block(value, value.data_ptr(), nbytes)

    def _free(self, memory: Sequence[_Block]) -> None:
        # Nothing else refers to them.
        del memory

    def read(self, memory: _Block, nbytes: int) -> Array:
        """Return the first bytes of memory; see ``Pool.read``."""
        return np.array(memory.value.numpy()[:nbytes])

    def write(self, memory: _Block, content: Array) -> None:
        """Write the first bytes of memory; see ``Pool.write``."""
        if content.nbytes < memory.nbytes:
            content = np.concatenate([content, self.read(memory, memory.nbytes)[content.nbytes :]])
        memory.value.update_inplace(content)


def has_fixed_shapes(spec: GraphSpec) -> bool:
    """Return whether only the first axis of inputs and outputs varies.

    Graphs with further symbolic axes compute lengths on the CPU, and ONNX Runtime captures only what
    runs on the GPU as a whole.

    Args:
        spec: The graph.
    """
    items: tuple[InputSpec | OutputSpec, ...] = (*spec.inputs, *spec.outputs)
    return all(isinstance(axis, int) for item in items for axis in item.shape[1:])


class BoundEngine(OnnxRuntimeEngine):
    """One graph in one session, bound to arrays on a device.

    Args:
        ort: The imported onnxruntime.
        session: The session.
        spec: The graph.
        info: What was loaded.
        open_session: Opens another graph's bytes where the session runs.
        device: ``cuda`` or ``cpu``, where the session runs.
        index: The device's number.
        graphs: Whether the session captures CUDA graphs.
        split_times: Whether calls note how long copies and computing took apart.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        spec: GraphSpec,
        info: EngineInfo,
        *,
        open_session: Callable[[bytes], Any],
        device: str,
        index: int = 0,
        graphs: bool = False,
        split_times: bool = False,
    ) -> None:
        super().__init__(session, spec, info)
        self._ort = ort
        self._device = (device, index)
        self._graphs = graphs
        self._split_times = split_times
        self._captured = 0
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._copies = DeviceCopies(open_session, self._device)
        self._pool = OrtPool(ort, info.device, (device, index))
        self._types = {node.name: element_type(node) for node in session.get_outputs()}

    @property
    def captures(self) -> bool:
        """Whether the session captures CUDA graphs."""
        return self._graphs

    @property
    def pool(self) -> Pool:
        """Lends memory of the session's device; see ``Engine.pool``."""
        return self._pool

    def why_not_from(self, name: str, dtype: Any, devices: Collection[str]) -> str:
        """Return why an input is not taken from a device; see ``Engine.why_not_from``."""
        return why_not_here(self, name, dtype, devices)

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        return self._run_resident(inputs, {})

    def _run_resident(self, inputs: Inputs, keep: Keep) -> dict[str, Array]:
        given = host_inputs(inputs)
        feeds = {name: as_dtype(given[name], dtype) for name, dtype in self._feeds.items() if name in given}
        with all_in_use(inputs, keep) as memory, self._lock, contextlib.ExitStack() as lent:
            if self._session is None:
                raise EngineError(f"cannot run {self.info.path}", "the engine is closed", "Open it again")
            try:
                there = {
                    name: (self._whole_input(rows, memory, lent), rows.shape)
                    for name, rows in device_inputs(inputs).items()
                }
                return self._bound(feeds, there, keep, memory, lent)
            except EngineError:
                raise
            except Exception as error:  # the library's exceptions share no base class but this one
                raise EngineError(
                    f"cannot run {self.info.path}", f"ONNX Runtime failed ({reason(error)})"
                ) from error

    def _bound(
        self,
        feeds: dict[str, Array],
        there: dict[str, tuple[int, Shape]],
        keep: Keep,
        memory: Mapping[int, Any],
        lent: contextlib.ExitStack,
    ) -> dict[str, Array]:
        slot = self._slot_of(feeds, {name: shape for name, (_, shape) in there.items()}, keep)
        start = time.perf_counter()
        with span("upload"):
            for name, array in feeds.items():
                slot.inputs[name].update_inplace(array)
        up = time.perf_counter()
        for name, (address, shape) in there.items():
            slot.binding.bind_input(name, *self._device, np.dtype(self._feeds[name]), shape, address)
        apart: list[tuple[int, int, int]] = []
        for name, pieces in keep.items():
            if not pieces:
                continue
            kind, shape = np.dtype(self._types[name]), slot.shapes[name]
            whole = kind.itemsize * math.prod(shape)
            cuts = [(piece.span(shape), memory[id(piece.target)].address) for piece in pieces]
            (_, target, nbytes), address = cuts[0]
            if len(cuts) == 1 and nbytes == whole:
                address += target
            else:
                place = self._lend(whole, lent)
                apart += [(place + source, to + target, nbytes) for (source, target, nbytes), to in cuts]
                address = place
            slot.binding.bind_output(name, *self._device, kind, shape, address)
        with span("compute"):
            slot.binding.synchronize_inputs()
            self._session.run_with_iobinding(slot.binding, slot.options)
            slot.binding.synchronize_outputs()
        for source, target, nbytes in apart:
            self._copies.copy(source, target, nbytes)
        done = time.perf_counter()
        fetched = [item for item in self.spec.outputs if item.name not in keep]
        with span("download"):
            arrays = [slot.outputs[item.name].numpy() for item in fetched]
        if self._split_times:
            end = time.perf_counter()
            self._note_split(SplitMs(None, (up - start) * 1e3, (done - up) * 1e3, (end - done) * 1e3))
        # On the CPU these are views of the bound arrays: the caller gets copies.
        return {
            item.name: array.astype(item.dtype, copy=True)
            for item, array in zip(fetched, arrays, strict=True)
        }

    def _whole_input(self, rows: DeviceRows, memory: Mapping[int, Any], lent: contextlib.ExitStack) -> int:
        """Return where an input lies in one piece: where it is, or where its parts are copied to."""
        entry_bytes = rows.dtype.itemsize * math.prod(rows.shape[1:])
        if len(rows.parts) == 1 and memory[id(rows.parts[0])].nbytes >= entry_bytes:
            return int(memory[id(rows.parts[0])].address)
        place = self._lend(entry_bytes * len(rows.parts), lent)
        for entry, part in enumerate(rows.parts):
            if part is not None:
                self._copies.copy(memory[id(part)].address, place + entry * entry_bytes, part.nbytes)
        return place

    def _lend(self, nbytes: int, lent: contextlib.ExitStack) -> int:
        """Return the address of memory for this call."""
        # Batches have lengths of all kinds; powers of two let few pieces of memory serve them all.
        found = self._pool.take((1 << max(nbytes - 1, 0).bit_length(),), np.uint8)
        lent.callback(found.close)
        return int(lent.enter_context(found.in_use()).address)

    def _slot_of(self, feeds: dict[str, Array], there: dict[str, Shape], keep: Keep) -> _Slot:
        shapes = {name: feeds[name].shape if name in feeds else there[name] for name in self._feeds}
        key = (tuple(shapes.values()), frozenset(there), frozenset(keep))
        if key not in self._slots:
            self._slots[key] = self._bind(feeds, shapes, keep)
            if len(self._slots) > _MOST_SHAPES:
                self._slots.popitem(last=False)
        self._slots.move_to_end(key)
        return self._slots[key]

    def _bind(self, feeds: dict[str, Array], given: dict[str, Shape], keep: Keep) -> _Slot:
        value = self._ort.OrtValue
        binding = self._session.io_binding()
        inputs = {}
        for name, array in feeds.items():
            # Not from the array itself: on the CPU that would be the caller's memory, and written to.
            inputs[name] = value.ortvalue_from_shape_and_type(array.shape, self._feeds[name], *self._device)
            binding.bind_ortvalue_input(name, inputs[name])
        lengths = {
            axis: length
            for item in self.spec.inputs
            for axis, length in zip(item.shape, given[item.name], strict=True)
            if isinstance(axis, str)
        }
        shapes = {item.name: self.spec.shape(item, lengths) for item in self.spec.outputs}
        outputs = {}
        for name, shape in shapes.items():
            if keep.get(name):
                continue  # bound where it goes, call by call
            outputs[name] = value.ortvalue_from_shape_and_type(shape, self._types[name], *self._device)
            binding.bind_ortvalue_output(name, outputs[name])
        options = self._ort.RunOptions()
        if self._graphs:
            # A captured graph holds for the addresses that it was captured with.
            fixed = len(feeds) == len(given) and not any(keep.values())
            graph = self._captured if fixed and self._captured < _MOST_SHAPES else _NO_GRAPH
            self._captured += fixed
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return _Slot(binding, inputs, outputs, options, shapes)

    def close(self) -> None:
        """Free the arrays, then the session."""
        self._pool.close()
        with self._lock:
            self._slots.clear()
            self._copies.close()
            super().close()
