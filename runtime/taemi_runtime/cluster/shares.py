"""How a cluster's processors are dealt out between what decodes and what computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taemi_runtime.errors import DeviceError, UsageError
from taemi_runtime.host import parse_device

# More threads for one call gain little where there are other calls to run beside it.
_MOST_THREADS = 4
# Of a CPU cluster's processors so many go to the models; on CPUs they take most of the time.
_MODEL_SHARE = 0.75


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Args:
        id: Ray's identifier.
        name: Its address, for people.
        cpus: Processors that it offers.
        gpus: CUDA devices that it offers.
    """

    id: str
    name: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Shares:
    """What each stage gets.

    Args:
        models: Processes that hold a model.
        cpus: Processors for each of them.
        gpus: CUDA devices for each of them.
        decoder_cpus: Processors for each decoding task.
        threads: Threads inside one call of a model.
        device: The device as a process with its share sees it.
    """

    models: int
    cpus: float
    gpus: int
    decoder_cpus: float
    threads: int
    device: str


def deal_out(nodes: Sequence[Node], device: str, threads: int, *, batches: int) -> Shares:
    """Deal out processors.

    With CUDA each model gets one device. Without, the models take up to three quarters of the processors,
    and decoding has the rest, one at least.

    Args:
        nodes: The machines.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads inside one call of a model; 0 lets the cluster's size decide.
        batches: How many batches of work there are: more models would be idle.

    Raises:
        UsageError: A certain device of some machine was asked for, or more threads than a machine has.
        DeviceError: CUDA was asked for, and no machine offers a device.
    """
    kind, _ = parse_device(device)
    if ":" in device:
        raise UsageError(
            f"cannot use {device} on a cluster", "Ray deals out the machines' devices", "Give --device cuda"
        )
    cpus = sum(node.cpus for node in nodes)
    gpus = int(sum(int(node.gpus) for node in nodes))
    if kind == "cuda" and not gpus:
        raise DeviceError(
            "cannot use CUDA on this cluster",
            f"its {len(nodes)} machine(s) offer {cpus:g} CPUs and no GPU",
            "Give --device cpu",
        )
    if kind != "cpu" and gpus:
        models = max(1, min(gpus, batches))
        # A model on a GPU still prepares its inputs; on small machines decoding must keep a processor.
        return Shares(models, min(1.0, cpus / (2 * models)), 1, min(1.0, cpus / 2), threads, kind)
    largest = max((node.cpus for node in nodes), default=0.0)
    if threads > largest:
        raise UsageError(
            f"cannot give a model {threads} threads",
            f"the largest machine of the cluster offers {largest:g} CPUs",
            "Give fewer --threads",
        )
    if cpus < 2:
        return Shares(1, cpus / 2, 0, cpus / 2, 1, "cpu")
    each = threads or int(max(1, min(_MOST_THREADS, largest // 2)))
    # Whole models per machine; one processor is left for decoding wherever there is more than one.
    room = sum(int(node.cpus // each) for node in nodes)
    models = int(min(room, cpus * _MODEL_SHARE // each, (cpus - 1) // each))
    if models < 1:
        # The only model would take every processor: its share on paper leaves one for decoding.
        return Shares(1, min(cpus - 1, largest), 0, 1.0, each, "cpu")
    return Shares(max(1, min(models, batches)), float(each), 0, 1.0, each, "cpu")
