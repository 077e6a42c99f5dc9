"""Seeded inputs for any GraphSpec: verification, warm-up and timing draw from here.

Padding and missing inputs are filled with NaN, Inf and large values wherever the contract says that
they may hold anything, so that a graph which reads them cannot pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from taemi_runtime.spec import Array, Arrays, GraphSpec, InputSpec, valid_lengths

_POISON = (np.nan, np.inf, -np.inf, 3e38)


def draw_inputs(
    spec: GraphSpec,
    sizes: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    present: Sequence[Sequence[bool]] | None = None,
    ragged: bool = True,
    poison: bool = True,
) -> dict[str, Array]:
    """Draw one call's inputs.

    Args:
        spec: The graph.
        sizes: Lengths of free symbols; typical ones where unsaid.
        seed: Seed of every draw.
        present: [batch, columns] presence flags; everything is present when ``None``.
        ragged: Whether rows have different valid lengths (row 0 is always full).
        poison: Whether padding and missing inputs hold NaN, Inf and 3e38 where any value is allowed.

    Returns:
        Arrays by input name, with the spec's element types.
    """
    full = spec.sizes(sizes)
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    flags = spec.presence
    if flags is not None:
        shape = spec.shape(flags, full)
        arrays[flags.name] = (
            np.ones(shape, bool) if present is None else np.array(present, bool).reshape(shape)
        )
    for item in spec.inputs:
        if item.role == "data":
            arrays[item.name] = _draw_data(spec, item, full, rng)
    for item in spec.inputs:
        if item.role == "mask":
            _draw_mask(spec, item, full, rng, arrays, ragged=ragged, poison=poison)
    if flags is not None and poison:
        for column, names in enumerate(flags.governs):
            missing = ~arrays[flags.name][:, column]
            for name in names:
                if arrays[name].dtype.kind == "f":
                    _poison(
                        arrays[name], np.broadcast_to(_lift(missing, arrays[name].ndim), arrays[name].shape)
                    )
    return {item.name: arrays[item.name] for item in spec.inputs}


def _draw_data(spec: GraphSpec, item: InputSpec, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    shape = spec.shape(item, sizes)
    if item.draw.kind == "integers":
        return rng.integers(int(item.draw.low), int(item.draw.high), size=shape).astype(item.dtype)
    noise = rng.standard_normal(shape, dtype=np.float32)
    # A slow triangle wave along axis 1 gives neighbours something in common, as features of real clips
    # have. Its values are exact: np.sin differs in its last bit from CPU to CPU, and digests with it.
    if len(shape) > 1:
        wave = np.abs(np.arange(shape[1]) % 16 - 8).astype(np.float32) / 4 - 1
        noise += wave.reshape((1, -1) + (1,) * (len(shape) - 2))
    return (noise * np.float32(item.draw.high) + np.float32(item.draw.low)).astype(item.dtype)


def _draw_mask(
    spec: GraphSpec,
    item: InputSpec,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    arrays: dict[str, Array],
    *,
    ragged: bool,
    poison: bool,
) -> None:
    assert item.masks is not None
    data = arrays[item.masks]
    axis = item.shape[1]
    symbol = spec.symbol(axis) if isinstance(axis, str) else None
    lowest = 1
    if symbol is not None and symbol.source is not None:
        lowest = spec.symbol(symbol.source).minimum
    lengths = np.full(data.shape[0], data.shape[1], dtype=np.int64)
    if ragged:
        lengths[1:] = rng.integers(lowest, data.shape[1] + 1, size=data.shape[0] - 1)
    frames = valid_lengths(symbol, lengths)
    width = spec.shape(item, sizes)[1]
    mask = np.arange(width)[None, :] < frames[:, None]
    arrays[item.name] = mask if item.dtype == "bool" else mask.astype(item.dtype)
    padding = np.arange(data.shape[1])[None, :] >= lengths[:, None]
    if spec.input(item.masks).padding == "zero":
        data[padding] = 0
    elif poison and data.dtype.kind == "f":
        _poison(data, np.broadcast_to(_lift(padding, data.ndim), data.shape))


def _lift(flags: Array, ndim: int) -> Array:
    return flags.reshape(flags.shape + (1,) * (ndim - flags.ndim))


def _poison(array: Array, where: Array) -> None:
    count = int(np.count_nonzero(where))
    with np.errstate(over="ignore"):
        array[where] = np.resize(np.array(_POISON, dtype=np.float32), count).astype(array.dtype)


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
