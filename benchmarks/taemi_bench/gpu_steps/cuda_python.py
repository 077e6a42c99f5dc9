"""cuda-python: memory, copies, a kernel compiled here, and a CUDA graph of it. Not yet run on a GPU.

Everything happens in the device's primary context, which PyTorch, ONNX Runtime and TensorRT use, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.kernel import BLOCK, NAME, compile_kernel, compile_with_nvrtc, operands
from taemi_bench.gpu_steps.measure import Call, failures, measure
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.host import package_versions

COUNT = 1 << 20
SCALE = 1.5
LAUNCHES = 3
# Compiling needs no device: where there is none, this architecture shows that the tool chain works.
SAMPLE_ARCHITECTURE = "sm_80"


def check_cuda_python(context: Context) -> None:
    """Copy, compile, launch, capture and replay; each must give the numbers that numpy gives."""
    context.record(packages=package_versions(["cuda-python", "cuda-bindings", "nvidia-cuda-nvrtc"]))
    try:
        from cuda.bindings import driver
    except ImportError:
        raise NotRunError("cuda-python is not installed (pip install cuda-python)") from None
    try:
        require_cuda()
    except NotRunError:
        cubin, compiler = compile_with_nvrtc(SAMPLE_ARCHITECTURE)
        note = f"{compiler}: {len(cubin)} bytes for {SAMPLE_ARCHITECTURE}, never executed"
        context.record(compiled_without_device=note)
        raise
    _Check(context, driver).run()


class _Check:
    def __init__(self, context: Context, driver: Any) -> None:
        self.context = context
        self.driver = driver

    def call(self, result: tuple[Any, ...]) -> Any:
        """Return a driver call's value.

        Raises:
            EngineError: The call did not succeed.
        """
        error, *values = result
        if error != self.driver.CUresult.CUDA_SUCCESS:
            raise EngineError("a CUDA driver call failed", str(error))
        return values[0] if values else None

    def run(self) -> None:
        driver, call = self.driver, self.call
        call(driver.cuInit(0))
        device = call(driver.cuDeviceGet(0))
        attribute = driver.CUdevice_attribute
        capability = (
            call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)),
            call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)),
        )
        name = call(driver.cuDeviceGetName(256, device)).split(b"\0")[0].decode()
        self.context.record(device=name, compute_capability="{}.{}".format(*capability))
        call(driver.cuCtxSetCurrent(call(driver.cuDevicePrimaryCtxRetain(device))))
        try:
            self.check_device(capability)
        finally:
            call(driver.cuDevicePrimaryCtxRelease(device))

    def check_device(self, capability: tuple[int, int]) -> None:
        driver, call = self.driver, self.call
        x, y = operands(COUNT)
        on_device = [call(driver.cuMemAlloc(x.nbytes)) for _ in range(2)]
        stream = call(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        try:
            back = np.empty_like(x)
            call(driver.cuMemcpyHtoD(on_device[0], x.ctypes.data, x.nbytes))
            call(driver.cuMemcpyDtoH(back.ctypes.data, on_device[0], x.nbytes))
            if not np.array_equal(back, x):
                raise ParityError("host to device to host changed the data", f"{np.sum(back != x)} values")
            self.context.record(copy="equal after host to device to host")
            cubin, compiler = compile_kernel(capability)
            module = call(driver.cuModuleLoadData(cubin))
            kernel = call(driver.cuModuleGetFunction(module, NAME.encode()))
            arguments = (
                (SCALE, int(on_device[0]), int(on_device[1]), COUNT),
                (ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
            )
            grid = (COUNT + BLOCK - 1) // BLOCK

            def launch() -> None:
                call(driver.cuLaunchKernel(kernel, grid, 1, 1, BLOCK, 1, 1, 0, stream, arguments, 0))

            def synchronise() -> None:
                call(driver.cuStreamSynchronize(stream))

            self.compare(x, y, on_device[1], launch, synchronise, 1)
            self.context.record(kernel=f"correct, compiled by {compiler}")
            mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            call(driver.cuStreamBeginCapture(stream, mode))
            launch()
            graph = call(driver.cuStreamEndCapture(stream))
            replayable = call(driver.cuGraphInstantiate(graph, 0))

            def replay() -> None:
                call(driver.cuGraphLaunch(replayable, stream))

            self.compare(x, y, on_device[1], replay, synchronise, LAUNCHES)
            self.context.record(graph="captured, instantiated and replayed, correct")
            rows = measure(
                [Call("kernel launch", launch, synchronise), Call("graph launch", replay, synchronise)]
            )
            self.context.record(
                launches=rows, summary="copies, a compiled kernel and a CUDA graph of it are right"
            )
            if failures(rows):
                raise EngineError("a launch failed while it was timed", "; ".join(failures(rows)))
            call(driver.cuGraphExecDestroy(replayable))
            call(driver.cuGraphDestroy(graph))
            call(driver.cuModuleUnload(module))
        finally:
            call(driver.cuStreamDestroy(stream))
            for pointer in on_device:
                call(driver.cuMemFree(pointer))

    def compare(
        self,
        x: Any,
        y: Any,
        target: Any,
        run: Callable[[], None],
        synchronise: Callable[[], None],
        times: int,
    ) -> None:
        """Run ``times`` on a fresh y and compare with numpy.

        Raises:
            ParityError: The results differ by more than float32 rounding.
        """
        self.call(self.driver.cuMemcpyHtoD(target, y.ctypes.data, y.nbytes))
        for _ in range(times):
            run()
        synchronise()
        found = np.empty_like(y)
        self.call(self.driver.cuMemcpyDtoH(found.ctypes.data, target, y.nbytes))
        compare_with_numpy(x, y, found, times)


def compare_with_numpy(x: Any, y: Any, found: Any, times: int) -> None:
    """Check y + times * SCALE * x.

    Raises:
        ParityError: The results differ by more than float32 rounding.
    """
    expected = y.astype(np.float64) + times * SCALE * x.astype(np.float64)
    worst = float(np.abs(found - expected).max())
    if not worst <= 1e-5:
        raise ParityError("the kernel's result is wrong", f"it differs from numpy by up to {worst:.2g}")
