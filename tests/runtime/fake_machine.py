"""A machine with a simulated GPU: drivers, device layers and TensorRT see it instead of the real host."""

from __future__ import annotations

import pytest

from taemi_runtime import engine_choice, host
from taemi_runtime.backends import tensorrt as backend_module
from taemi_runtime.cuda import cuda_python, pycuda, registry
from taemi_runtime.errors import MissingExtraError
from taemi_runtime.host import CudaDriver
from tests.runtime.fake_cuda import FakeDriver, FakePycuda
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_tensorrt import FakeTensorRT


def install_gpu(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    """Let both device layers, and whoever asks for the driver, find the simulated GPU."""
    driver = CudaDriver("13.0", ("Simulated GPU",))
    for module in (host, registry, backend_module, engine_choice):
        monkeypatch.setattr(module, "cuda_driver", lambda: driver)
    for module in (host, backend_module):
        monkeypatch.setattr(module, "compute_capability", lambda index=0: gpu.capability)
    monkeypatch.setattr(cuda_python, "import_driver", lambda: FakeDriver(gpu))
    monkeypatch.setattr(pycuda, "import_driver", lambda: FakePycuda(gpu))


def install_tensorrt(monkeypatch: pytest.MonkeyPatch, *libraries: FakeTensorRT) -> None:
    """Let plans find these libraries, and no other."""
    known = {library.__name__: library for library in libraries}

    def import_fake(name: str) -> FakeTensorRT:
        if name not in known:
            raise MissingExtraError(
                "cannot run plans", f"the package {name} is not installed", f"Install it: pip install {name}"
            )
        return known[name]

    monkeypatch.setattr(backend_module, "import_library", import_fake)
