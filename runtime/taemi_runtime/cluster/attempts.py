"""How often the process that worked on something died: what is begun and never ended is written down.

Ray runs the work of a dead process again, by default for ever; so one clip that kills its process would
never let the job end, and a limit on Ray's side would take the other clips of its batch with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

MOST_DEATHS = 3
"""After so many dead processes nothing more is tried."""


class Attempts:
    """Counts the deaths of processes by what they had begun; lives in a Ray actor."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, Any]] = Counter()
        self._deaths: Counter[tuple[str, Any]] = Counter()

    def begin(self, stage: str, things: Sequence[Any]) -> list[int]:
        """Write down that a stage begins with things, and return each one's deaths until now."""
        for thing in things:
            key = stage, thing
            # Whoever begins again is told by Ray to: the process that had begun it is gone.
            self._deaths[key] += self._open[key]
            self._open[key] = 1
        return [self._deaths[stage, thing] for thing in things]

    def end(self, stage: str, things: Sequence[Any]) -> None:
        """Write down that a stage is done with things."""
        for thing in things:
            self._open.pop((stage, thing), None)

    def enter(self, stage: str, place: str) -> int:
        """Write down that a process begins something that several may do at a place at a time.

        Returns:
            How many have begun it there since one last succeeded, this one not counted.
        """
        key = stage, place
        self._open[key] += 1
        return self._open[key] - 1

    def leave(self, stage: str, place: str) -> None:
        """Write down that a process succeeded in it."""
        self._open.pop((stage, place), None)

    def deaths(self) -> int:
        """Return how often a thing was begun by a process that died over it or beside it."""
        return sum(self._deaths.values())


class Ledger(Protocol):
    """What stages ask of [Attempts][], wherever that lives."""

    def begin(self, stage: str, things: Sequence[Any]) -> list[int]:
        """See [Attempts.begin][]."""

    def end(self, stage: str, things: Sequence[Any]) -> None:
        """See [Attempts.end][]."""

    def enter(self, stage: str, place: str) -> int:
        """See [Attempts.enter][]."""

    def leave(self, stage: str, place: str) -> None:
        """See [Attempts.leave][]."""


class RemoteLedger:
    """Asks the actor of a cluster.

    Args:
        actor: The handle of an actor of [Attempts][].
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, stage: str, things: Sequence[Any]) -> list[int]:
        """See [Attempts.begin][]."""
        found: list[int] = self._get(self._actor.begin.remote(stage, list(things)))
        return found

    def end(self, stage: str, things: Sequence[Any]) -> None:
        """See [Attempts.end][]; it is not waited for, as messages of one process arrive in order."""
        self._actor.end.remote(stage, list(things))

    def enter(self, stage: str, place: str) -> int:
        """See [Attempts.enter][]."""
        found: int = self._get(self._actor.enter.remote(stage, place))
        return found

    def leave(self, stage: str, place: str) -> None:
        """See [Attempts.leave][]."""
        self._actor.leave.remote(stage, place)

    def deaths(self) -> int:
        """See [Attempts.deaths][]."""
        found: int = self._get(self._actor.deaths.remote())
        return found

    @staticmethod
    def _get(reference: Any) -> Any:
        import ray

        return ray.get(reference)


def start_ledger(node_id: str) -> RemoteLedger:
    """Start the actor on a machine of the cluster that has been joined, the driver's best of all.

    Args:
        node_id: Ray's identifier of the machine.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id, soft=True)
    # A restarted one has forgotten, which gives everything its attempts anew.
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(Attempts)
    return RemoteLedger(remote.remote())
