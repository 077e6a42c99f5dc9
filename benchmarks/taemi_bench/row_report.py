"""What was measured of one row: one way to compute one scope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from taemi_bench.stats import Latency, Ratio

State = Literal["ran", "not run", "failed"]


@dataclass(frozen=True)
class DeviceSplit:
    """Where a call on a GPU spends its time, as trtexec splits it; all by CUDA events but the first.

    Args:
        enqueue_ms: Host time until the work is queued; ``None`` where the library waits within each part.
            Queueing is then part of ``compute_ms``, and all parts are by the host's clock.
        host_to_device_ms: Copies to the device.
        compute_ms: The graph itself.
        device_to_host_ms: Copies back.
        warnings: What makes these figures doubtful, e.g. a call bound by its enqueueing.
    """

    enqueue_ms: Latency | None
    host_to_device_ms: Latency
    compute_ms: Latency
    device_to_host_ms: Latency
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """What a row costs in memory.

    Args:
        host_bytes: Largest resident memory of a process that opens this row alone and makes a call, less what
            it held before (interpreter and libraries); ``None`` where it was not measured.
        device_bytes: Likewise of the device; ``None`` on a CPU or where unknown.
        engine_bytes: Size of the engine file with its external data; ``None`` for PyTorch.
        note: Why something is missing.
    """

    host_bytes: int | None = None
    device_bytes: int | None = None
    engine_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Floor:
    """How far a row is from what the machine can do.

    Args:
        floor_ms: Sum over the operators of the longer of operations / ceiling and bytes / bandwidth
            at the row's precision.
        share: ``floor_ms`` / p50 of the row; 1 is the machine's limit.
        note: In words, where the time goes and which operator to look at next.
    """

    floor_ms: float
    share: float
    note: str


@dataclass(frozen=True)
class RowReport:
    """One row of the table.

    Args:
        scope: The scope that one call computes; ``ScopeReport.name``.
        name: What the row is called.
        backend: ``pytorch``, ``openvino`` or a registered backend's name.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: ``cpu`` or ``cuda:N``.
        state: ``failed`` is what should have run and did not, or gave numbers beyond its gate.
        why: Why it did not run, or what is wrong with it.
        file: The engine file; empty for PyTorch.
        versions: Versions of the libraries underneath.
        threads: Threads inside one call; 0 on a GPU.
        tf32: Whether float32 products may be rounded to TF32; ``None`` where the device has none.
        load_ms: Opening it: reading, optimising, compiling ahead of the first call; ``None`` of
            PyTorch's eager row on the CPU, whose checkpoint was opened for all graphs.
        cold_ms: The first call, in none of the statistics.
        warmup_calls: How many calls warmed it up.
        calls_per_round: How many timed calls each round holds.
        latency_ms: Statistics and all samples of the warm calls.
        baseline: Name of the PyTorch eager fp32 row of the same scope and device; empty for that row itself.
        times_faster: How many times faster than the baseline, round by round.
        output: The output that differs most from PyTorch's float32 on the CPU.
        max_abs: Its largest absolute difference.
        mean_abs: Its mean absolute difference.
        cosine: Its cosine similarity.
        rho: Spearman's rank correlation of all its outputs' values with PyTorch's; ``None`` where undefined.
        parity_note: Why there is no parity, or what is wrong with it.
        memory: What it costs in memory.
        split: Where a call on a GPU spends its time.
        stages_ms: Median milliseconds of each stage of a chain by name, where the scope has stages.
        floor: How far it is from the machine's floor.
    """

    scope: str
    name: str
    backend: str
    precision: str
    device: str
    state: State
    why: str = ""
    file: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    tf32: bool | None = None
    load_ms: float | None = None
    cold_ms: float | None = None
    warmup_calls: int = 0
    calls_per_round: int = 1
    latency_ms: Latency | None = None
    baseline: str = ""
    times_faster: Ratio | None = None
    output: str = ""
    max_abs: float | None = None
    mean_abs: float | None = None
    cosine: float | None = None
    rho: float | None = None
    parity_note: str = ""
    memory: Memory | None = None
    split: DeviceSplit | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    floor: Floor | None = None
