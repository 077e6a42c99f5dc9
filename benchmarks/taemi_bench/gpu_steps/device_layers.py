"""The runtime's device layers: copies, a kernel compiled here, CUDA graphs, and both packages side by side.

Everything happens in the device's primary context, which PyTorch, ONNX Runtime and TensorRT use, too.
Not yet run on a GPU; tests run it on a simulated one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.kernel import BLOCK, NAME, compile_kernel, compile_with_nvrtc, operands
from taemi_bench.gpu_steps.measure import Call, failures, measure
from taemi_runtime.cuda.contract import DeviceBuffer, DeviceLayer, PinnedBuffer, Stream
from taemi_runtime.cuda.registry import DEFAULT, layer
from taemi_runtime.errors import EngineError, ParityError
from taemi_runtime.host import package_versions

COUNT = 1 << 20
SCALE = 1.5
LAUNCHES = 3
# Compiling needs no device: where there is none, this architecture shows that the tool chain works.
SAMPLE_ARCHITECTURE = "sm_80"


def check_cuda_python(context: Context) -> None:
    """Check the default layer; where there is no device, compile the kernel at least."""
    context.record(packages=package_versions(["cuda-python", "cuda-bindings", "nvidia-cuda-nvrtc"]))
    try:
        require_cuda()
    except NotRunError:
        cubin, compiler = compile_with_nvrtc(SAMPLE_ARCHITECTURE)
        note = f"{compiler}: {len(cubin)} bytes for {SAMPLE_ARCHITECTURE}, never executed"
        context.record(compiled_without_device=note)
        raise
    check_layer(context, DEFAULT)


def check_layer(context: Context, name: str) -> None:
    """Copy, compile, launch, and replay where the layer can; each must give the numbers that numpy gives.

    Args:
        context: Where results go.
        name: The layer.

    Raises:
        NotRunError: It cannot be used here.
        ParityError: A copy or the kernel gave other numbers.
        EngineError: A call failed.
    """
    _require(name)
    with layer(name).open(0) as device, device.activate(), _Bench(device) as bench:
        capability = "{}.{}".format(*device.facts.capability)
        context.record(device=device.facts.name, compute_capability=capability)
        bench.check_copy()
        context.record(copy="equal after host to device to host")
        compiler = bench.load()
        bench.check(bench.launch, 1)
        context.record(kernel=f"correct in the primary context, compiled by {compiler}")
        calls = [Call("kernel launch", bench.launch, bench.stream.synchronise)]
        what = "copies and a compiled kernel"
        if device.has_graphs:
            with bench.captured() as replay:
                bench.check(replay, LAUNCHES)
                context.record(graph="captured, instantiated and replayed, correct")
                calls.append(Call("graph launch", replay, bench.stream.synchronise))
                _time(context, calls)
            what += " and a CUDA graph of it"
        else:
            _time(context, calls)
        context.record(summary=f"{what} are right")


def compare_layers(context: Context, names: list[str]) -> None:
    """Time the same copies and launches through several layers, in turns.

    Args:
        context: Where results go.
        names: The layers, the one that ratios refer to first.
    """
    with ExitStack() as stack:
        calls = []
        for name in names:
            device = stack.enter_context(layer(name).open(0))
            with device.activate():
                bench = _Bench(device)
                stack.callback(_within, device, bench.close)
                bench.load()
            for what, run in (("copy up 4 MiB", bench.copy_up), ("kernel launch", bench.launch)):
                calls.append(
                    Call(f"{name}: {what}", _inside(device, run), _inside(device, bench.stream.synchronise))
                )
        _time(context, calls, baseline=f"{names[0]}: kernel launch", key="layers")


def _require(name: str) -> None:
    probe = layer(name).probe()
    if not probe.usable:
        raise NotRunError(f"{name}: {probe.detail}")


def _time(context: Context, calls: list[Call], baseline: str = "", key: str = "launches") -> None:
    rows = measure(calls, baseline)
    context.record(**{key: rows})
    if failures(rows):
        raise EngineError("a call failed while it was timed", "; ".join(failures(rows)))


def _inside(device: DeviceLayer, run: Callable[[], None]) -> Callable[[], None]:
    return lambda: _within(device, run)


def _within(device: DeviceLayer, run: Callable[[], None]) -> None:
    with device.activate():
        run()


class _Bench:
    """Two operands on a device, their pinned twins, a stream and the kernel."""

    def __init__(self, device: DeviceLayer) -> None:
        self.device = device
        self.values = operands(COUNT)
        self.stream: Stream = device.stream()
        self.buffers: list[DeviceBuffer] = [device.alloc(array.nbytes) for array in self.values]
        self.twins: list[PinnedBuffer] = [device.pin(array.nbytes) for array in self.values]
        self._module: Any = None
        self._kernel: Any = None

    def load(self) -> str:
        """Compile and load the kernel; return what compiled it."""
        cubin, compiler = compile_kernel(self.device.facts.capability)
        self._module = self.device.module(cubin)
        self._kernel = self._module.kernel(NAME)
        return compiler

    def copy_up(self) -> None:
        """Queue a copy of the first operand to the device."""
        self.stream.upload(self.buffers[0], self.twins[0], self.twins[0].nbytes)

    def launch(self) -> None:
        """Queue y += SCALE * x."""
        grid = ((COUNT + BLOCK - 1) // BLOCK, 1, 1)
        self._kernel.launch(
            self.stream, grid, (BLOCK, 1, 1), (np.float32(SCALE), *self.buffers, np.int32(COUNT))
        )

    def check_copy(self) -> None:
        """Copy both operands there and the first one back.

        Raises:
            ParityError: It came back changed.
        """
        self._reset()
        self.twins[0].array[:] = 0
        found = self._read(0)
        if not np.array_equal(found, self.values[0]):
            changed = np.sum(found != self.values[0])
            raise ParityError("host to device to host changed the data", f"{changed} values")

    def check(self, run: Callable[[], None], times: int) -> None:
        """Run ``times`` on fresh operands and compare with numpy.

        Raises:
            ParityError: The results differ by more than float32 rounding.
        """
        self._reset()
        for _ in range(times):
            run()
        compare_with_numpy(*self.values, self._read(1), times)

    @contextmanager
    def captured(self) -> Iterator[Callable[[], None]]:
        """Capture a launch; yield its replay."""
        self.stream.begin_capture()
        self.launch()
        graph = self.stream.end_capture()
        try:
            yield lambda: self.stream.launch(graph)
        finally:
            graph.close()

    def _reset(self) -> None:
        for array, buffer, twin in zip(self.values, self.buffers, self.twins, strict=True):
            twin.array[:] = array.view(np.uint8)
            self.stream.upload(buffer, twin, array.nbytes)
        self.stream.synchronise()

    def _read(self, index: int) -> Any:
        twin = self.twins[index]
        self.stream.download(twin, self.buffers[index], twin.nbytes)
        self.stream.synchronise()
        return twin.array.view(np.float32).copy()

    def close(self) -> None:
        for resource in (self._module, *self.buffers, *self.twins, self.stream):
            if resource is not None:
                resource.close()

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compare_with_numpy(x: Any, y: Any, found: Any, times: int) -> None:
    """Check y + times * SCALE * x.

    Raises:
        ParityError: The results differ by more than float32 rounding.
    """
    expected = y.astype(np.float64) + times * SCALE * x.astype(np.float64)
    worst = float(np.abs(found - expected).max())
    if not worst <= 1e-5:
        raise ParityError("the kernel's result is wrong", f"it differs from numpy by up to {worst:.2g}")
