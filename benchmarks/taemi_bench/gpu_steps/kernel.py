"""A small CUDA kernel, compiled to machine code: by NVRTC where cuda-python is, else by nvcc.

Machine code and not PTX: a driver older than the compiler refuses its PTX, while machine code of the
same major CUDA version loads (CUDA C++ Programming Guide, minor version compatibility).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taemi_bench.gpu_steps.contract import NotRunError
from taemi_runtime.errors import EngineError

NAME = "scaled_add"
BLOCK = 256
SOURCE = """
extern "C" __global__ void scaled_add(float scale, const float *x, float *y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = scale * x[i] + y[i];
}
"""

Vector = npt.NDArray[np.float32]


def compile_kernel(capability: tuple[int, int]) -> tuple[bytes, str]:
    """Compile the kernel.

    Args:
        capability: The device's compute capability, e.g. (8, 0).

    Returns:
        The cubin, and what compiled it.

    Raises:
        NotRunError: There is no compiler.
        EngineError: The compiler refused.
    """
    major, minor = capability
    try:
        return compile_with_nvrtc(f"sm_{major}{minor}")
    except NotRunError as nvrtc_missing:
        if shutil.which("nvcc") is None:
            raise NotRunError(f"{nvrtc_missing}; and there is no nvcc") from nvrtc_missing
    return compile_with_nvcc(f"sm_{major}{minor}")


def compile_with_nvrtc(architecture: str) -> tuple[bytes, str]:
    """Compile with NVRTC through cuda-python; needs no GPU.

    Args:
        architecture: E.g. ``sm_80``.

    Raises:
        NotRunError: cuda-python or the NVRTC library is not installed.
        EngineError: NVRTC refused the source or the architecture.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise NotRunError("cuda-python is not installed (pip install cuda-python)") from None
    try:
        error, major, minor = nvrtc.nvrtcVersion()
    # cuda-python raises its own class, of a package that older versions of it do not have.
    except Exception as missing:
        first = str(missing).splitlines()[0]
        raise NotRunError(f"NVRTC does not load ({first}): pip install nvidia-cuda-nvrtc") from missing
    program = _value(nvrtc, nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"kernel.cu", 0, [], []))
    option = f"--gpu-architecture={architecture}".encode()
    (error,) = nvrtc.nvrtcCompileProgram(program, 1, [option])
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_value(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        said = log.decode(errors="replace").strip("\0 \n") or str(error)
        raise EngineError(f"cannot compile a kernel for {architecture}", f"NVRTC {major}.{minor}: {said}")
    cubin = bytearray(_value(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
    _value(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(cubin), f"NVRTC {major}.{minor}"


def compile_with_nvcc(architecture: str) -> tuple[bytes, str]:
    """Compile with the CUDA toolkit's nvcc; needs no GPU.

    Args:
        architecture: E.g. ``sm_80``.

    Raises:
        EngineError: nvcc refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.cu", Path(folder) / "kernel.cubin"
        source.write_text(SOURCE)
        command = ["nvcc", "--cubin", f"-arch={architecture}", "-o", str(cubin), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise EngineError(f"cannot compile a kernel for {architecture}", f"nvcc: {lines[0]}")
        return cubin.read_bytes(), "nvcc"


def operands(count: int) -> tuple[Vector, Vector]:
    """Draw the kernel's two operands: float32 [count], standard normal."""
    rng = np.random.default_rng(7)
    return rng.standard_normal(count, dtype=np.float32), rng.standard_normal(count, dtype=np.float32)


def _value(nvrtc: Any, result: tuple[Any, ...]) -> Any:
    error, *values = result
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise EngineError("cannot compile a kernel", str(error))
    return values[0] if values else None
