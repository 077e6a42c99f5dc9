"""Every name of the vendors' libraries that the code uses exists in the libraries that are installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from taemi_runtime import backends, cuda
from tests.runtime import fake_tensorrt
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_gpu import FakeGpu

BACKENDS = Path(backends.__file__).parent
SOURCES = [BACKENDS / f"tensorrt_{name}.py" for name in ("plan", "lane", "engine", "library")]
# Which object an expression stands for in the sources, and its class in the library.
OWNERS = {
    "trt": "",
    "self.trt": "",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "context": "IExecutionContext",
    "self.context": "IExecutionContext",
    "state.context": "IExecutionContext",
}


def used_names():
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner in OWNERS:
                    found.add((OWNERS[owner], node.attr))
    return sorted(found - {("", "__name__"), ("", "__version__")})


def test_the_names_are_found_at_all():
    names = {name for _, name in used_names()}
    assert names >= {
        "Runtime",
        "deserialize_cuda_engine",
        "get_tensor_profile_shape",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
        "set_device_memory",
        "device_memory_size_v2",
    }


@pytest.mark.tensorrt
@pytest.mark.parametrize("library", ["tensorrt_rtx", "tensorrt"])
def test_every_name_exists_in_the_library(library):
    trt = pytest.importorskip(library, reason=f"{library} is not installed")
    for owner, name in used_names():
        assert hasattr(getattr(trt, owner) if owner else trt, name), f"{owner}.{name}"
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)
    assert {"DEVICE", "HOST"} <= set(trt.TensorLocation.__members__)
    assert {"ERROR", "INTERNAL_ERROR"} <= set(trt.ILogger.Severity.__members__)


@pytest.mark.tensorrt
def test_the_simulated_library_has_nothing_that_the_real_one_lacks():
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pairs = [(fake_tensorrt.FakeEngine, trt.ICudaEngine), (fake_tensorrt.FakeContext, trt.IExecutionContext)]
    for fake, real in pairs:
        made_up = {name for name in vars(fake) if not name.startswith("_")} - {"refuse"}
        assert made_up <= set(dir(real))


def driver_calls():
    text = (Path(cuda.__file__).parent / "cuda_python.py").read_text()
    return sorted(set(re.findall(r'"(cu[A-Z]\w+)"', text)))


def test_every_call_of_the_driver_is_simulated():
    assert len(driver_calls()) > 25
    assert not [name for name in driver_calls() if not hasattr(FakeDriver(FakeGpu()), name)]


def test_every_call_of_the_driver_exists():
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    assert not [name for name in driver_calls() if not hasattr(driver, name)]
    for owner in ("CUresult", "CUstream_flags", "CUevent_flags", "CUstreamCaptureMode", "CUdevice_attribute"):
        names = [name for name in vars(getattr(FakeDriver, owner)) if name.startswith("CU")]
        assert all(hasattr(getattr(driver, owner), name) for name in names)
