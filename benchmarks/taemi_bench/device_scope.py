"""One graph on a GPU without the copies: inputs lie there, outputs stay there.

Never executed on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taemi_bench.measured import Judge
from taemi_bench.resident_call import Resident
from taemi_bench.rows import Row
from taemi_bench.scopes import Scope
from taemi_bench.setting import SEED
from taemi_bench.timer import describe_failure
from taemi_runtime.draw import digest
from taemi_runtime.spec import Array, Arrays, GraphSpec

INCLUDES = (
    "one engine call; data inputs lie on the GPU and outputs stay there, so that no copy of them is in it "
    "(masks and flags go up with every call)"
)
_KEEPS_NOTHING = "it takes no inputs from the GPU and keeps no outputs there"


def device_scope(
    spec: GraphSpec, sizes: dict[str, int], inputs: Arrays, rows: Sequence[Row], judge: Judge | None
) -> Scope:
    """Return the scope of a graph on the device.

    Args:
        spec: The graph.
        sizes: Length of every axis.
        inputs: The call's inputs.
        rows: Its rows on CUDA devices, as they run from the host.
        judge: Compares a row with the reference.
    """
    name = f"{spec.name} on the device"
    for row in rows:
        row.scope = name
        if row.run is None:
            continue
        row.run = None
        if row.bind_resident is None:
            row.why = _KEEPS_NOTHING
            continue
        try:
            row.run = row.bind_resident(inputs)
        except Exception as error:  # the row's, whatever library it comes from
            row.why = describe_failure(error)
            continue
        to_host = row.to_arrays
        row.to_arrays = lambda found, to_host=to_host: _arrays(found, to_host)  # type: ignore[misc]
    return Scope(name, "graph on the device", INCLUDES, sizes, SEED, digest(inputs), rows, judge)


def _arrays(found: Any, to_host: Any) -> dict[str, Array]:
    return found.numpy() if isinstance(found, Resident) else to_host(found)
