"""ONNX Runtime's CUDA provider on a simulated GPU: sessions run on the CPU, over the device's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taemi_runtime.backends.onnxruntime_binding import BoundEngine, OrtPool
from taemi_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from taemi_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from taemi_runtime.backends.onnxruntime_session import create_session, import_onnxruntime
from taemi_runtime.engine import Probe
from tests.runtime.fake_gpu import FakeGpu

_open_on_cpu = OnnxRuntimeCpu.open


class _Binding:
    """A binding that finds what lies in the simulated device's memory."""

    def __init__(self, binding, gpu: FakeGpu) -> None:
        self.binding, self.gpu = binding, gpu

    def _translate(self, dtype, shape, address):
        nbytes = dtype.itemsize
        for length in shape:
            nbytes *= length
        return self.gpu.at(address, nbytes).ctypes.data

    def bind_input(self, name, kind, index, dtype, shape, address):
        self.binding.bind_input(name, kind, index, dtype, shape, self._translate(dtype, shape, address))

    def bind_output(self, name, kind, index, dtype, shape, address):
        self.binding.bind_output(name, kind, index, dtype, shape, self._translate(dtype, shape, address))

    def __getattr__(self, name):
        return getattr(self.binding, name)


class _Session:
    def __init__(self, session, gpu):
        self.session, self.gpu = session, gpu

    def io_binding(self):
        return _Binding(self.session.io_binding(), self.gpu)

    def run_with_iobinding(self, binding, options):
        self.session.run_with_iobinding(binding.binding, options)

    def __getattr__(self, name):
        return getattr(self.session, name)


class _Pool(OrtPool):
    """Memory of ONNX Runtime that work of the simulated device reaches, too."""

    gpu: FakeGpu

    def _allocate(self, nbytes):
        block = super()._allocate(nbytes)
        memory = block.value.numpy()
        memory[:] = self.gpu.rubbish
        self.gpu.memory[block.address] = memory
        self.gpu.allocations += 1
        return block

    def _free(self, memory):
        for block in memory:
            del self.gpu.memory[block.address]


def bind_on_cpu(path, spec, options, **facts):
    """Open a graph as the CUDA provider does, on the CPU."""
    engine = _open_on_cpu(path, spec, replace(options, device="cpu"), **facts)
    session, engine._session = engine._session, None
    return BoundEngine(
        import_onnxruntime("cpu"),
        session,
        spec,
        engine.info,
        open_session=open_bytes,
        device="cpu",
        split_times=options.split_times,
    )


def open_bytes(graph):
    """Open a graph's bytes on the CPU."""
    return create_session(import_onnxruntime("cpu"), graph, 1, ["CPUExecutionProvider"])


def bind_on(gpu: FakeGpu):
    """Return what opens graphs as the CUDA provider does, on a simulated GPU."""

    def open_it(path, spec, options, **facts):
        bound = bind_on_cpu(path, spec, options, **facts)
        info = replace(bound.info, device="cuda:0", backend="onnxruntime-cuda")
        ort = import_onnxruntime("cpu")
        engine = BoundEngine(
            ort,
            _Session(bound._session, gpu),
            spec,
            info,
            open_session=lambda graph: _Session(open_bytes(graph), gpu),
            device="cpu",
            split_times=options.split_times,
        )
        engine._pool = _Pool(ort, "cuda:0", ("cpu", 0))
        engine._pool.gpu = gpu
        return engine

    return open_it


def install_provider(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    """Let ONNX graphs find the CUDA provider, on a simulated GPU."""
    monkeypatch.setattr(OnnxRuntimeCuda, "probe", classmethod(lambda cls: Probe(True, "simulated")))
    monkeypatch.setattr(OnnxRuntimeCuda, "open", staticmethod(bind_on(gpu)))
