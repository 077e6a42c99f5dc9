"""The machine that a figure was taken on, and what else it was doing at the time.

Nothing here identifies a host, a user or a device by name or serial number: results are meant to be
shared.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from taemi_bench.gpu_watch import GpuActivity
from taemi_bench.nvidia_smi import Gpu, read_gpus
from taemi_runtime.host import package_versions, usable_cores

PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "triton",
    "scipy",
    "cuda-bindings",
    "pycuda",
    "numpy",
    "taemi",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
STEAL_NOTED = 0.01
OTHERS_NOTED = 0.05
THROTTLED_NOTED = 0.01
_CPU_STAT = Path("/sys/fs/cgroup/cpu.stat")
_CPU_ROOT = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Machine:
    """What a figure depends on besides the code.

    Args:
        cpu: The processor's model name.
        cores_online: Logical processors of the host.
        cores_usable: Physical cores that this process may use, by affinity and by CPU quota.
        memory_bytes: Memory that this process may use.
        system: Operating system and kernel.
        architecture: E.g. ``x86_64``.
        python: Python's version.
        packages: Versions of the libraries involved, where installed.
        thread_variables: Environment variables that size thread pools, where set.
        gpus: Every NVIDIA device.
        gpu_note: Why there is none, when there is none.
        cpu_mhz: The fastest core's clock when the run began; ``None`` if unknown.
    """

    cpu: str
    cores_online: int
    cores_usable: int
    memory_bytes: int
    system: str
    architecture: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)
    thread_variables: dict[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = ""
    cpu_mhz: float | None = None


@dataclass(frozen=True)
class Activity:
    """Counters at one moment.

    Args:
        wall_seconds: A monotonic clock.
        own_seconds: CPU time of this process and of its finished children.
        busy_seconds: CPU time that the host spent on anything; ``None`` where it does not say.
        steal_seconds: CPU time that a hypervisor gave to other machines; likewise.
        load: The one-minute load average; likewise.
        throttled_seconds: How long a container's CPU quota held this process back; likewise.
        hot: How often a core was slowed down because it was too hot; likewise.
    """

    wall_seconds: float
    own_seconds: float
    busy_seconds: float | None
    steal_seconds: float | None
    load: float | None
    throttled_seconds: float | None = None
    hot: int | None = None


@dataclass(frozen=True)
class Noise:
    """What else happened on the machine during a measurement.

    Args:
        seconds: How long it was watched.
        load_before: One-minute load average before; ``None`` where the system has none.
        load_after: And after.
        others_share: CPU time of all other processes as a share of all cores; ``None`` if unknown.
        steal_share: CPU time taken by other virtual machines as a share of all cores; likewise.
        note: What a reader should know; empty when the machine was quiet.
        gpu: What the GPU did; ``None`` where no row used one.
    """

    seconds: float
    load_before: float | None
    load_after: float | None
    others_share: float | None
    steal_share: float | None
    note: str = ""
    gpu: GpuActivity | None = None


def read_machine() -> Machine:
    """Describe this machine; whatever cannot be found out is left empty."""
    gpus, gpu_note = read_gpus()
    return Machine(
        cpu=next(iter(_cpu_facts("model name")), platform.processor() or platform.machine()),
        cores_online=os.cpu_count() or 1,
        cores_usable=usable_cores(),
        memory_bytes=_usable_memory(),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        packages=package_versions(PACKAGES),
        thread_variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        gpus=gpus,
        gpu_note=gpu_note,
        cpu_mhz=max(map(float, _cpu_facts("cpu MHz")), default=None),
    )


def read_activity(stat: Path = Path("/proc/stat")) -> Activity:
    """Read the counters now.

    Args:
        stat: The kernel's statistics; fields of its first line are user, nice, system, idle, iowait,
            irq, softirq, steal, in ticks (proc_stat(5)).
    """
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    busy: float | None = None
    steal: float | None = None
    try:
        fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, stolen = fields
        busy, steal = (user + nice + system + irq + softirq) / ticks, stolen / ticks
    except (OSError, ValueError, IndexError):
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Activity(
        time.monotonic(), own, busy, steal, load, _throttled_seconds(_CPU_STAT), _hot_events(_CPU_ROOT)
    )


def judge_noise(before: Activity, after: Activity, cores: int) -> Noise:
    """Say what else the machine did between two readings.

    Args:
        before: The reading before the measurement.
        after: The reading after it.
        cores: The host's logical processors, which the counters cover.
    """
    seconds = after.wall_seconds - before.wall_seconds
    room = seconds * cores
    others: float | None = None
    steal: float | None = None
    notes = []
    if before.busy_seconds is not None and after.busy_seconds is not None and room > 0:
        own = after.own_seconds - before.own_seconds
        others = max(0.0, after.busy_seconds - before.busy_seconds - own) / room
        if others >= OTHERS_NOTED:
            notes.append(f"other processes used {others:.0%} of the cores")
    if before.steal_seconds is not None and after.steal_seconds is not None and room > 0:
        steal = max(0.0, after.steal_seconds - before.steal_seconds) / room
        if steal >= STEAL_NOTED:
            notes.append(f"the hypervisor took {steal:.0%} of the cores")
    if before.throttled_seconds is not None and after.throttled_seconds is not None and seconds > 0:
        held = (after.throttled_seconds - before.throttled_seconds) / seconds
        if held >= THROTTLED_NOTED:
            notes.append(f"the container's CPU quota held threads back for {held:.0%} of the time")
    if before.hot is not None and after.hot is not None and after.hot > before.hot:
        notes.append("the processor was slowed down because it was too hot")
    return Noise(seconds, before.load, after.load, others, steal, "; ".join(notes))


def _cpu_facts(name: str, path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return what the kernel says under a name, one entry for each logical processor."""
    try:
        pairs = [line.partition(":") for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _throttled_seconds(path: Path) -> float | None:
    """Return how long the quota of this process's group held it back (cgroup v2, ``cpu.stat``)."""
    try:
        facts = dict(line.split() for line in path.read_text().splitlines())
        return int(facts["throttled_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None


def _hot_events(root: Path) -> int | None:
    """Return how often cores were slowed down for their temperature (Linux, ``thermal_throttle``)."""
    counts = []
    for path in root.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            counts.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None


def _usable_memory() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):
            continue
    return total
