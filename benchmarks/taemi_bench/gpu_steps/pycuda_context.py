"""pycuda: the device layer over it, and both layers side by side. Not yet run on a GPU."""

from __future__ import annotations

import importlib.util
import sys

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.device_layers import check_layer, compare_layers
from taemi_bench.gpu_steps.pycuda_build import build_pycuda
from taemi_runtime.cuda.registry import DEFAULT, layer
from taemi_runtime.host import package_versions

PYCUDA = "pycuda"


def check_pycuda(context: Context) -> None:
    """Check the layer over pycuda, then time it against the default one where that works, too."""
    require_cuda()
    if importlib.util.find_spec(PYCUDA) is None:
        if not context.build_pycuda:
            raise NotRunError("pycuda is not installed (it is built when --build-pycuda is given)")
        sys.path.insert(0, str(build_pycuda(context.work)))
        context.record(build="from the source distribution")
    context.record(packages=package_versions([PYCUDA]))
    check_layer(context, PYCUDA)
    other = layer(DEFAULT).probe()
    if other.usable:
        compare_layers(context, [DEFAULT, PYCUDA])
    else:
        context.record(not_compared=f"{DEFAULT}: {other.detail}")
