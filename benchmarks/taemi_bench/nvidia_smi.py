"""What ``nvidia-smi`` says about the GPUs; read through its XML, whose names outlast its columns."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from xml.etree import ElementTree

TIMEOUT_SECONDS = 30
_UNKNOWN = ("", "N/A", "[N/A]", "Requested functionality has been deprecated")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA device at one moment.

    Args:
        name: Its product name.
        driver: The driver's version.
        cuda: The newest CUDA version that the driver supports.
        memory_bytes: Its memory.
        memory_used_bytes: How much of it is taken.
        sm_clock_mhz: Clock of its multiprocessors now; ``None`` if unknown.
        sm_clock_max_mhz: And at most.
        memory_clock_mhz: Memory clock now.
        temperature_c: Degrees Celsius.
        power_watts: Power drawn now.
        power_limit_watts: Power limit in force.
        performance_state: ``P0`` is full speed.
        utilisation_percent: How busy it is now.
        slowed_by: Active reasons for lower clocks, e.g. ``sw_power_cap``; idleness is no reason.
        processes: How many other processes compute on it, as far as this one may see them.
    """

    name: str
    driver: str
    cuda: str
    memory_bytes: int
    memory_used_bytes: int
    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    performance_state: str = ""
    utilisation_percent: float | None = None
    slowed_by: tuple[str, ...] = ()
    processes: int = 0


def read_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return all devices, and why there are none when there are none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        return (), "nvidia-smi not found"
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi did not answer ({type(error).__name__})"
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
        return (), f"nvidia-smi failed: {lines[0]}"
    try:
        gpus = parse_gpus(done.stdout)
    except ElementTree.ParseError as error:
        return (), f"nvidia-smi's output cannot be read ({error})"
    return gpus, "" if gpus else "nvidia-smi lists no device"


def parse_gpus(xml: str) -> tuple[Gpu, ...]:
    """Read the XML of ``nvidia-smi -q -x`` (document types v11 to v13).

    Args:
        xml: The document.

    Raises:
        xml.etree.ElementTree.ParseError: It is no XML.
    """
    root = ElementTree.fromstring(xml)
    driver = _text(root, "driver_version")
    cuda = _text(root, "cuda_version")
    return tuple(_parse_gpu(gpu, driver, cuda) for gpu in root.iter("gpu"))


def _parse_gpu(gpu: ElementTree.Element, driver: str, cuda: str) -> Gpu:
    mebibyte = 1 << 20
    power = ("gpu_power_readings", "power_readings")
    drawn = ("instant_power_draw", "power_draw", "average_power_draw")
    limit = ("current_power_limit", "enforced_power_limit", "power_limit")
    return Gpu(
        name=_text(gpu, "product_name"),
        driver=driver,
        cuda=cuda,
        memory_bytes=int((_number(gpu, "fb_memory_usage/total") or 0) * mebibyte),
        memory_used_bytes=int((_number(gpu, "fb_memory_usage/used") or 0) * mebibyte),
        sm_clock_mhz=_number(gpu, "clocks/sm_clock"),
        sm_clock_max_mhz=_number(gpu, "max_clocks/sm_clock"),
        memory_clock_mhz=_number(gpu, "clocks/mem_clock"),
        temperature_c=_number(gpu, "temperature/gpu_temp"),
        power_watts=_number(gpu, *(f"{group}/{name}" for group in power for name in drawn)),
        power_limit_watts=_number(gpu, *(f"{group}/{name}" for group in power for name in limit)),
        performance_state=_text(gpu, "performance_state"),
        utilisation_percent=_number(gpu, "utilization/gpu_util"),
        slowed_by=_slowed_by(gpu),
        processes=sum(_is_other(process) for process in gpu.findall("processes/process_info")),
    )


def _is_other(process: ElementTree.Element) -> bool:
    """Say whether a process computes (C, or C+G with graphics) and is not this one."""
    return "C" in _text(process, "type") and _text(process, "pid") != str(os.getpid())


def _slowed_by(gpu: ElementTree.Element) -> tuple[str, ...]:
    # Called throttle reasons until driver 530, event reasons since.
    reasons = []
    for group in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for reason in gpu.findall(f"{group}/*"):
            name = re.sub(r"^clocks_(event|throttle)_reason_", "", reason.tag)
            if (reason.text or "").strip() == "Active" and name != "gpu_idle":
                reasons.append(name)
    return tuple(reasons)


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    return "" if text in _UNKNOWN else text


def _number(element: ElementTree.Element, *paths: str) -> float | None:
    """Return the first number found under one of the paths, its unit dropped."""
    for path in paths:
        match = re.match(r"-?\d+(\.\d+)?", _text(element, path))
        if match:
            return float(match.group())
    return None
