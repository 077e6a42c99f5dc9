"""The machine: GPU, driver, CUDA toolkit, TensorRT libraries."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from taemi_bench.gpu_steps.contract import Context
from taemi_bench.machine import read_machine
from taemi_bench.nvidia_smi import read_gpus
from taemi_runtime.host import cuda_driver

_LIBRARY_FOLDERS = ("/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib")
_TENSORRT = ("tensorrt", "tensorrt_rtx")
_LIBRARIES = ("nvinfer", "nvonnxparser", "cudart", "cudnn", "cublas", "nvrtc")


def record_machine(context: Context) -> None:
    """Record what the machine is; there is nothing here that cannot run."""
    machine, driver = read_machine(), cuda_driver()
    names = [gpu.name for gpu in machine.gpus] or list(driver.devices)
    context.record(
        summary=", ".join(names) or f"no GPU, {machine.cpu}, {machine.cores_usable} usable cores",
        machine=asdict(machine),
        cuda_driver=asdict(driver),
        compute_capability=compute_capability(),
    )
    context.record(
        nvcc=_nvcc_version(),
        trtexec=shutil.which("trtexec") is not None,
        libraries={name: ctypes.util.find_library(name) for name in _LIBRARIES},
        tensorrt_files=sorted({path.name for path in find_tensorrt()}),
    )
    context.record(tensorrt={name: tensorrt_version(name) for name in _TENSORRT})


def compute_capability() -> tuple[int, int] | None:
    """Return the first CUDA device's compute capability, ``None`` where there is no device.

    Attributes 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (CUDA Driver API).
    """
    if cuda_driver().why:
        return None
    library = ctypes.CDLL("libcuda.so.1")
    value = ctypes.c_int()
    found = []
    for attribute in (75, 76):
        if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            return None
        found.append(value.value)
    return found[0], found[1]


def gpu_state() -> list[dict[str, object]]:
    """Return clocks, temperature and slow-downs of every GPU now, as plain values."""
    return [asdict(gpu) for gpu in read_gpus()[0]]


def find_tensorrt() -> list[Path]:
    """Find TensorRT's libraries where packages and system installations put them."""
    folders = [Path(folder) for folder in _LIBRARY_FOLDERS]
    folders += [Path(item) for item in os.environ.get("LD_LIBRARY_PATH", "").split(":") if item]
    folders += Path(sysconfig.get_paths()["purelib"]).glob("tensorrt*_libs")
    patterns = ("libnvinfer*.so*", "libtensorrt*.so*")
    return [file for folder in folders for pattern in patterns for file in folder.glob(pattern)]


def tensorrt_version(name: str) -> str:
    """Import a TensorRT package in a process of its own and return its version, or why it failed.

    The import loads the library; with a broken installation it can take the process down.

    Args:
        name: ``tensorrt`` or ``tensorrt_rtx``.
    """
    if importlib.util.find_spec(name) is None:
        return "not installed"
    code = f"import {name}; print({name}.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    if done.returncode == 0:
        return done.stdout.strip()
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    try:
        return f"{version(name.replace('_', '-'))} installed, does not import: {lines[-1]}"
    except PackageNotFoundError:
        return f"does not import: {lines[-1]}"


def _nvcc_version() -> str:
    if shutil.which("nvcc") is None:
        return "not found"
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in done.stdout.splitlines() if "release" in line]
    return lines[0].strip() if lines else "no answer"
