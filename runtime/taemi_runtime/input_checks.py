"""What is looked at in the values of a call's inputs before anything runs."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from taemi_runtime.errors import InputError
from taemi_runtime.resident import DeviceRows, Inputs, host_inputs
from taemi_runtime.spec import Array, GraphSpec, InputSpec

HALF_MAX = 65504.0
"""The largest finite half-precision number (IEEE 754 binary16)."""


def check_finite(spec: GraphSpec, inputs: Inputs) -> None:
    """Refuse NaN and Inf wherever they would be read; what lies on a device is not looked at.

    Padding and switched-off inputs may hold anything: graphs replace them before any arithmetic.

    Raises:
        InputError: Names the input, the row and the first position.
    """
    for item in spec.inputs:
        array = inputs[item.name]
        if isinstance(array, DeviceRows) or array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        bad = ~np.isfinite(array) & _read_positions(spec, item, inputs)
        if bad.any():
            place = tuple(int(index) for index in np.argwhere(bad)[0])
            raise InputError(
                f"input {spec.name}.{item.name} is not finite where it is valid",
                f"{array[place]} at {place}",
                "Repair the feature, mark the position invalid in the mask, or the input as not present",
            )


def check_half_range(spec: GraphSpec, inputs: Inputs, halves: Collection[str]) -> None:
    """Refuse numbers that would become infinite on their way into a half-precision engine.

    What lies on a device has the engine's element type already.

    Args:
        spec: The graph.
        inputs: The arrays of a call.
        halves: The inputs that the engine takes in half precision.

    Raises:
        InputError: Names the input, the number, its position and the largest half-precision number.
    """
    for item in spec.inputs:
        array = inputs[item.name]
        if isinstance(array, DeviceRows) or item.name not in halves or array.dtype == np.float16:
            continue
        bad = np.isfinite(array) & (np.abs(array) > HALF_MAX)
        if bad.any() and (bad := bad & _read_positions(spec, item, inputs)).any():
            place = tuple(int(index) for index in np.argwhere(bad)[0])
            raise InputError(
                f"input {spec.name}.{item.name} does not fit into half precision, as this engine takes it",
                f"{array[place]} at {place}, half precision ends at {HALF_MAX:g}",
                "Check the feature's scale, or run the fp32 engine",
            )


def check_cover(spec: GraphSpec, name: str, rows: DeviceRows) -> None:
    """Refuse an input on a device of which the graph would read places that hold anything.

    Raises:
        InputError: Neither mask nor presence flag covers such a place.
    """
    flags, mask = spec.presence, spec.mask_of(name)
    governed = flags is not None and any(name in names for names in flags.governs)
    masked = mask is not None and spec.input(name).padding == "any"
    whole = rows.dtype.itemsize * math.prod(rows.shape[1:])
    for part in rows.parts:
        if (part is None and not governed) or (part is not None and part.nbytes != whole and not masked):
            raise InputError(
                f"input {spec.name}.{name} is not whole",
                f"got {0 if part is None else part.nbytes} of {whole} bytes of an entry",
                "Give all of it, or bring it to the host",
            )


def as_dtype(array: Array, dtype: str) -> Array:
    """Return an array contiguous and in an engine's element type; the array itself where it is.

    What stands in padding may be beyond the type's range and becomes infinite, without a warning.
    """
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype)


def _read_positions(spec: GraphSpec, item: InputSpec, given: Inputs) -> Array:
    # Masks and flags are always on the host.
    inputs = host_inputs(given)
    array = inputs[item.name]
    read = np.ones(array.shape, dtype=bool)
    mask = spec.mask_of(item.name)
    if mask is not None and inputs[mask.name].shape == array.shape[:2]:
        read &= inputs[mask.name].astype(bool).reshape(array.shape[:2] + (1,) * (array.ndim - 2))
    flags = spec.presence
    if flags is not None:
        for column, names in enumerate(flags.governs):
            if item.name in names:
                read &= inputs[flags.name][:, column].reshape((-1,) + (1,) * (array.ndim - 1))
    return read
