"""What pickles of arrays are made of: element types, arrays, storages and the tensors that view them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STORAGES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    # numpy has no such type: the bits are read and widened.
    "torch.BFloat16Storage": "<u2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
_BFLOAT16 = "torch.BFloat16Storage"


@dataclass
class ElementType:
    """A numpy type that is being described.

    Args:
        code: Kind and size, e.g. ``f4``.
        order: Byte order, as numpy writes it.
    """

    code: str
    order: str = "|"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type."""
        return np.dtype(self.order.replace("|", "=") + self.code)


@dataclass
class PickledArray:
    """A numpy array; without its values until its state has been read."""

    values: Array | None = None


@dataclass
class Storage:
    """The numbers behind a tensor.

    Args:
        kind: Torch's name for their type.
        count: How many there are.
        values: [count]; ``None`` until they have been read, which torch's older format does last.
    """

    kind: str
    count: int
    values: Array | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.count * np.dtype(STORAGES[self.kind]).itemsize

    def fill(self, content: bytes, order: Literal["<", ">"] = "<") -> None:
        """Take the numbers from their bytes, in byte order ``order``.

        Raises:
            ValueError: There are not as many as were announced.
        """
        if len(content) != self.nbytes:
            raise ValueError(f"a tensor has {len(content):,} bytes, its description asks for {self.nbytes:,}")
        values: Array = np.frombuffer(content, np.dtype(STORAGES[self.kind]).newbyteorder(order))
        if self.kind == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        self.values = values


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: ``shape`` elements, ``strides`` apart, from ``offset`` on."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> Array:
        """Return a copy of what is viewed.

        Raises:
            ValueError: It reaches beyond the storage, or the storage was never read.
        """
        values = self.storage.values
        if values is None:
            raise ValueError("a tensor's numbers are missing")
        count = math.prod(self.shape)
        last = self.offset + sum(
            (size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)
        )
        # An expanded tensor has more elements than numbers: it could ask for any amount of memory.
        if count > values.size or (count and last >= values.size):
            raise ValueError(f"a tensor {list(self.shape)} reaches beyond its {values.size:,} numbers")
        if not count:
            return np.zeros(self.shape, values.dtype)
        steps = tuple(step * values.itemsize for step in self.strides)
        begin = values[self.offset :]
        return np.lib.stride_tricks.as_strided(begin, self.shape, steps, writeable=False).copy()
