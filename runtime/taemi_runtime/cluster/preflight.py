"""What every machine of a cluster must have, asked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import taemi_runtime
from taemi_runtime.cluster.shares import Node
from taemi_runtime.errors import EngineError

_PATIENCE_S = 120.0
_TRIES = 3


@dataclass(frozen=True)
class Needs:
    """What stages need of a machine.

    Args:
        paths: Files and folders that must be there, absolute.
        version: The version of this package.
    """

    paths: tuple[str, ...]
    version: str

    @classmethod
    def of(cls, paths: Sequence[str | os.PathLike[str]]) -> Needs:
        """Make the needs of this process."""
        return cls(tuple(str(Path(path).absolute()) for path in paths), taemi_runtime.__version__)


def what_is_missing(needs: Needs) -> str:
    """Return what this machine lacks, in words; empty where nothing is missing."""
    if needs.version != taemi_runtime.__version__:
        return f"taemi {taemi_runtime.__version__} is installed there, and {needs.version} here"
    missing = [path for path in needs.paths if not os.access(path, os.R_OK)]
    return f"it cannot read {', '.join(missing)}" if missing else ""


def check_nodes(nodes: Sequence[Node], needs: Needs) -> None:
    """Ask every machine.

    Raises:
        EngineError: Some lack something; the message names them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=_TRIES)(what_is_missing)
    asked = [
        (node, look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)))
        for node in nodes
        if node.cpus or node.gpus
    ]
    answers = [(node, remote.remote(needs)) for node, remote in asked]
    found: list[str] = []
    for node, answer in answers:
        try:
            missing = ray.get(answer, timeout=_PATIENCE_S)
        except ray.exceptions.RayError as error:
            missing = f"taemi does not start there ({_last_line(error)})"
        if missing:
            found.append(f"{node.name}: {missing}")
    if found:
        raise EngineError(
            f"cannot work on {len(found)} of the cluster's {len(asked)} machines",
            "; ".join(found),
            "Install the same taemi on every machine, and put engine and clips where all of them have them "
            "under the same path",
        )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
