"""A call without copies: inputs lie on the device, outputs stay there. Never executed on a GPU so far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from taemi_runtime.device_array import DeviceArray, Pool
from taemi_runtime.engine import Engine
from taemi_runtime.errors import EngineError
from taemi_runtime.resident import DeviceRows, Given, Keep, Piece
from taemi_runtime.spec import Array, Arrays, GraphSpec, OutputSpec


class Resident:
    """The outputs of a call, on the device.

    Args:
        spec: The graph.
        parts: For each output its parts along axis 0; one part where it has two axes.
    """

    def __init__(self, spec: GraphSpec, parts: dict[str, list[DeviceArray]]) -> None:
        self._spec = spec
        self._parts = parts

    def numpy(self) -> dict[str, Array]:
        """Return them on the host, with the graph's element types."""
        found = {}
        for item in self._spec.outputs:
            parts = [part.numpy() for part in self._parts[item.name]]
            joined = np.stack(parts) if len(item.shape) > 2 else parts[0]
            found[item.name] = joined.astype(item.dtype, copy=False)
        return found


def resident_call(engine: Engine, pool: Pool, inputs: Arrays) -> Callable[[], Resident]:
    """Put a call's inputs on the device and return the call, whose outputs stay there.

    Masks and flags go up with every call: no engine takes them from the device.

    Args:
        engine: The engine.
        pool: Its memory; what is taken of it is freed with the engine.
        inputs: The call's inputs.

    Raises:
        EngineError: The engine does not take such inputs from the device, or there is not enough memory.
    """
    sizes = engine.spec.check(inputs, frozenset(engine.info.inputs))
    fed: dict[str, Given] = {}
    for item in engine.spec.inputs:
        array = inputs[item.name]
        if item.role != "data":
            fed[item.name] = array
            continue
        array = array.astype(engine.dtype_of(item), copy=False)
        if why := engine.why_not_from(item.name, array.dtype, {pool.device}):
            raise EngineError(f"cannot keep {engine.spec.name}.{item.name} on {pool.device}", why)
        # Of an input of two axes a part is one row, of others one entry.
        entries = [
            array[place] if array.ndim > 2 else array[place : place + 1] for place in range(len(array))
        ]
        parts = tuple(pool.put(entry) for entry in entries)
        fed[item.name] = DeviceRows(parts, array.shape, array.dtype)
    rooms = {item.name: _rooms(engine, pool, item, sizes) for item in engine.spec.outputs}
    keep: Keep = {
        name: [Piece(room, 0, room.shape[0], place) for place, room in enumerate(parts)]
        for name, parts in rooms.items()
    }
    outputs = Resident(engine.spec, rooms)

    def call() -> Resident:
        engine.run(fed, check_values=False, keep=keep)
        return outputs

    return call


def _rooms(engine: Engine, pool: Pool, item: OutputSpec, sizes: dict[str, int]) -> list[DeviceArray]:
    shape, dtype = engine.spec.shape(item, sizes), engine.dtype_of(item)
    if len(shape) > 2:
        return [pool.take(shape[1:], dtype) for _ in range(shape[0])]
    return [pool.take(shape, dtype)]
