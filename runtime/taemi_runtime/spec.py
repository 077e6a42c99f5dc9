"""GraphSpec: the one description of a graph that exporter, verifier, engines and benchmarks read.

A model family supplies it; nothing that consumes it knows what the numbers mean. It names every
input with its axes, says which inputs are masks of which, which column of a presence flag governs
which input, what the outputs are called, and how far each precision may be from PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from taemi_runtime.errors import InputError, SpecError


class Shaped(Protocol):
    """What an array's type and shape are checked by, wherever its values lie."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""

    @property
    def ndim(self) -> int:
        """Number of axes."""


Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Axis = str | int
DType = Literal["float32", "float16", "uint8", "int32", "int64", "bool"]
Role = Literal["data", "mask", "presence"]
Padding = Literal["any", "zero"]


@dataclass(frozen=True)
class Symbol:
    """A dynamic axis.

    Args:
        name: Its name, shared by every input and output that has this axis.
        minimum: The smallest length that the graph accepts, at least 1.
        typical: The length that benchmarks and optimisation profiles are tuned for.
        maximum: The largest length that the graph accepts; ``None`` is unbounded.
        source: The symbol that this one follows, when it is no free choice.
        convs: With ``source``: the (kernel, stride) pairs of the unpadded convolutions in between.
    """

    name: str
    minimum: int = 1
    typical: int = 1
    maximum: int | None = None
    source: str | None = None
    convs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        top = self.maximum if self.maximum is not None else self.typical
        if not 1 <= self.minimum <= self.typical <= top:
            raise SpecError(
                f"symbol {self.name!r} is inconsistent",
                f"minimum {self.minimum}, typical {self.typical}, maximum {self.maximum}",
                "Give 1 <= minimum <= typical <= maximum",
            )
        if bool(self.source) != bool(self.convs):
            raise SpecError(f"symbol {self.name!r} is inconsistent", "source and convs go together")

    def derive(self, length: int) -> int:
        """Return this symbol's length for a ``length`` of its source.

        A valid convolution of kernel k and stride s maps n to floor((n - k) / s) + 1 (PyTorch's
        Conv1d documentation with padding 0 and dilation 1). Negative results are returned as 0.
        """
        for kernel, stride in self.convs:
            length = (length - kernel) // stride + 1 if length >= kernel else 0
        return length


@dataclass(frozen=True)
class Draw:
    """How plausible values for a data input are drawn for verification and timing.

    ``normal`` has mean ``low`` and standard deviation ``high``; ``integers`` are drawn from
    ``low`` to ``high`` - 1.
    """

    kind: Literal["normal", "integers"] = "normal"
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class InputSpec:
    """One input of a graph.

    Args:
        name: The tensor's name in the graph.
        dtype: Its element type in the fp32 graph.
        shape: Symbol names and fixed lengths; axis 0 of every input is the batch or frame axis.
        role: ``data``, ``mask`` (bool, true = valid) or ``presence`` (bool, one column a modality).
        masks: For a mask: the data input whose second axis it covers (through a derived symbol, too).
        padding: What may stand where the mask is false: ``any`` value, NaN included, or only ``zero``.
        draw: How test values are drawn (data inputs).
        half: Whether half-precision engines take this input in half precision.
        governs: For presence: for each column the data inputs that it switches off.
    """

    name: str
    dtype: DType
    shape: tuple[Axis, ...]
    role: Role = "data"
    masks: str | None = None
    padding: Padding = "any"
    draw: Draw = field(default_factory=Draw)
    half: bool = False
    governs: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class OutputSpec:
    """One output of a graph.

    Args:
        name: The tensor's name in the graph.
        dtype: Its element type.
        shape: Symbol names and fixed lengths.
        labels: What the entries of the last axis are called; empty when they have no names.
        mask: The mask input whose false positions hold nothing worth comparing on axis 1.
    """

    name: str
    dtype: DType
    shape: tuple[Axis, ...]
    labels: tuple[str, ...] = ()
    mask: str | None = None


