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
# What a model claims of its processors, and decoding claims none: when half of the machines are lost, the
# models that stood on them still find a place on the others, and never one that decoding waits for.
_CLAIM = 0.5
# As many as without a cluster (taemi_runtime.scale).
_CPU_BATCH, _GPU_BATCH = 4, 8


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
        cpus: Processors that each of them claims of Ray.
        gpus: CUDA devices for each of them.
        decoders: How many tasks decode at a time; they claim nothing.
        threads: Threads inside one call of a model.
        device: The device as a process with its share sees it.
        batch: How many inputs a model works on at a time, at most.
    """

    models: int
    cpus: float
    gpus: int
    decoders: int
    threads: int
    device: str
    batch: int


def check_options(device: str, decoders: int | None) -> None:
    """Refuse what no cluster can do, before one is joined.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        decoders: How many tasks decode at a time; ``None`` leaves it to the cluster's size.

    Raises:
        UsageError: A certain device of some machine was asked for, or nothing that decodes.
    """
    parse_device(device)
    if ":" in device:
        raise UsageError(
            f"cannot use {device} on a cluster", "Ray deals out the machines' devices", "Give --device cuda"
        )
    if decoders == 0:
        raise UsageError(
            "cannot decode on a cluster without processes", "--workers 0", "Give --workers 1 or more"
        )


def deal_out(
    nodes: Sequence[Node],
    device: str,
    threads: int,
    *,
    inputs: int,
    batch: int | None = None,
    decoders: int | None = None,
) -> Shares:
    """Deal out processors.

    With CUDA each model gets one device, and every processor decodes. Without, the models take up to three
    quarters of the processors, and decoding has the rest, one at least.

    Args:
        nodes: The machines.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads inside one call of a model; 0 lets the cluster's size decide.
        inputs: How many inputs there are: more models than batches of them would be idle.
        batch: How many inputs a model takes at a time; ``None`` leaves it to the device.
        decoders: How many tasks decode at a time; ``None`` leaves it to the cluster's size.

    Raises:
        UsageError: A certain device of some machine was asked for, more threads than a machine has, or
            nothing that decodes.
        DeviceError: CUDA was asked for, and no machine offers a device.
    """
    check_options(device, decoders)
    kind, _ = parse_device(device)
    cpus = sum(node.cpus for node in nodes)
    gpus = int(sum(int(node.gpus) for node in nodes))
    if kind == "cuda" and not gpus:
        raise DeviceError(
            "cannot use CUDA on this cluster",
            f"its {len(nodes)} machine(s) offer {cpus:g} CPUs and no GPU",
            "Give --device cpu",
        )
    batch = batch or (_GPU_BATCH if kind != "cpu" and gpus else _CPU_BATCH)
    most = max(1, -(-inputs // batch))
    if kind != "cpu" and gpus:
        models = min(gpus, most)
        return Shares(
            models, min(1.0, cpus / models) * _CLAIM, 1, decoders or max(1, int(cpus)), threads, kind, batch
        )
    largest = max((node.cpus for node in nodes), default=0.0)
    if threads > largest:
        raise UsageError(
            f"cannot give a model {threads} threads",
            f"the largest machine of the cluster offers {largest:g} CPUs",
            "Give fewer --threads",
        )
    each = threads or int(max(1, min(_MOST_THREADS, largest // 2)))
    # Whole models per machine; one processor is left for decoding wherever there is more than one.
    room = sum(int(node.cpus // each) for node in nodes)
    models = max(1, min(room, int(cpus * _MODEL_SHARE // each), int((cpus - 1) // each), most))
    decoders = decoders or max(1, int(cpus) - models * each)
    return Shares(models, each * _CLAIM, 0, decoders, each, "cpu", batch)
