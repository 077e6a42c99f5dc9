"""Read what an ONNX file holds without the onnx package or a protobuf library.

Verification runs where the engines run, and a deployment host has numpy but rarely onnx. The few
fields that are needed are read straight from the wire format; tensors stay views into the mapped
file, so that a large graph costs no memory.

Sources: protobuf's encoding guide (varints, length-delimited fields) and the field numbers of
``onnx.proto``, which never change within the format.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from taemi_export.protobuf import BYTES, Value, as_int, as_message, as_str, fields, packed
from taemi_runtime.errors import BundleError

# TensorProto.DataType numbers: the names that GraphSpec uses, and the others in numpy's words.
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_EXTERNAL = 1
# Typed payload fields of TensorProto, and the numpy type that each element has in raw_data.
_TYPED = {4: "<f4", 5: None, 7: "<i8", 10: "<f8", 11: None}
_INT32_AS = {2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 9: "u1", 10: "<u2", 16: "<u2"}
_UINT64_AS = {12: "<u4", 13: "<u8"}


@dataclass(frozen=True)
class TensorFacts:
    """One constant tensor of a graph.

    Args:
        dtype: Element type.
        dims: Its shape.
        sha256: Digest of element type, shape and little-endian content.
    """

    dtype: str
    dims: tuple[int, ...]
    sha256: str

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.dims, dtype=np.int64))


@dataclass(frozen=True)
class ValueFacts:
    """One input or output of a graph: dynamic axes are names, fixed ones lengths."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself.

    Args:
        ir_version: Version of the file format.
        opsets: Version of each operator domain; the standard domain is ``""``.
        producer: What wrote the graph.
        metadata: The file's own key-value pairs.
        inputs: Inputs in order.
        outputs: Outputs in order.
        tensors: Every initialiser and every tensor of a Constant node, by name.
        operators: How often each operator occurs.
        external: Whether some tensor lives in another file.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    metadata: dict[str, str]
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    tensors: dict[str, TensorFacts]
    operators: dict[str, int]
    external: bool = False


@dataclass
class _Graph:
    inputs: list[ValueFacts] = field(default_factory=list)
    outputs: list[ValueFacts] = field(default_factory=list)
    tensors: dict[str, TensorFacts] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    external: bool = False


def read_onnx(path: Path) -> OnnxFile:
    """Read the facts of an ONNX file.

    Raises:
        BundleError: There is no such file, or it is no ONNX file.
    """
    asked = f"cannot read {path}"
    try:
        with path.open("rb") as stream:
            # Unmapped when the last view of it goes: closing it here would fail while an error holds one.
            return _model(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except FileNotFoundError:
        raise BundleError(asked, "there is no such file") from None
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BundleError(asked, f"it is no ONNX file ({error})", "Name a file that ends in .onnx") from error


def tensor_sha256(dtype: str, dims: tuple[int, ...], content: bytes | memoryview) -> str:
    """Return the digest of a tensor: element type, shape and little-endian content."""
    sha = hashlib.sha256(f"{dtype} {','.join(map(str, dims))}\n".encode())
    sha.update(content)
    return sha.hexdigest()


def _model(view: memoryview) -> OnnxFile:
    ir_version = 0
    opsets: dict[str, int] = {}
    producer = ["", ""]
    metadata: dict[str, str] = {}
    graph: _Graph | None = None
    for number, _, value in fields(view):
        if number == 1:
            ir_version = as_int(value)
        elif number in (2, 3):
            producer[number - 2] = as_str(value)
        elif number == 7:
            graph = _graph(as_message(value))
        elif number == 8:
            pair = {inner: item for inner, _, item in fields(as_message(value))}
            opsets[as_str(pair[1]) if 1 in pair else ""] = as_int(pair.get(2, 0))
        elif number == 14:
            pair = {inner: item for inner, _, item in fields(as_message(value))}
            metadata[as_str(pair[1])] = as_str(pair[2]) if 2 in pair else ""
    if graph is None or not ir_version:
        raise ValueError("it holds no graph")
    return OnnxFile(
        ir_version,
        opsets,
        " ".join(producer).strip(),
        metadata,
        tuple(graph.inputs),
        tuple(graph.outputs),
        graph.tensors,
        dict(sorted(graph.operators.items())),
        graph.external,
    )


def _graph(view: memoryview) -> _Graph:
    graph = _Graph()
    for number, _, value in fields(view):
        if number == 1:
            _node(as_message(value), graph)
        elif number == 5:
            _tensor(as_message(value), graph)
        elif number == 11:
            graph.inputs.append(_value(as_message(value)))
        elif number == 12:
            graph.outputs.append(_value(as_message(value)))
    return graph


def _node(view: memoryview, graph: _Graph) -> None:
    operator, output = "", ""
    attributes = []
    for number, _, value in fields(view):
        if number == 2 and not output:
            output = as_str(value)
        elif number == 4:
            operator = as_str(value)
        elif number == 5:
            attributes.append(as_message(value))
    graph.operators[operator] += 1
    if operator == "Constant":
        for attribute in attributes:
            for number, _, value in fields(attribute):
                if number == 5:
                    _tensor(as_message(value), graph, name=output)


def _tensor(view: memoryview, graph: _Graph, name: str = "") -> None:
    dims: list[int] = []
    kind = 0
    content: bytes | memoryview = b""
    for number, wire, value in fields(view):
        if number == 1:
            dims += packed(value) if wire == BYTES else [as_int(value)]
        elif number == 2:
            kind = as_int(value)
        elif number == 8 and not name:
            name = as_str(value)
        elif number == 9:
            content = as_message(value)
        elif number == 14 and as_int(value) == _EXTERNAL:
            graph.external = True
        elif number in _TYPED:
            content = bytes(content) + _typed(number, kind, wire, value)
    dtype = DTYPES.get(kind, str(kind))
    graph.tensors[name] = TensorFacts(dtype, tuple(dims), tensor_sha256(dtype, tuple(dims), content))


def _typed(number: int, kind: int, wire: int, value: Value) -> bytes:
    # A writer may spell a tensor as numbers instead of raw bytes; the digest is of the raw bytes.
    if number in (4, 10):
        return bytes(as_message(value))
    numbers = packed(value) if wire == BYTES else [as_int(value)]
    if number == 5:
        target = _INT32_AS.get(kind, "<i4")
    elif number == 11:
        target = _UINT64_AS.get(kind, "<u8")
    else:
        target = "<i8"
    return np.array(numbers, dtype=np.int64).astype(target).tobytes()


def _value(view: memoryview) -> ValueFacts:
    name, dtype = "", ""
    shape: list[int | str] = []
    for number, _, value in fields(view):
        if number == 1:
            name = as_str(value)
        elif number == 2:
            for inner, _, kind in fields(as_message(value)):
                if inner == 1:
                    dtype, shape = _tensor_type(as_message(kind))
    return ValueFacts(name, dtype, tuple(shape))


def _tensor_type(view: memoryview) -> tuple[str, list[int | str]]:
    dtype = ""
    shape: list[int | str] = []
    for number, _, value in fields(view):
        if number == 1:
            dtype = DTYPES.get(as_int(value), str(as_int(value)))
        elif number == 2:
            for inner, _, axis in fields(as_message(value)):
                if inner == 1:
                    shape.append(_axis(as_message(axis)))
    return dtype, shape


def _axis(view: memoryview) -> int | str:
    for number, _, value in fields(view):
        if number == 1:
            return as_int(value)
        if number == 2:
            return as_str(value)
    return "?"
