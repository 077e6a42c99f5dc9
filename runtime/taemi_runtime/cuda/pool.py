"""Device memory that is lent to arrays, through a device layer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from taemi_runtime.cuda.contract import DeviceBuffer, DeviceLayer, PinnedBuffer, Stream
from taemi_runtime.device_array import Pool
from taemi_runtime.spec import Array


class LayerPool(Pool):
    """A pool that retains the device's primary context by itself, from its first array to its end.

    So arrays may outlast the engine that they came from by the call that reads them.

    Args:
        kind: The device layer.
        index: The device's ordinal.
    """

    def __init__(self, kind: type[DeviceLayer], index: int) -> None:
        super().__init__(f"cuda:{index}")
        self._kind = kind
        self._index = index
        self._opening = threading.Lock()
        self._layer: DeviceLayer | None = None
        self._copying = threading.Lock()
        self._stream: Stream | None = None
        self._twin: PinnedBuffer | None = None

    def _open(self) -> DeviceLayer:
        with self._opening:
            if self._layer is None:
                self._layer = self._kind.open(self._index)
            return self._layer

    def _allocate(self, nbytes: int) -> DeviceBuffer:
        layer = self._open()
        with layer.activate():
            return layer.alloc(nbytes)

    def _free(self, memory: Sequence[DeviceBuffer]) -> None:
        if self._layer is None:
            return
        with self._layer.activate():
            for block in memory:
                block.close()

    def read(self, memory: DeviceBuffer, nbytes: int) -> Array:
        """Return the first bytes of memory; see ``Pool.read``."""
        with self._staging(nbytes) as (stream, twin):
            stream.download(twin, memory, nbytes)
            stream.synchronise()
            return np.array(twin.array[:nbytes])

    def write(self, memory: DeviceBuffer, content: Array) -> None:
        """Write the first bytes of memory; see ``Pool.write``."""
        with self._staging(content.nbytes) as (stream, twin):
            twin.array[: content.nbytes] = content
            stream.upload(memory, twin, content.nbytes)
            stream.synchronise()

    @contextlib.contextmanager
    def _staging(self, nbytes: int) -> Iterator[tuple[Stream, PinnedBuffer]]:
        """Yield a stream and pinned memory of so many bytes at least; threads take turns."""
        layer = self._open()
        with self._copying, layer.activate():
            if self._stream is None:
                self._stream = layer.stream()
            if self._twin is None or self._twin.nbytes < nbytes:
                if self._twin is not None:
                    self._twin.close()
                self._twin = layer.pin(nbytes)
            yield self._stream, self._twin

    def _end(self) -> None:
        layer, self._layer = self._layer, None
        if layer is None:
            return
        with layer.activate(), contextlib.ExitStack() as stack:
            for resource in (self._stream, self._twin):
                if resource is not None:
                    stack.callback(resource.close)
        layer.close()
