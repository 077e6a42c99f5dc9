"""Plans of TensorRT and of TensorRT for RTX on an NVIDIA GPU.

The sidecar says which library a plan belongs to; the other one is never tried. Never executed on a GPU so
far: tests run it on a simulated device that computes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from taemi_runtime.backends.tensorrt_engine import TensorRTEngine
from taemi_runtime.backends.tensorrt_library import import_library
from taemi_runtime.backends.tensorrt_plan import Plan, Tensor
from taemi_runtime.backends.tensorrt_signature import check_sidecar
from taemi_runtime.cuda.contract import DeviceLayer
from taemi_runtime.cuda.registry import layer, layer_names
from taemi_runtime.engine import Backend, Engine, EngineInfo, EngineOptions, Probe
from taemi_runtime.errors import BundleError, DeviceError, EngineError, MissingExtraError, TaemiError
from taemi_runtime.host import compute_capability, cuda_driver, package_versions, parse_device
from taemi_runtime.plan_sidecar import (
    LIBRARIES,
    PlanHost,
    PlanSidecar,
    check_host,
    read_sidecar_beside,
    sidecar_name,
)
from taemi_runtime.spec import GraphSpec

_log = logging.getLogger(__name__)


class TensorRT(Backend):
    """Both libraries that run plans."""

    name: ClassVar[str] = "tensorrt"
    suffixes: ClassVar[tuple[str, ...]] = (".plan", ".engine", ".trt")
    extra: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @classmethod
    def probe(cls) -> Probe:
        """Say whether there are a GPU, a device layer and a library."""
        driver = cuda_driver()
        layers = {name: layer(name).probe() for name in layer_names()}
        if driver.why:
            return Probe(False, driver.why, "Install NVIDIA's driver; a CPU runs the ONNX graphs instead")
        usable = [name for name, probe in layers.items() if probe.usable]
        if not usable:
            first = next(iter(layers.values()))
            return Probe(False, first.detail, first.fix)
        versions, why = [], None
        for library in LIBRARIES:
            try:
                versions.append(f"{library} {import_library(library).__version__}")
            except TaemiError as error:
                why = why or error
        if not versions and why is not None:
            return Probe(False, why.found, why.fix)
        devices = ", ".join(
            f"{name} (compute capability {_capability(index)})" for index, name in enumerate(driver.devices)
        )
        return Probe(True, f"{', '.join(versions)} over {', '.join(usable)}; {devices}")

    @classmethod
    def check_host(cls, path: Path, options: EngineOptions, **facts: Any) -> None:
        """Refuse a plan that was made for another library or GPU; see ``Backend.check_host``."""
        _check_host(path, options, _reader(path, facts))

    @classmethod
    def open(cls, path: Path, spec: GraphSpec, options: EngineOptions, **facts: Any) -> Engine:
        """Load a plan; see ``Backend.open``.

        Args:
            path: The plan.
            spec: The graph.
            options: Device, device layer, number of contexts.
            facts: ``read_sidecar`` reads the sidecar; else the one beside the plan is taken.
        """
        here = _check_host(path, options, _reader(path, facts))
        for note in here.notes:
            _log.warning("%s", note)
        _, index = parse_device(options.device)
        device = layer(options.cuda_backend).open(index)
        try:
            return _load(path, spec, options, here, device)
        except BaseException:
            device.close()
            raise


@dataclass(frozen=True)
class _Here:
    sidecar: PlanSidecar
    trt: Any
    host: PlanHost
    notes: tuple[str, ...]


def _load(
    path: Path, spec: GraphSpec, options: EngineOptions, here: _Here, device: DeviceLayer
) -> TensorRTEngine:
    sidecar, host = here.sidecar, here.host
    check_sidecar(sidecar, spec, path)
    with device.activate():
        words = {
            "library": LIBRARIES[sidecar.library],
            "built": f"{sidecar.maker} for compute capability {sidecar.compute_capability}",
            "here": f"{host.library} {host.library_version} and compute capability {host.compute_capability}",
            "rebuild": sidecar.rebuild.replace("BUNDLE", str(path.parent)),
            "free": f"{device.free_bytes() / 2**30:.1f} GiB",
        }
        plan = Plan(here.trt, path, spec, sidecar, words, device)
    info = EngineInfo(
        path=str(path),
        backend=TensorRT.name,
        precision=sidecar.precision,
        device=f"cuda:{device.facts.index}",
        versions={sidecar.library: host.library_version} | package_versions([device.package]),
        limits=_limits(plan),
        inputs=_halves(plan.inputs),
        outputs=_halves(plan.outputs),
        tf32=sidecar.tf32,
    )
    return TensorRTEngine(
        plan,
        device,
        info,
        contexts=options.contexts,
        graphs=options.cuda_graphs,
        split_times=options.split_times,
    )


def _halves(tensors: tuple[Tensor, ...]) -> dict[str, str]:
    """Return which tensors are in half precision in a plan and in single precision in its description."""
    return {
        tensor.name: "float16"
        for tensor in tensors
        if tensor.dtype == "float16" and tensor.item.dtype == "float32"
    }


def _check_host(path: Path, options: EngineOptions, read: Callable[[], PlanSidecar]) -> _Here:
    """Compare a plan with this host in order of cost: device, GPU, packages, then what it was built for.

    Args:
        path: The plan.
        options: Device and device layer.
        read: Reads and checks the sidecar.

    Raises:
        BundleError: Plan or sidecar are damaged.
        DeviceError: It is to run on the CPU, or there is no such GPU.
        MissingExtraError: Its library or the device layer is not installed.
        EngineError: It was built by another version or for another GPU.
    """
    kind, index = parse_device(options.device)
    asked = f"cannot run {path}"
    if kind == "cpu":
        raise DeviceError(
            f"{asked} on cpu", f"it is {_words(path, read)}, and plans run on CUDA devices only"
        )
    chosen = layer(options.cuda_backend)
    driver = cuda_driver()
    if driver.why:
        raise DeviceError(asked, f"it is {_words(path, read)}, and {driver.why}")
    if index >= len(driver.devices):
        raise DeviceError(asked, f"there is no cuda:{index}, only {', '.join(driver.devices)}")
    sidecar = read()
    try:
        trt = import_library(sidecar.library)
    except (MissingExtraError, EngineError) as error:
        raise type(error)(asked, f"it is {sidecar.words()}: {error.found}", error.fix) from error
    probe = chosen.probe()
    if not probe.usable:
        raise MissingExtraError(asked, f"{chosen.name} cannot be used: {probe.detail}", probe.fix)
    host = PlanHost(sidecar.library, str(trt.__version__), _capability(index), driver.version)
    try:
        notes = check_host(sidecar, host)
    except EngineError as error:
        fix = error.fix.replace("BUNDLE", str(path.parent))
        raise EngineError(asked, error.found, fix) from error
    return _Here(sidecar, trt, host, notes)


def _words(path: Path, read: Callable[[], PlanSidecar]) -> str:
    """Say what a plan is; a damaged one is refused for that, whatever else stands in its way."""
    try:
        return read().words()
    except BundleError:
        if path.with_name(sidecar_name(path.name)).exists():
            raise
        return "a TensorRT plan"


def _reader(path: Path, facts: dict[str, Any]) -> Callable[[], PlanSidecar]:
    read: Callable[[], PlanSidecar] = facts.get("read_sidecar") or functools.partial(
        read_sidecar_beside, path
    )
    return read


def _capability(index: int) -> str:
    found = compute_capability(index)
    return "{}.{}".format(*found) if found is not None else "0.0"


def _limits(plan: Plan) -> dict[str, int]:
    """Return the largest length of every symbol in any profile."""
    limits: dict[str, int] = {}
    for profile in plan.profiles:
        for item in plan.spec.inputs:
            for axis, length in zip(item.shape, profile.inputs[item.name].maximum, strict=True):
                if isinstance(axis, str):
                    limits[axis] = max(length, limits.get(axis, 0))
    return limits