@dataclass(frozen=True)
class Gate:
    """How far an engine of one precision may be from the PyTorch reference; ``None`` sets no limit.

    Whatever a gate allows, a value that is not finite where PyTorch's is never passes.

    Args:
        max_abs: Largest absolute difference of any element.
        mean_abs: Largest mean absolute difference over an output.
        min_cosine: Smallest cosine similarity between an output and its reference.
        min_rho: Smallest Pearson correlation between an output and its reference.
        relative: Whether both differences are first divided by max(1, the reference's standard
            deviation): features of an encoder have no fixed scale, scores have.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    min_cosine: float | None = None
    min_rho: float | None = None
    relative: bool = False


@dataclass(frozen=True)
class GraphSpec:
    """Everything that tools know about one graph.

    Args:
        name: The graph's name; its files are called after it.
        symbols: Every dynamic axis that inputs and outputs mention.
        inputs: The inputs in the order of the graph.
        outputs: The outputs in the order of the graph.
        gates: Parity gates by precision name, e.g. ``{"fp32": Gate(1e-4, 1e-5)}``.
        chain_gates: Gates for this graph's outputs when other graphs of the model, in that precision,
            feed its inputs; for the model's first graph, by precision name.

    Raises:
        SpecError: Names clash, a symbol is unknown, or a mask refers to nothing.
    """

    name: str
    symbols: tuple[Symbol, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    gates: dict[str, Gate]
    chain_gates: dict[str, Gate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_masks()

    def _check_names(self) -> None:
        tensors: tuple[InputSpec | OutputSpec, ...] = (*self.inputs, *self.outputs)
        names = [item.name for item in tensors]
        symbols = {symbol.name for symbol in self.symbols}
        if len(set(names)) != len(names) or len(symbols) != len(self.symbols):
            raise SpecError(f"graph {self.name!r} has clashing names", f"tensors {names}, symbols {symbols}")
        for item in tensors:
            unknown = [axis for axis in item.shape if isinstance(axis, str) and axis not in symbols]
            if unknown:
                raise SpecError(f"{self.name}.{item.name} has unknown axes", f"{unknown} not in {symbols}")
        for symbol in self.symbols:
            if symbol.source is not None and symbol.source not in symbols:
                raise SpecError(f"symbol {symbol.name!r} follows nothing", f"no symbol {symbol.source!r}")

    def _check_masks(self) -> None:
        data = {item.name for item in self.inputs if item.role == "data"}
        for item in self.inputs:
            governed = {name for column in item.governs for name in column}
            targets = governed | ({item.masks} if item.masks else set())
            if item.role == "mask" and item.masks is None:
                raise SpecError(f"{self.name}.{item.name} is a mask of nothing")
            if not targets <= data:
                raise SpecError(f"{self.name}.{item.name} refers to unknown inputs", f"{targets - data}")

    def symbol(self, name: str) -> Symbol:
        """Return the symbol called ``name``."""
        return next(symbol for symbol in self.symbols if symbol.name == name)

    def input(self, name: str) -> InputSpec:
        """Return the input called ``name``."""
        return next(item for item in self.inputs if item.name == name)

    @property
    def free_symbols(self) -> tuple[Symbol, ...]:
        """The symbols whose lengths a caller chooses."""
        return tuple(symbol for symbol in self.symbols if symbol.source is None)

    @property
    def presence(self) -> InputSpec | None:
        """The presence input, when the graph has one."""
        return next((item for item in self.inputs if item.role == "presence"), None)

    def mask_of(self, name: str) -> InputSpec | None:
        """Return the mask of data input ``name``, when it has one."""
        return next((item for item in self.inputs if item.masks == name), None)

    def sizes(self, chosen: Mapping[str, int] | None = None) -> dict[str, int]:
        """Complete a choice of free symbols: typical lengths where unsaid, derived ones computed.

        Raises:
            InputError: A choice is unknown, out of range, or leaves a derived axis too short.
        """
        chosen = dict(chosen or {})
        unknown = set(chosen) - {symbol.name for symbol in self.free_symbols}
        if unknown:
            free = ", ".join(symbol.name for symbol in self.free_symbols)
            raise InputError(
                f"cannot size graph {self.name!r}", f"no free axis {sorted(unknown)}", f"Choose from: {free}"
            )
        sizes = {symbol.name: chosen.get(symbol.name, symbol.typical) for symbol in self.free_symbols}
        for symbol in self.symbols:
            if symbol.source is not None:
                sizes[symbol.name] = symbol.derive(sizes[symbol.source])
        for symbol in self.symbols:
            self._check_range(symbol, sizes[symbol.name])
        return sizes

    def _check_range(self, symbol: Symbol, length: int) -> None:
        if length < symbol.minimum or (symbol.maximum is not None and length > symbol.maximum):
            top = "any" if symbol.maximum is None else symbol.maximum
            raise InputError(
                f"graph {self.name!r} cannot take {symbol.name} = {length}",
                f"expected {symbol.minimum} to {top}",
                "Pad or cut the input to that range",
            )

    def shape(self, item: InputSpec | OutputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the concrete shape of an input or output."""
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in item.shape)

    def check(self, arrays: Mapping[str, Shaped], halves: Collection[str] = ()) -> dict[str, int]:
        """Check names, element types and shapes of a call's inputs before anything runs.

        Args:
            arrays: The inputs by name.
            halves: Names of float32 inputs that may come as float16, too.

        Returns:
            The length of every symbol.

        Raises:
            InputError: Something does not fit; the message says got and expected.
        """
        expected = {item.name for item in self.inputs}
        if set(arrays) != expected:
            raise InputError(
                f"graph {self.name!r} got the wrong inputs",
                f"missing {sorted(expected - set(arrays))}, unexpected {sorted(set(arrays) - expected)}",
                f"Give exactly: {', '.join(item.name for item in self.inputs)}",
            )
        sizes: dict[str, int] = {}
        for item in self.inputs:
            self._check_array(item, arrays[item.name], sizes, item.name in halves)
        for symbol in self.symbols:
            if symbol.name not in sizes:
                continue
            self._check_range(symbol, sizes[symbol.name])
            if symbol.source is not None and symbol.source in sizes:
                follows = symbol.derive(sizes[symbol.source])
                if sizes[symbol.name] != follows:
                    raise InputError(
                        f"graph {self.name!r} cannot take {symbol.name} = {sizes[symbol.name]}",
                        f"expected {follows}, which follows from {symbol.source} = {sizes[symbol.source]}",
                        "Build the mask with the graph's own length formula",
                    )
        return sizes

    def _check_array(self, item: InputSpec, array: Shaped, sizes: dict[str, int], half: bool) -> None:
        place = f"{self.name}.{item.name}"
        dtypes = (item.dtype, "float16") if half else (item.dtype,)
        wanted = f"{' or '.join(dtypes)} [{', '.join(map(str, item.shape))}]"
        got = f"{array.dtype} {list(array.shape)}"
        if str(array.dtype) not in dtypes or array.ndim != len(item.shape):
            raise InputError(f"input {place} has the wrong type", f"got {got}, expected {wanted}")
        for axis, length in zip(item.shape, array.shape, strict=True):
            known = axis if isinstance(axis, int) else sizes.setdefault(axis, length)
            if length != known:
                raise InputError(
                    f"input {place} has the wrong shape",
                    f"got {got}, expected {wanted} with {axis} = {known}",
                )


def valid_lengths(symbol: Symbol | None, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Map valid lengths of an input to valid lengths of its mask's axis (at least 1).

    Args:
        symbol: The mask's axis, when it is derived; ``None`` when both share one axis.
        lengths: [batch], int64, valid elements of the data input.
    """
    if symbol is None or symbol.source is None:
        return lengths
    return np.array([max(1, symbol.derive(int(length))) for length in lengths], dtype=np.int64)
