"""The sidecar of a TensorRT plan: what a plan says of itself before anybody deserialises it.

A plan is an opaque file that one library of one version runs on one kind of GPU. Everything that decides
whether it may be loaded stands in ``NAME.plan.json`` beside it, so that a plan which does not fit is
refused with both values and the command that builds the right one, and not by a crash inside the library.
Plans stay raw files that other tools can load; docs/bundle.md lists the fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError, EngineError, InputError
from taemi_runtime.manifest import file_sha256
from taemi_runtime.release import release_of
from taemi_runtime.strict import from_plain, to_json

SCHEMA = 1
SUFFIX = ".json"
LIBRARIES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
"""Import names of the libraries that write plans, and what people call them."""

Compatibility = Literal["same-compute-capability", "ampere-plus"]
Shape = tuple[int, ...]

# Hardware compatibility level kAMPERE_PLUS (TensorRT, HardwareCompatibilityLevel): Ampere is 8.0.
_AMPERE = (8, 0)


@dataclass(frozen=True)
class ShapeRange:
    """What one optimisation profile allows for one input.

    Args:
        minimum: The smallest shape.
        optimum: The shape that kernels are tuned for.
        maximum: The largest shape.
    """

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        ranks = {len(self.minimum), len(self.optimum), len(self.maximum)}
        ordered = zip(self.minimum, self.optimum, self.maximum, strict=False)
        if len(ranks) != 1 or any(not 0 < low <= best <= high for low, best, high in ordered):
            raise ValueError(f"no range of shapes: {self}")

    def holds(self, shape: Shape) -> bool:
        """Whether a shape lies inside."""
        return len(shape) == len(self.minimum) and all(
            low <= length <= high for low, length, high in zip(self.minimum, shape, self.maximum, strict=True)
        )

    def __str__(self) -> str:
        return ":".join("x".join(map(str, shape)) for shape in (self.minimum, self.optimum, self.maximum))


@dataclass(frozen=True)
class PlanProfile:
    """One optimisation profile; its place in the list is its index in the plan.

    Args:
        name: What it is for, e.g. ``one``, ``batch`` or ``long``.
        inputs: The range of every input by name.
    """

    name: str
    inputs: dict[str, ShapeRange]


@dataclass(frozen=True)
class Execution:
    """That a plan ran, where and when.

    Args:
        device: The GPU's name.
        compute_capability: Its compute capability, e.g. ``8.0``.
        driver: The newest CUDA version that the driver there supports.
        library_version: The library that ran it.
        date: UTC time in ISO 8601.
    """

    device: str
    compute_capability: str
    driver: str
    library_version: str
    date: str


@dataclass(frozen=True)
class PlanSidecar:
    """Everything that is known of one plan.

    Args:
        plan: The plan's file name.
        plan_sha256: Its digest.
        plan_bytes: Its size.
        library: Import name of the library that built it; only this one may load it.
        library_version: Its version in full.
        graph: The graph that it computes.
        source: The ONNX file that it was built from.
        source_sha256: That file's digest.
        precision: As asked for, ``fp16`` or ``fp32``.
        layer_types: How many layers of the parsed network give which type, e.g. ``{"float16": 210}``: in
            a strongly typed network these are the types that are built.
        target: As asked for, e.g. ``current`` or ``sm80``.
        compute_capability: What it was compiled for, e.g. ``8.0``.
        compatibility: On which other GPUs it may run.
        profiles: Its optimisation profiles by index.
        inputs: Element type of every input as built.
        outputs: Element type of every output as built.
        tf32: Whether float32 products may be rounded to TF32.
        workspace_bytes: The limit of scratch memory that the builder was given.
        device: The GPU on which it was built; empty when it was built without one.
        driver: The newest CUDA version that the driver there supported; empty without one.
        build_seconds: How long parsing and building took.
        created: UTC time in ISO 8601.
        executed: Where it ran first; ``None`` until it has run anywhere.
        schema: The schema version.
    """

    plan: str
    plan_sha256: str
    plan_bytes: int
    library: Literal["tensorrt", "tensorrt_rtx"]
    library_version: str
    graph: str
    source: str
    source_sha256: str
    precision: str
    layer_types: dict[str, int]
    target: str
    compute_capability: str
    compatibility: Compatibility
    profiles: tuple[PlanProfile, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    tf32: bool
    workspace_bytes: int
    device: str = ""
    driver: str = ""
    build_seconds: float = 0.0
    created: str = ""
    executed: Execution | None = field(default=None)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _capability(self.compute_capability)
        if not self.profiles:
            raise ValueError("a plan has at least one optimisation profile")

    @property
    def maker(self) -> str:
        """The library and its version, as people call it."""
        return f"{LIBRARIES[self.library]} {self.library_version}"

    def words(self, state: str = "") -> str:
        """Say in a few words what it is.

        Args:
            state: Whether it ran, where more is known than it says itself.
        """
        fits = f"compute capability {self.compute_capability}"
        if self.compatibility == "ampere-plus":
            fits = "Ampere and later GPUs"
        return f"a plan of {self.maker} for {fits} ({state or self.state})"

    @property
    def state(self) -> str:
        """Whether the plan ever ran."""
        if self.executed is None:
            return "built, never executed"
        done = self.executed
        return f"executed on {done.device} (compute capability {done.compute_capability}) on {done.date[:10]}"

    @property
    def rebuild(self) -> str:
        """The command that builds it anew, on the machine that will run it."""
        library = " --library rtx" if self.library == "tensorrt_rtx" else ""
        target = f" --target {self.target}" if self.target != "current" else ""
        return f"taemi-export tensorrt BUNDLE{library} --precision {self.precision}{target}"


def sidecar_name(plan: str) -> str:
    """Return the name of a plan's sidecar."""
    return plan + SUFFIX


