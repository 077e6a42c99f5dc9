"""Every way to run an engine that the contract is tried on: real backends, and plans on a simulated GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import pytest

from taemi_runtime import backends
from taemi_runtime.backends import backend, registered
from taemi_runtime.backends.onnxruntime_binding import BoundEngine
from taemi_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from taemi_runtime.backends.onnxruntime_session import import_onnxruntime
from taemi_runtime.engine import EngineOptions
from taemi_runtime.host import compute_capability, cuda_driver
from taemi_runtime.plan_sidecar import PlanProfile, ShapeRange
from taemi_runtime.spec import GraphSpec
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_machine import install_gpu, install_tensorrt
from tests.runtime.fake_provider import open_bytes
from tests.runtime.fake_tensorrt import FakeTensorRT, ranges_of, write_plan

WIDEST_BATCH = 32


def widest(spec: GraphSpec) -> dict:
    """Return the range of every free symbol, up to a batch of ``WIDEST_BATCH``."""
    return {
        symbol.name: (symbol.minimum, symbol.typical, symbol.maximum or WIDEST_BATCH)
        for symbol in spec.free_symbols
    }


@dataclass
class Place:
    """One way to run an engine.

    Args:
        name: Its name in test ids.
        backend: The registered backend.
        device: The device that it reports.
        suffix: Of its files.
        options: How engines are opened there.
    """

    name: str
    backend: str
    device: str = "cpu"
    suffix: str = ".onnx"
    options: dict = field(default_factory=dict)
    gpu: FakeGpu | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the machine look as this place needs it."""

    def uninstall(self) -> None:
        """Undo what ``install`` did beyond its patches, once those are undone."""

    def opened_with(self, **more) -> EngineOptions:
        return EngineOptions(**(self.options | more))

    def write(self, folder: Path, stem: str, made: onnx.ModelProto, spec: GraphSpec) -> Path:
        """Write a graph in the form that is run here."""
        path = folder / f"{stem}{self.suffix}"
        onnx.save(made, path)
        return path

    def write_bytes(self, folder: Path, stem: str, content: bytes, spec: GraphSpec) -> Path:
        """Write a file that is no graph."""
        path = folder / f"{stem}{self.suffix}"
        path.write_bytes(content)
        return path


@dataclass
class SimulatedPlan(Place):
    """Plans on a simulated GPU."""

    def install(self, monkeypatch):
        self.gpu = FakeGpu()
        self.trt = FakeTensorRT(self.gpu)
        install_gpu(monkeypatch, self.gpu)
        install_tensorrt(monkeypatch, self.trt)

    def write(self, folder, stem, made, spec):
        path = folder / f"{stem}{self.suffix}"
        batched = any(symbol.name == "batch" for symbol in spec.symbols)
        ranges = {"one": widest(spec) | ({"batch": (1, 1, 1)} if batched else {})}
        ranges["batch"] = widest(spec) | ({"batch": (1, 8, WIDEST_BATCH)} if batched else {})
        write_plan(path, spec, made.SerializeToString(), ranges)
        return path

    def write_bytes(self, folder, stem, content, spec):
        path = folder / f"{stem}{self.suffix}"
        write_plan(path, spec, b"", {"one": widest(spec)}, content=content)
        return path


@dataclass
class RealPlan(Place):
    """Plans that the installed TensorRT builds here and now."""

    def write(self, folder, stem, made, spec):
        from importlib import import_module

        from taemi_bench.gpu_steps.tensorrt_plan import build_plan, profile_shapes

        source = folder / f"{stem}.onnx"
        onnx.save(made, source)
        path = folder / f"{stem}{self.suffix}"
        trt = import_module("tensorrt")
        profile = PlanProfile("one", {name: ShapeRange(*held) for name, held in profile_shapes(spec).items()})
        capability = "{}.{}".format(*compute_capability())
        changes = {
            "content": build_plan(trt, source, spec),
            "profiles": (profile,),
            "library_version": trt.__version__,
            "compute_capability": capability,
            "driver": cuda_driver().version,
        }
        write_plan(path, spec, b"", {"one": widest(spec)}, **changes)
        return path

    write_bytes = SimulatedPlan.write_bytes


class BoundOnCpu(OnnxRuntimeCpu):
    """What runs under the CUDA provider, on the CPU: the same binding of arrays, on another device."""

    name = "onnxruntime-bound"

    @classmethod
    def open(cls, path, spec, options, **facts):
        engine = super().open(path, spec, options, **facts)
        info = replace(engine.info, backend=cls.name)
        session, engine._session = engine._session, None
        return BoundEngine(
            import_onnxruntime("cpu"), session, spec, info, open_session=open_bytes, device="cpu"
        )


@dataclass
class BoundPlace(Place):
    """Sessions with bound arrays."""

    def install(self, monkeypatch):
        path = f"{__name__}:BoundOnCpu"
        monkeypatch.setattr(backends, "_BUILTIN", {**backends._BUILTIN, "onnxruntime-bound": path})
        self.uninstall()

    def uninstall(self):
        registered.cache_clear()
        backend.cache_clear()


def places() -> list[Place]:
    """Return every place where engines can be run on this machine."""
    found = []
    for name in registered():
        kind = backend(name)
        if not kind.probe().usable:
            continue
        device = "cuda:0" if "cuda" in kind.devices else "cpu"
        if ".onnx" in kind.suffixes:
            found.append(Place(name, name, device))
        elif ".plan" in kind.suffixes:
            found.append(RealPlan(name, name, device, ".plan"))
    found.append(BoundPlace("onnxruntime-bound", "onnxruntime-bound"))
    for layer in ("cuda-python", "pycuda"):
        options = {"cuda_backend": layer}
        found.append(SimulatedPlan(f"tensorrt-simulated-{layer}", "tensorrt", "cuda:0", ".plan", options))
    return found


def place_params(*, without: Collection[str] = ()) -> list:
    """Return a fixture's parameters, one for each place; those on a real GPU are marked so.

    Args:
        without: Names of places to leave out.
    """
    found = []
    for place in places():
        real_gpu = place.device != "cpu" and not isinstance(place, SimulatedPlan)
        if place.name not in without:
            found.append(pytest.param(place, marks=[pytest.mark.gpu] * real_gpu, id=place.name))
    return found


@contextmanager
def installed(place: Place) -> Iterator[Place]:
    """Make the machine look as a place needs it; a simulated GPU has NaN in fresh memory.

    At the end nothing is left on such a GPU, and none of its work met other work unordered.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.install(monkeypatch)
        if place.gpu is not None:
            place.gpu.rubbish = 0xFF
        yield place
        if place.gpu is not None:
            assert place.gpu.is_clean
            assert not place.gpu.races
    place.uninstall()


__all__ = ["Place", "SimulatedPlan", "installed", "place_params", "places", "ranges_of", "widest"]
