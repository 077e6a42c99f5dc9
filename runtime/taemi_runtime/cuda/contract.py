"""What a device layer offers, whichever Python package stands underneath.

Everything lives in the device's primary context, the one that PyTorch, ONNX Runtime and TensorRT use,
so that addresses and stream handles are plain integers which all of them understand. A context is
current for one thread at a time: every call but [DeviceLayer.activate][] itself is made inside it.

Copies are asynchronous and ordered by their stream. What a copy reads or writes on the host is valid
again after the stream, or an event recorded behind the copy, has been waited for.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.closing import Closing
from taemi_runtime.device_array import Memory
from taemi_runtime.engine import Probe
from taemi_runtime.errors import EngineError

Bytes = npt.NDArray[np.uint8]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is.

    Args:
        index: Its ordinal among the visible devices.
        name: Its name.
        capability: Its compute capability, e.g. (8, 0) for an A100 or A800.
        memory_bytes: Its memory.
        driver: The newest CUDA version that its driver supports, e.g. ``13.0``.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str


class Resource(abc.ABC):
    """Something that must be given back, within ``activate`` and once; giving it back twice does nothing."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give it back."""


class DeviceBuffer(Resource):
    """Memory on the device.

    Args:
        address: Its address.
        nbytes: Its length in bytes.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes


class PinnedBuffer(Resource):
    """Host memory that the device reads and writes by itself, without a staging copy by the driver.

    Args:
        array: [nbytes] uint8, the memory.
    """

    def __init__(self, array: Bytes) -> None:
        self.array = array
        self.nbytes = int(array.nbytes)


class Event(Resource):
    """A point in a stream."""

    @abc.abstractmethod
    def synchronise(self) -> None:
        """Wait until the work that was queued before it is done."""

    @abc.abstractmethod
    def elapsed_ms(self, since: Self) -> float:
        """Return the milliseconds on the device between another recorded event and this one."""


class Graph(Resource):
    """Work that was captured once and is launched as a whole."""


class Stream(Resource):
    """A queue of work on the device, never the default one, which would wait for every other.

    Args:
        handle: Its ``CUstream``, as an integer.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @abc.abstractmethod
    def upload(self, target: DeviceBuffer, source: PinnedBuffer, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes`` bytes to the device."""

    @abc.abstractmethod
    def download(self, target: PinnedBuffer, source: DeviceBuffer, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes`` bytes from the device."""

    def copy(
        self,
        target: Memory,
        source: Memory,
        nbytes: int,
        *,
        target_offset: int = 0,
        source_offset: int = 0,
    ) -> None:
        """Queue a copy within the device, from any place of one buffer to any place of another.

        Args:
            target: What is written.
            source: What is read; work of other streams on either must have ended, or be waited for.
            nbytes: How many bytes.
            target_offset: Where writing begins, in bytes.
            source_offset: Where reading begins, in bytes.

        Raises:
            EngineError: It would leave a buffer.
        """
        for what, buffer, offset in (("to", target, target_offset), ("from", source, source_offset)):
            if offset < 0 or nbytes < 0 or offset + nbytes > buffer.nbytes:
                raise EngineError(
                    f"cannot copy {nbytes} bytes {what} byte {offset} of a buffer",
                    f"it has {buffer.nbytes} bytes",
                )
        self._copy(target.address + target_offset, source.address + source_offset, nbytes)

    @abc.abstractmethod
    def _copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy between two addresses of the device."""

    @abc.abstractmethod
    def record(self, event: Event, *, captured: bool = False) -> None:
        """Mark this point of the stream.

        Args:
            event: What it is marked with.
            captured: Whether the stream is being captured: each launch of the graph then records the event,
                which can be waited for and timed outside of it.
        """

    @abc.abstractmethod
    def wait(self, event: Event) -> None:
        """Let what is queued from here on wait for an event of another stream."""

    @abc.abstractmethod
    def synchronise(self) -> None:
        """Wait until all queued work is done.

        Raises:
            EngineError: Some of it failed.
        """

    @abc.abstractmethod
    def begin_capture(self) -> None:
        """Collect what is queued from here on instead of running it.

        Raises:
            EngineError: The layer has no graphs, or the stream cannot be captured.
        """

    @abc.abstractmethod
    def end_capture(self) -> Graph:
        """Return what was collected, ready to be launched.

        Raises:
            EngineError: Something was queued meanwhile that cannot be captured.
        """

    @abc.abstractmethod
    def launch(self, graph: Graph) -> None:
        """Queue a graph."""


class Kernel(abc.ABC):
    """A function on the device."""

    @abc.abstractmethod
    def launch(
        self, stream: Stream, grid: Size, block: Size, arguments: Sequence[DeviceBuffer | np.generic]
    ) -> None:
        """Queue a launch.

        Args:
            stream: Where to.
            grid: Blocks in x, y and z.
            block: Threads of a block in x, y and z.
            arguments: Buffers, and numpy scalars of exactly the types that the kernel declares.
        """


class Module(Resource):
    """Compiled device code."""

    @abc.abstractmethod
    def kernel(self, name: str) -> Kernel:
        """Return a function by its name.

        Raises:
            EngineError: There is none of that name.
        """


class DeviceLayer(Closing):
    """One device, seen through one Python package.

    ``name`` is what ``--cuda-backend`` calls it, ``package`` what pip calls it, ``has_graphs`` whether
    streams can be captured.

    Args:
        facts: The device.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str]
    has_graphs: ClassVar[bool]

    def __init__(self, facts: DeviceFacts) -> None:
        self.facts = facts

    @classmethod
    @abc.abstractmethod
    def probe(cls) -> Probe:
        """Say whether this host can use the layer, without raising."""

    @classmethod
    @abc.abstractmethod
    def open(cls, index: int) -> Self:
        """Retain the primary context of a device.

        Args:
            index: The device's ordinal.

        Raises:
            MissingExtraError: The package is not installed.
            DeviceError: There is no such device.
        """

    @abc.abstractmethod
    def activate(self) -> AbstractContextManager[None]:
        """Make the context current for this thread; what was current before is so again afterwards."""

    @abc.abstractmethod
    def alloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory, at least 1 byte.

        Raises:
            EngineError: There is not enough.
        """

    @abc.abstractmethod
    def pin(self, nbytes: int) -> PinnedBuffer:
        """Allocate pinned host memory, at least 1 byte.

        Raises:
            EngineError: There is not enough.
        """

    @abc.abstractmethod
    def stream(self) -> Stream:
        """Make a stream."""

    @abc.abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """Make an event; only one with ``timing`` can tell milliseconds."""

    @abc.abstractmethod
    def module(self, image: bytes) -> Module:
        """Load compiled device code (a cubin or PTX).

        Raises:
            EngineError: It is none for this device.
        """

    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Return how much of the device's memory is free."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the context, once everything of it was given back; closing twice does nothing."""
