"""Calls of an engine that several clips share, and what becomes of the others when one breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from taemi_runtime.engine import Engine
from taemi_runtime.resident import DeviceRows, Given, Inputs
from taemi_runtime.spec import Array, GraphSpec

Item = TypeVar("Item")
Found = TypeVar("Found")

_INTEGER = "int8"


def most_rows(engine: Engine, wanted: int = 64) -> int:
    """Return how many clips a call may hold: 1 for integer graphs, else what the engine was built for."""
    if engine.info.precision == _INTEGER:
        return 1
    item = engine.spec.inputs[0]
    axis = item.shape[0]
    if isinstance(axis, int):
        return 1
    return max(1, min(wanted, engine.info.limits.get(axis, wanted)))


def run_together(
    run: Callable[[Sequence[Item]], Sequence[Found]], group: Sequence[Item]
) -> list[Found | Exception]:
    """Run a group in one call, and each alone when that fails."""
    try:
        return [*run(group)]
    except Exception as error:  # of one of them, who knows which
        if len(group) == 1:
            return [error]
    return [found for item in group for found in run_together(run, [item])]


def join_rows(rows: Sequence[Array]) -> Array:
    """Join inputs of a batch of one each; where they have a length, zeros behind the shorter ones."""
    longest = max(row.shape[1] for row in rows)
    joined = np.zeros((len(rows), longest, *rows[0].shape[2:]), rows[0].dtype)
    for target, row in zip(joined, rows, strict=True):
        target[: row.shape[1]] = row[0]
    return joined


def join_inputs(spec: GraphSpec, calls: Sequence[Inputs]) -> dict[str, Given]:
    """Join the inputs of several calls with a batch of one each.

    Where one lies on a device all of them stay there, less those of what is not present, which is not read.

    Args:
        spec: The graph.
        calls: The inputs of each call.
    """
    joined: dict[str, Given] = {}
    for item in spec.inputs:
        rows = [call[item.name] for call in calls]
        if all(
            isinstance(row, DeviceRows) or not _is_present(spec, item.name, call)
            for row, call in zip(rows, calls, strict=True)
        ) and any(isinstance(row, DeviceRows) for row in rows):
            joined[item.name] = DeviceRows.join(rows)
            continue
        joined[item.name] = join_rows(
            [row.numpy().astype(item.dtype) if isinstance(row, DeviceRows) else row for row in rows]
        )
    return joined


def _is_present(spec: GraphSpec, name: str, call: Inputs) -> bool:
    """Whether a presence flag of a call with a batch of one lets the graph read an input."""
    flags = spec.presence
    if flags is None:
        return True
    given = call[flags.name]
    return isinstance(given, DeviceRows) or not any(
        name in names and not given[0, column] for column, names in enumerate(flags.governs)
    )


def chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Cut a sequence into lists of at most ``size``, in order."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
