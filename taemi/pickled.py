"""Arrays out of pickles that nobody vouches for.

A pickle is a program. This machine knows only the instructions that arrays are written with, and nothing that
it meets is ever looked up, imported or called: the few names that arrays need are words to it, and what they
ask for is done here, on checked values. Every other name is refused with what it is called.

Format: the standard library's ``pickletools``; what numpy and torch write into it: ``ndarray.__reduce__`` and
``torch.Tensor.__reduce_ex__``.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from taemi.pickled_values import STORAGES, Array, ElementType, PickledArray, PickledTensor, Storage

# What numpy 1 and 2 call the same functions by.
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_NDARRAY = "numpy.ndarray"
# Before protocol 3 pickles have no bytes: those of an empty array are made with no argument.
_BYTES = ("__builtin__.bytes", "builtins.bytes")
_TYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f2", "f4", "f8", "b1"}

_LITERALS = frozenset(
    (
        *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
# A parameter of torch takes five, an array of the oldest protocol four.
_MOST_CALLS = 8
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):  # noqa: N818 - not an error by itself: whoever knows the file makes it one
    """A pickle holds something else than arrays and tensors; the message says what."""


@dataclass(frozen=True)
class Name:
    """A name that arrays are written with; to the machine a word like any other."""

    text: str


class Machine:
    """Runs one pickle.

    Args:
        stream: Where it begins; afterwards the position is behind its end.
        storage: Gives the storage of a persistent id; ``None`` where the format has none.
        nested: Reads a storage that was pickled as the bytes of a file of its own.
    """

    def __init__(
        self,
        stream: IO[bytes],
        storage: Callable[[Storage, str], Storage] | None = None,
        nested: Callable[[bytes], Storage] | None = None,
    ) -> None:
        self._stream = stream
        self._storage = storage
        self._nested = nested
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._calls = 0

    def run(self) -> Any:
        """Return what the pickle describes.

        Raises:
            Refused: It names or does something that arrays do not need.
            ValueError: It is damaged; ``IndexError``, ``KeyError`` and ``TypeError`` say the same.
        """
        for opcode, argument, _ in pickletools.genops(self._stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it ends too soon")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(tuple(self._take(len(stack) - _TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._take(self._marks.pop())))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("APPEND", "APPENDS"):
            items = self._take(self._marks.pop() if name == "APPENDS" else len(stack) - 1)
            _is(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._take(self._marks.pop() if name == "SETITEMS" else len(stack) - 2)
            # Only words: hashing tuples of tuples can take for ever.
            _is(stack[-1], dict).update((_is(key, str), value) for key, value in _pairs(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(_admit(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self._take(len(stack) - 2)
            stack.append(_admit(f"{_is(module, str)}.{_is(attribute, str)}"))
        elif name == "BINPERSID":
            self._count_call()
            stack.append(self._persistent(stack.pop()))
        elif name == "REDUCE":
            self._count_call()
            function, arguments = self._take(len(stack) - 2)
            stack.append(self._reduce(_is(function, Name).text, _is(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], _is(state, tuple))
        else:
            named = f" for {argument.replace(' ', '.', 1)[:200]}" if name == "INST" else ""
            raise Refused(f"it uses the pickle instruction {name}{named}, which no array needs")

    def _count_call(self) -> None:
        # Each may copy the whole array: a few bytes could ask for all memory by asking again and again.
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise Refused("it builds more than one array")

    def _take(self, start: int) -> list[Any]:
        if start < (self._marks[-1] if self._marks else 0):
            raise ValueError("an instruction finds too little to work on")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _persistent(self, pid: Any) -> Storage:
        word, kind, key, _, count, *rest = _is(pid, tuple)
        name = _is(kind, Name).text
        if self._storage is None or word != "storage" or name not in STORAGES or any(rest):
            raise Refused("it refers to something that is no plain tensor's storage")
        return self._storage(Storage(name, _count(count)), _is(key, str))

    def _reduce(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function == "_codecs.encode":
            text, encoding = arguments
            if encoding != "latin1":
                raise Refused("it encodes a text in a way that no array needs")
            return _is(text, str).encode("latin1")
        if function in _BYTES and not arguments:
            return b""
        if function == "numpy.dtype":
            code = arguments[0]
            if _is(code, str) not in _TYPES:
                raise Refused(f"its array has elements of type {code[:40]!r}, which are no numbers")
            return ElementType(code)
        if function in _RECONSTRUCT:
            if arguments[0] != Name(_NDARRAY):
                raise Refused("it rebuilds something that is no plain numpy array")
            return PickledArray()
        if function in _FROM_BUFFER:
            raw, kind, shape, order = arguments
            return PickledArray(_array(raw, kind, shape, order == "F"))
        if function == "torch.storage._load_from_bytes" and self._nested is not None:
            return self._nested(bytes(_is(arguments[0], bytes | bytearray)))
        if function == "torch._utils._rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            return PickledTensor(_is(storage, Storage), _count(offset), _counts(shape), _counts(strides))
        if function == "torch._utils._rebuild_parameter":
            return _is(arguments[0], PickledTensor)
        if function == "collections.OrderedDict" and not arguments:
            return {}
        raise Refused(f"it calls {function} in a way that no array needs")


_ADMITTED = frozenset(
    [
        *_RECONSTRUCT,
        *_FROM_BUFFER,
        *STORAGES,
        _NDARRAY,
        "numpy.dtype",
        "_codecs.encode",
        *_BYTES,
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "collections.OrderedDict",
    ]
)


def _admit(name: str) -> Name:
    if name not in _ADMITTED:
        raise Refused(f"it names {name[:200]}, which is neither a numpy array nor a torch tensor")
    return Name(name)


def _build(target: Any, state: tuple[Any, ...]) -> None:
    """Give what was rebuilt empty its state, as ``__setstate__`` would."""
    if isinstance(target, ElementType):
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or not subtype is names is fields is None:
            raise Refused("its array has structured elements, which are no numbers")
        target.order = order
    elif isinstance(target, PickledArray):
        _, shape, kind, fortran, raw = state
        target.values = _array(raw, kind, shape, fortran)
    else:
        raise Refused(f"it sets the state of a {type(target).__name__}")


def _array(raw: Any, kind: Any, shape: Any, fortran: Any) -> Array:
    dtype = _is(kind, ElementType).dtype
    content = raw.encode("latin1") if isinstance(raw, str) else bytes(_is(raw, bytes | bytearray))
    sizes = _counts(shape)
    if math.prod(sizes) * dtype.itemsize != len(content):
        raise ValueError(f"an array of {dtype} {list(sizes)} does not fit its {len(content):,} bytes")
    return np.frombuffer(content, dtype).reshape(sizes, order="F" if fortran else "C")


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _is(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} stands where none can be")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a length is no number from 0 up")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(_count(item) for item in _is(value, tuple))
