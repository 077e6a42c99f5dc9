"""What this host offers to engines: cores that the process may really use, and CUDA devices."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from taemi_runtime.errors import UsageError

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CPU_ROOT = Path("/sys/devices/system/cpu")
_OWN_GROUPS = Path("/proc/self/cgroup")


def parse_device(device: str) -> tuple[str, int]:
    """Split a device name into its kind and index.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The kind (``auto``, ``cpu`` or ``cuda``) and the index, 0 where none is given.

    Raises:
        UsageError: It is none of these.
    """
    kind, colon, index = device.partition(":")
    if kind in ("auto", "cpu", "cuda") and not colon:
        return kind, 0
    if kind == "cuda" and index.isascii() and index.isdigit():
        return kind, int(index)
    raise UsageError(f"cannot use device {device!r}", "it has no meaning", "Give auto, cpu, cuda or cuda:N")


def runs_on_cpu(device: str) -> bool:
    """Return whether what is opened for a device ends on the CPU, as far as the CUDA driver says.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: It is none of these.
    """
    kind, _ = parse_device(device)
    return kind == "cpu" or (kind == "auto" and bool(cuda_driver().why))


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def usable_cores() -> int:
    """Count the physical cores that this process may use, at least 1.

    Limits by affinity (taskset, cpusets) and by a container's CPU quota both count: one thread more
    than there are cores makes every parallel step wait for a thread that is not running.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
    cores = _physical_cores(allowed) or len(allowed)
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota)) if quota else cores)


def _physical_cores(cpus: set[int]) -> int:
    # Two hardware threads of one core share its vector units, which is all that inference uses.
    seen = set()
    for cpu in cpus:
        folder = _CPU_ROOT / f"cpu{cpu}" / "topology"
        try:
            seen.add((folder / "physical_package_id").read_text() + (folder / "core_id").read_text())
        except OSError:
            return 0
    return len(seen)


def _cgroup_quota() -> float | None:
    # Limits of every ancestor hold, too. In a container the listed path may not exist under the
    # mount; the mount's own root is then the container's group (cgroups(7)).
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names: tuple[str, ...]
        if not controllers:
            root, names = _CGROUP_ROOT, ("cpu.max",)
        elif "cpu" in controllers.split(","):
            root, names = _CGROUP_ROOT / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            quota = _read_quota([group / name for name in names])
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _read_quota(files: list[Path]) -> float | None:
    # cgroup v2 writes "max 100000" or "200000 100000" in one file, v1 the two numbers in two, -1 for none.
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        value = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


@dataclass(frozen=True)
class CudaDriver:
    """What the NVIDIA driver says.

    Args:
        version: The newest CUDA version that it supports, e.g. ``13.0``; empty without a driver.
        devices: Names of the visible devices.
        why: Why there is none; empty when there is one.
    """

    version: str = ""
    devices: tuple[str, ...] = ()
    why: str = ""


@functools.cache
def cuda_driver() -> CudaDriver:
    """Ask the CUDA driver for its version and devices; no context is created.

    Return codes: CUDA Driver API, ``CUresult``; 100 is CUDA_ERROR_NO_DEVICE.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return CudaDriver(why=f"there is no CUDA driver ({error})")
    status = library.cuInit(0)
    if status == 100:
        return CudaDriver(why="the CUDA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)")
    if status:
        return CudaDriver(why=f"the CUDA driver does not start (cuInit returned {status})")
    value = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(value))
    version = f"{value.value // 1000}.{value.value % 1000 // 10}"
    library.cuDeviceGetCount(ctypes.byref(value))
    names = []
    for index in range(value.value):
        buffer = ctypes.create_string_buffer(256)
        library.cuDeviceGetName(buffer, len(buffer), index)
        names.append(buffer.value.decode(errors="replace"))
    why = "" if names else "the CUDA driver sees no device"
    return CudaDriver(version, tuple(names), why)


def compute_capability(index: int = 0) -> tuple[int, int] | None:
    """Return a CUDA device's compute capability, ``None`` where there is no such device.

    Attributes 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (CUDA Driver API).

    Args:
        index: The device, as the driver counts them.
    """
    if cuda_driver().why:
        return None
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    value, device = ctypes.c_int(), ctypes.c_int()
    if library.cuDeviceGet(ctypes.byref(device), index):
        return None
    found = []
    for attribute in (75, 76):
        if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return found[0], found[1]
