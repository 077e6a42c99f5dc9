"""Gates: how far an engine may be from PyTorch, and how a user tightens that.

The model family puts its gates into the GraphSpecs. A user may ask for more, never for less: a gate
that is loosened would make every later ``passed`` mean something else.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taemi_runtime.errors import UsageError
from taemi_runtime.spec import Gate, GraphSpec

_UPPER = ("max_abs", "mean_abs")
_LOWER = ("min_cosine", "min_rho")
LIMITS = (*_UPPER, *_LOWER)
CHAIN = "chain"
"""The name under which the gates of the whole chain are addressed, as if it were a graph."""
_HOW = "Write [GRAPH.]PRECISION.LIMIT=NUMBER, e.g. --gate fp16.max_abs=1e-2; limits: " + ", ".join(LIMITS)


@dataclass(frozen=True)
class Limit:
    """One limit that a user asked for.

    Args:
        graph: The graph, ``chain``, or ``None`` for every graph that has a gate of that precision.
        precision: E.g. ``fp16``.
        name: ``max_abs``, ``mean_abs``, ``min_cosine`` or ``min_rho``.
        value: The limit.
    """

    graph: str | None
    precision: str
    name: str
    value: float

    def __str__(self) -> str:
        where = f"{self.graph}." if self.graph else ""
        return f"{where}{self.precision}.{self.name}={self.value:g}"


def parse_limits(given: Sequence[str] = (), file: Path | None = None) -> tuple[Limit, ...]:
    """Read limits from the command line and from a TOML file.

    A file holds tables ``[PRECISION]``, ``[GRAPH.PRECISION]`` or ``[chain.PRECISION]`` with limits.

    Raises:
        UsageError: One of them cannot be understood, or the file cannot be read.
    """
    found = []
    if file is not None:
        try:
            found += _flatten(tomllib.loads(file.read_text(encoding="utf-8")), (), str(file))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot read gates from {file}",
                str(error),
                "Give a TOML file with tables like [fp16] or [GRAPH.fp16]",
            ) from error
    for item in given:
        key, sign, value = item.partition("=")
        try:
            number = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise UsageError(f"cannot understand the gate {item!r}", "it is no LIMIT=NUMBER", _HOW)
        found.append(_limit(tuple(key.strip().split(".")), number, item))
    return tuple(found)


def _flatten(table: Mapping[str, Any], path: tuple[str, ...], place: str) -> list[Limit]:
    found = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flatten(value, (*path, key), place)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(
                f"cannot understand the gate {'.'.join((*path, key))} in {place}",
                f"{value!r} is no number",
                _HOW,
            )
        else:
            found.append(_limit((*path, key), float(value), f"{'.'.join((*path, key))} in {place}"))
    return found


def _limit(path: tuple[str, ...], value: float, item: str) -> Limit:
    if len(path) not in (2, 3) or path[-1] not in LIMITS or math.isnan(value):
        raise UsageError(
            f"cannot understand the gate {item!r}", f"{'.'.join(path)} with {value:g} names no limit", _HOW
        )
    return Limit(path[0] if len(path) == 3 else None, path[-2], path[-1], value)


def tighten(graphs: Mapping[str, GraphSpec], limits: Sequence[Limit]) -> dict[str, GraphSpec]:
    """Return the graphs with tighter gates.

    Args:
        graphs: The bundle's graphs by name, the one that gives the scores first.
        limits: What the user asked for.

    Raises:
        UsageError: A limit is looser than the bundle's, or belongs to no gate.
    """
    result = dict(graphs)
    first = next(iter(graphs))
    for limit in limits:
        chain = limit.graph == CHAIN and CHAIN not in graphs
        names = [first] if chain else [name for name in graphs if limit.graph in (None, name)]
        held = []
        for name in names:
            spec = result[name]
            table = spec.chain_gates if chain else spec.gates
            if limit.precision not in table:
                continue
            held.append(name)
            gates = {**table, limit.precision: _tighter(table[limit.precision], limit, name)}
            result[name] = replace(spec, chain_gates=gates) if chain else replace(spec, gates=gates)
        if not held:
            known = ", ".join(f"{name}.{key}" for name, spec in graphs.items() for key in spec.gates)
            raise UsageError(f"cannot set the gate {limit}", f"the bundle's gates are {known}", _HOW)
    return result


def _tighter(gate: Gate, limit: Limit, graph: str) -> Gate:
    current = getattr(gate, limit.name)
    looser = current is not None and (
        limit.value > current if limit.name in _UPPER else limit.value < current
    )
    if looser:
        raise UsageError(
            f"cannot loosen the gate {limit.precision}.{limit.name} of graph {graph}",
            f"asked for {limit.value:g}, the bundle's is {current:g}",
            "Gates can only be tightened: leave it out, or change the model family's GraphSpec and export "
            "again",
        )
    change: dict[str, Any] = {limit.name: limit.value}
    return replace(gate, **change)


def describe_gate(gate: Gate) -> str:
    """Say in a few words what a gate allows."""
    words = {"max_abs": "max", "mean_abs": "mean", "min_cosine": "cosine", "min_rho": "rho"}
    parts = [f"{words[name]} {value:g}" for name in LIMITS if (value := getattr(gate, name)) is not None]
    return (", ".join(parts) or "nothing") + (" (relative)" if gate.relative else "")
