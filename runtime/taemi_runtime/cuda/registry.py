"""The device layers by the names that ``--cuda-backend`` takes, and what they share."""

from __future__ import annotations

from importlib import import_module

from taemi_runtime.cuda.contract import DeviceLayer
from taemi_runtime.errors import DeviceError, UsageError
from taemi_runtime.host import CudaDriver, cuda_driver

DEFAULT = "cuda-python"

_LAYERS = {
    "cuda-python": "taemi_runtime.cuda.cuda_python:CudaPythonLayer",
    "pycuda": "taemi_runtime.cuda.pycuda:PycudaLayer",
}

# What a driver's error code means for a user (CUDA Driver API, CUresult): what was found, what to do.
_CODES = {
    "CUDA_ERROR_OUT_OF_MEMORY": (
        "the device has not enough free memory",
        "Close what else uses the GPU, or use a plan with smaller profiles",
    ),
    "CUDA_ERROR_ILLEGAL_ADDRESS": (
        "something on the device read or wrote memory that is not its own",
        "The process cannot use the GPU any more: start again, and report it with --debug",
    ),
    "CUDA_ERROR_INVALID_CONTEXT": (
        "no context of this device is current in this thread",
        "Leave contexts to one owner: pycuda.autoinit makes a second one; pycuda.autoprimaryctx does not",
    ),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": (
        "the compiled code is for GPUs of another compute capability",
        "Compile it for this one",
    ),
}


def layer_names() -> list[str]:
    """Return the names of the device layers, the default first."""
    return list(_LAYERS)


def layer(name: str) -> type[DeviceLayer]:
    """Import a device layer; its package is only imported when the layer is used.

    Args:
        name: ``cuda-python`` or ``pycuda``.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in _LAYERS:
        raise UsageError(
            f"cannot use CUDA backend {name!r}",
            f"there are {', '.join(_LAYERS)}",
            f"Give --cuda-backend {' or '.join(_LAYERS)}",
        )
    module, _, attribute = _LAYERS[name].partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def explain_failure(code: str) -> tuple[str, str]:
    """Return what a driver's error code means: what was found, and what to do.

    Args:
        code: Its name, e.g. ``CUDA_ERROR_OUT_OF_MEMORY``.
    """
    found, fix = _CODES.get(code, ("", ""))
    return (f"{found} ({code})" if found else code), fix


def require_driver(asked: str) -> CudaDriver:
    """Return the CUDA driver's facts.

    Raises:
        DeviceError: There is no driver or no device.
    """
    driver = cuda_driver()
    if driver.why:
        raise DeviceError(asked, driver.why, "Install NVIDIA's driver; a CPU needs none: --device cpu")
    return driver


def check_index(index: int) -> None:
    """Refuse a device that is not there.

    Raises:
        DeviceError: There is no driver, no device, or none of that number.
    """
    count = len(require_driver(f"cannot use cuda:{index}").devices)
    if index >= count:
        there = "there is 1 CUDA device" if count == 1 else f"there are {count} CUDA devices"
        fix = "Give cuda:0" if count == 1 else f"Give cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"cannot use cuda:{index}", there, fix)