def format_sidecar(sidecar: PlanSidecar) -> str:
    """Format a sidecar as JSON."""
    return to_json(sidecar)


def read_sidecar(bundle: Bundle, plan: str) -> PlanSidecar:
    """Read the sidecar of a bundle's plan and check it against everything that it names.

    The bytes of plan and sidecar are compared with the manifest's digests before either is parsed, and
    nothing of the plan is deserialised.

    Args:
        bundle: The bundle.
        plan: The plan's name in the manifest.

    Raises:
        BundleError: Plan or sidecar are missing or changed, the sidecar is of another plan, breaks its
            schema, or the plan was built from a graph that is no longer the bundle's.
    """
    bundle.file(plan)
    sidecar = _parse(bundle.file(sidecar_name(plan)))
    entry = bundle.manifest.files[plan]
    asked = f"cannot use {bundle.folder / plan}"
    fix = "Build it again: " + sidecar.rebuild.replace("BUNDLE", str(bundle.folder))
    if (sidecar.plan_sha256, sidecar.plan_bytes) != (entry.sha256, entry.bytes):
        raise BundleError(
            asked, f"its SHA-256 is {entry.sha256}, its sidecar is of {sidecar.plan_sha256}", fix
        )
    if (sidecar.graph, sidecar.precision) != (entry.graph, entry.precision):
        raise BundleError(
            asked,
            f"its sidecar says graph {sidecar.graph!r} in {sidecar.precision}, the manifest "
            f"{entry.graph!r} in {entry.precision}",
            fix,
        )
    source = bundle.manifest.files.get(sidecar.source)
    if source is None or source.sha256 != sidecar.source_sha256:
        now = f"has SHA-256 {source.sha256}" if source else "is not in the bundle"
        raise BundleError(
            asked,
            f"it was built from {sidecar.source} with SHA-256 {sidecar.source_sha256}, which now {now}",
            fix,
        )
    return sidecar


def read_sidecar_beside(plan: Path) -> PlanSidecar:
    """Read the sidecar of a plan that stands in no bundle.

    Raises:
        BundleError: There is no sidecar, it breaks its schema, or the plan's digest is another.
    """
    sidecar = _parse(plan.with_name(sidecar_name(plan.name)))
    digest = file_sha256(plan)
    if digest != sidecar.plan_sha256:
        raise BundleError(
            f"cannot use {plan}",
            f"its SHA-256 is {digest}, its sidecar says {sidecar.plan_sha256}",
            f"The plan is damaged or was changed: copy it again, or build it again: {sidecar.rebuild}",
        )
    return sidecar


