"""pycuda: copies and a kernel in the primary context, where other libraries live. Not yet run on a GPU."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.cuda_python import COUNT, SCALE, compare_with_numpy
from taemi_bench.gpu_steps.kernel import BLOCK, NAME, compile_kernel, operands
from taemi_bench.gpu_steps.pycuda_build import build_pycuda
from taemi_runtime.errors import ParityError
from taemi_runtime.host import package_versions


def check_pycuda(context: Context) -> None:
    """Copy there and back, and run the kernel; the numbers must be numpy's."""
    require_cuda()
    if importlib.util.find_spec("pycuda") is None:
        if not context.build_pycuda:
            raise NotRunError("pycuda is not installed (it is built when --build-pycuda is given)")
        sys.path.insert(0, str(build_pycuda(context.work)))
        context.record(build="from the source distribution")
    context.record(packages=package_versions(["pycuda"]))
    _check(context)


def _check(context: Context) -> None:
    import pycuda.driver as cuda

    cuda.init()
    device = cuda.Device(0)
    context.record(device=device.name(), compute_capability="{}.{}".format(*device.compute_capability()))
    # pycuda.autoinit would make a context of its own, in which no other library's memory is valid.
    primary = device.retain_primary_context()
    primary.push()
    try:
        # A function of its own: its module and stream are gone before their context is.
        _copy_and_launch(context, cuda, device.compute_capability())
    finally:
        primary.pop()


def _copy_and_launch(context: Context, cuda: Any, capability: tuple[int, int]) -> None:
    x, y = operands(COUNT)
    x_device, y_device = cuda.mem_alloc(x.nbytes), cuda.mem_alloc(y.nbytes)
    back = np.empty_like(x)
    cuda.memcpy_htod(x_device, x)
    cuda.memcpy_dtoh(back, x_device)
    if not np.array_equal(back, x):
        raise ParityError("host to device to host changed the data", f"{np.sum(back != x)} values")
    context.record(copy="equal after host to device to host")
    cubin, compiler = compile_kernel(capability)
    module = cuda.module_from_buffer(cubin)
    kernel = module.get_function(NAME)
    cuda.memcpy_htod(y_device, y)
    stream = cuda.Stream()
    kernel(
        np.float32(SCALE),
        x_device,
        y_device,
        np.int32(COUNT),
        block=(BLOCK, 1, 1),
        grid=((COUNT + BLOCK - 1) // BLOCK, 1),
        stream=stream,
    )
    stream.synchronize()
    found = np.empty_like(y)
    cuda.memcpy_dtoh(found, y_device)
    compare_with_numpy(x, y, found, 1)
    context.record(
        kernel=f"correct in the primary context, compiled by {compiler}",
        summary="copies and a kernel in the primary context are right",
    )
