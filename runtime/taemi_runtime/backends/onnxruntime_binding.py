"""ONNX Runtime sessions whose inputs and outputs keep their places on the device (IOBinding).

Without it every call allocates on the device, copies in and out of fresh memory, and cannot be captured
into a CUDA graph. Here each shape has arrays of its own that are filled again, for the few shapes that
were used last. Calls of several threads run one after the other, as they would on the session's one
CUDA stream.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from taemi_runtime.backends.onnxruntime_session import OnnxRuntimeEngine, element_type, reason
from taemi_runtime.engine import EngineInfo, as_dtype
from taemi_runtime.errors import EngineError
from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, OutputSpec

# Shapes that keep their arrays; captured graphs are never freed by ONNX Runtime, so that later shapes
# than the first few run without.
_MOST_SHAPES = 8
_NO_GRAPH = -1

Key = tuple[tuple[int, ...], ...]


@dataclass
class _Slot:
    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    options: Any


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
        device: ``cuda`` or ``cpu``, where the session runs.
        index: The device's number.
        graphs: Whether the session captures CUDA graphs.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        spec: GraphSpec,
        info: EngineInfo,
        *,
        device: str,
        index: int = 0,
        graphs: bool = False,
    ) -> None:
        super().__init__(session, spec, info)
        self._ort = ort
        self._device = (device, index)
        self._graphs = graphs
        self._captured = 0
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._types = {node.name: element_type(node) for node in session.get_outputs()}

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        feeds = {name: as_dtype(inputs[name], dtype) for name, dtype in self._feeds.items()}
        with self._lock:
            if self._session is None:
                raise EngineError(f"cannot run {self.info.path}", "the engine is closed", "Open it again")
            try:
                slot = self._slot_of(feeds)
                for name, array in feeds.items():
                    slot.inputs[name].update_inplace(array)
                slot.binding.synchronize_inputs()
                self._session.run_with_iobinding(slot.binding, slot.options)
                slot.binding.synchronize_outputs()
                values = {name: value.numpy() for name, value in slot.outputs.items()}
            except EngineError:
                raise
            except Exception as error:  # the library's exceptions share no base class but this one
                raise EngineError(
                    f"cannot run {self.info.path}", f"ONNX Runtime failed ({reason(error)})"
                ) from error
            # On the CPU these are views of the bound arrays: the caller gets copies.
            return {item.name: values[item.name].astype(item.dtype, copy=True) for item in self.spec.outputs}

    def _slot_of(self, feeds: dict[str, Array]) -> _Slot:
        key = tuple(array.shape for array in feeds.values())
        if key not in self._slots:
            self._slots[key] = self._bind(feeds)
            if len(self._slots) > _MOST_SHAPES:
                self._slots.popitem(last=False)
        self._slots.move_to_end(key)
        return self._slots[key]

    def _bind(self, feeds: dict[str, Array]) -> _Slot:
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
            for axis, length in zip(item.shape, feeds[item.name].shape, strict=True)
            if isinstance(axis, str)
        }
        outputs = {}
        for item in self.spec.outputs:
            shape = self.spec.shape(item, lengths)
            outputs[item.name] = value.ortvalue_from_shape_and_type(
                shape, self._types[item.name], *self._device
            )
            binding.bind_ortvalue_output(item.name, outputs[item.name])
        options = self._ort.RunOptions()
        if self._graphs:
            graph = self._captured if self._captured < _MOST_SHAPES else _NO_GRAPH
            self._captured += 1
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return _Slot(binding, inputs, outputs, options)

    def close(self) -> None:
        """Free the arrays, then the session."""
        with self._lock:
            self._slots.clear()
            super().close()