def _parse(path: Path) -> PlanSidecar:
    asked = f"cannot read the sidecar {path}"
    again = "Build the plan again: taemi-export tensorrt BUNDLE"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            asked, "there is no such file, and nothing else says what runs the plan", again
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(asked, f"it is no JSON ({error})", again) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise BundleError(asked, f"its schema is {schema!r}, this taemi reads {SCHEMA}", again)
    try:
        return from_plain(data, PlanSidecar)
    except ValueError as error:
        raise BundleError(asked, f"it breaks schema {SCHEMA}: {error}", again) from error


@dataclass(frozen=True)
class PlanHost:
    """What a host offers to a plan.

    Args:
        library: Import name of the library that would load it.
        library_version: Its version.
        compute_capability: The GPU's, e.g. ``8.0``.
        driver: The newest CUDA version that the driver supports, e.g. ``13.0``; empty when unknown.
    """

    library: str
    library_version: str
    compute_capability: str
    driver: str = ""


def check_host(sidecar: PlanSidecar, host: PlanHost) -> tuple[str, ...]:
    """Refuse a plan that this host cannot run, before it is deserialised.

    Args:
        sidecar: The plan's.
        host: What is there.

    Returns:
        Differences that do not forbid to try, one sentence each.

    Raises:
        EngineError: The library, its version or the GPU is another; both values and the command that
            builds the right plan are named.
    """
    asked = f"cannot run {sidecar.plan} here"
    here = f"{LIBRARIES.get(host.library, host.library)} {host.library_version}"
    again = "taemi-export tensorrt BUNDLE --precision " + sidecar.precision
    if host.library == "tensorrt_rtx":
        again += " --library rtx"
    again = f"Build it on this machine: {again}"
    if sidecar.library != host.library:
        raise EngineError(asked, f"it was built by {sidecar.maker}, and this is {here}", again)
    # Plans are tied to the library's major, minor and patch version; the fourth number is a build's.
    if release_of(sidecar.library_version, 3) != release_of(host.library_version, 3):
        raise EngineError(asked, f"it was built by {sidecar.maker}, and this is {here}", again)
    built, found = _capability(sidecar.compute_capability), _capability(host.compute_capability)
    fits = found == built
    wanted = f"compute capability {sidecar.compute_capability}"
    if sidecar.compatibility == "ampere-plus":
        fits, wanted = found >= _AMPERE, "compute capability 8.0 or later"
    if not fits:
        raise EngineError(
            asked, f"it was built for {wanted}, and this GPU has {host.compute_capability}", again
        )
    if sidecar.driver and host.driver and release_of(host.driver, 3) < release_of(sidecar.driver, 3):
        return (
            f"{sidecar.plan} was built under a driver for CUDA {sidecar.driver}; "
            f"this one supports CUDA {host.driver}",
        )
    return ()


def choose_profile(sidecar: PlanSidecar, shapes: Mapping[str, Shape]) -> int:
    """Return the index of the profile that suits a call best.

    Of the profiles that hold every shape, the one whose optimum has the nearest number of elements: its
    kernels were tuned for a call of this size.

    Args:
        sidecar: The plan's.
        shapes: The shape of every input by name.

    Raises:
        InputError: No profile holds these shapes; the ranges and the first misfit are named.
    """
    fitting = [
        index
        for index, profile in enumerate(sidecar.profiles)
        if all(profile.inputs[name].holds(shape) for name, shape in shapes.items())
    ]
    if not fitting:
        raise _misfit(sidecar, shapes)

    def distance(index: int) -> int:
        best = sidecar.profiles[index].inputs
        return sum(abs(_elements(best[name].optimum) - _elements(shape)) for name, shape in shapes.items())

    return min(fitting, key=distance)


def _misfit(sidecar: PlanSidecar, shapes: Mapping[str, Shape]) -> InputError:
    ranges = []
    for profile in sidecar.profiles:
        name = next(name for name, shape in shapes.items() if not profile.inputs[name].holds(shape))
        ranges.append(
            f"{name} {'x'.join(map(str, shapes[name]))} is outside {profile.inputs[name]} "
            f"of profile {profile.name}"
        )
    return InputError(
        f"{sidecar.plan} cannot take these shapes",
        "; ".join(ranges),
        "Cut or split the input, or build the plan for wider ranges: taemi-export tensorrt BUNDLE "
        "--batch MIN:OPT:MAX --shapes GRAPH.INPUT=MIN:OPT:MAX",
    )


def _elements(shape: Shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _capability(text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        raise ValueError(f"no compute capability: {text!r}")
    return int(major), int(minor)
