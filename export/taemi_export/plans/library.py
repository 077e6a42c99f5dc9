"""Which TensorRT builds plans here, and why not if none does.

``tensorrt`` compiles for the GPU of the machine it runs on. ``tensorrt_rtx`` is the same API under another
name and compiles ahead of time, with no GPU, for the architectures that it knows. Both hand out plans that
only they can load.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Literal

from taemi_runtime.errors import DeviceError, MissingExtraError, TaemiError
from taemi_runtime.host import compute_capability, cuda_driver

Choice = Literal["tensorrt", "rtx"]

# Strong typing without a flag for each precision, and HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
# are there from 10.12 on; from 11 on there is nothing else.
_OLDEST = {"tensorrt": (10, 12), "rtx": (1, 4)}
_MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_INSTALL = {
    "tensorrt": (
        'Install it on the machine with the GPU: pip install "taemi[tensorrt]" (its libraries come from '
        "NVIDIA's own package index, which pip takes with --extra-index-url: docs/deploy.md)"
    ),
    "rtx": 'Install it: pip install "taemi[rtx]"',
}

OPTIONAL_NAMES = {
    "ComputeCapability": "rtx",
    "HardwareCompatibilityLevel": "tensorrt",
}
"""Names that only one of the libraries means anything by, with that library; see [optional][]."""


@dataclass(frozen=True)
class Library:
    """An imported library.

    Args:
        choice: What the user calls it.
        module: ``tensorrt`` or ``tensorrt_rtx``.
    """

    choice: Choice
    module: ModuleType

    @property
    def name(self) -> str:
        """Its import name, which sidecars record."""
        return _MODULES[self.choice]

    @property
    def version(self) -> str:
        """Its version in full."""
        return str(self.module.__version__)

    def optional(self, name: str) -> object | None:
        """Return a name of ``OPTIONAL_NAMES`` where the library has it and means it."""
        if OPTIONAL_NAMES[name] != self.choice:
            return None
        return getattr(self.module, name, None)


@dataclass(frozen=True)
class Gpu:
    """The GPU that a build would use.

    Args:
        name: Its name.
        capability: Its compute capability.
        driver: The newest CUDA version that its driver supports, e.g. ``13.0``.
    """

    name: str
    capability: tuple[int, int]
    driver: str


def find_gpu() -> Gpu | None:
    """Return the first CUDA device, ``None`` where there is none."""
    driver, capability = cuda_driver(), compute_capability()
    if capability is None or not driver.devices:
        return None
    return Gpu(driver.devices[0], capability, driver.version)


def open_library(choice: Choice) -> Library:
    """Import a library.

    Raises:
        MissingExtraError: It is not installed, is an empty shell, does not import, or is too old; the
            fix says how to install it.
    """
    name = _MODULES[choice]
    asked = f"cannot build plans with {name}"
    # Type stubs leave a folder of the same name behind, which imports as an empty namespace package.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError(asked, "it is not installed", _INSTALL[choice])
    try:
        module = import_module(name)
        version = str(module.__version__)
        module.Builder  # noqa: B018 -- the shell on the public index imports and has nothing
    except Exception as error:
        # The package on the public index is a shell; what pip then fails to fetch are the libraries.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingExtraError(
            asked, f"it is installed and does not import ({reason})", _INSTALL[choice]
        ) from error
    if _numbers(version) < _OLDEST[choice]:
        oldest = ".".join(map(str, _OLDEST[choice]))
        raise MissingExtraError(
            asked, f"it is version {version}, and {oldest} is the oldest that serves", _INSTALL[choice]
        )
    return Library(choice, module)


def why_not_here(choice: Choice) -> TaemiError | None:
    """Return why plans cannot be built here with a library, ``None`` if they can."""
    try:
        open_library(choice)
    except MissingExtraError as error:
        return error
    if choice == "tensorrt" and find_gpu() is None:
        why = cuda_driver().why or "the CUDA driver does not tell the GPU's compute capability"
        return DeviceError(
            "cannot build plans with tensorrt",
            f"it compiles for the GPU that it runs on, and {why}",
            "Build on the machine with the GPU",
        )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
