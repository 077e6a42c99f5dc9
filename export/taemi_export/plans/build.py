"""``taemi-export tensorrt``: plans for every graph of a bundle, put into it with their sidecars.

What is asked for is checked in order of cost: arguments, packages, host, files, graphs. The bundle changes
once, at the end, when every plan is whole.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from taemi_export.bundle_update import bundle_shadow, check_space, list_file
from taemi_export.plans.builder import BuildOptions, BuiltPlan, build_plan
from taemi_export.plans.library import Choice, Gpu, Library, find_gpu, open_library, why_not_here
from taemi_export.plans.profiles import plan_profiles
from taemi_export.plans.targets import Target, parse_target, plan_name, resolve_target
from taemi_export.plans.timing_cache import TimingCache, default_path
from taemi_runtime.atomic import atomic_file, write_bytes
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick, format_size
from taemi_runtime.errors import ExportError, TaemiError, UsageError
from taemi_runtime.manifest import describe_file
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, format_sidecar, sidecar_name

Precision = Literal["fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
NO_CACHE = "none"

# A plan holds its graph's weights and, for each profile, what kernels make of them.
_SPACE_FACTOR = 3


@dataclass(frozen=True)
class PlanRequest:
    """What was asked for.

    Args:
        library: ``tensorrt`` or ``rtx``.
        precision: ``fp16`` or ``fp32``.
        target: ``current``, ``ampere-plus``, ``smNN`` or a GPU.
        batch: ``MIN:OPT:MAX`` of every graph's first axis.
        shapes: ``GRAPH.INPUT=MIN:OPT:MAX`` each.
        graphs: Only these; all when empty.
        tf32: Whether float32 products may be rounded to TF32.
        workspace_bytes: The most scratch memory that a plan may use; all that there is when ``None``.
        timing_cache: A file, ``none``, or the user's cache folder when ``None``.
    """

    library: str = "tensorrt"
    precision: str = "fp16"
    target: str = "current"
    batch: str | None = None
    shapes: tuple[str, ...] = ()
    graphs: tuple[str, ...] = ()
    tf32: bool = False
    workspace_bytes: int | None = None
    timing_cache: str | None = None

    def command(self, bundle: Path) -> str:
        """Return the command line that asks for the same."""
        parts = ["taemi-export", "tensorrt", str(bundle)]
        default = PlanRequest()
        for option in ("library", "precision", "target", "batch"):
            value = getattr(self, option)
            if value != getattr(default, option):
                parts += [f"--{option}", str(value)]
        parts += [word for given in self.shapes for word in ("--shapes", given)]
        parts += [word for name in self.graphs for word in ("--graph", name)]
        if self.tf32:
            parts.append("--tf32")
        if self.workspace_bytes is not None:
            parts += ["--workspace", str(self.workspace_bytes >> 20)]
        if self.timing_cache is not None:
            parts += ["--timing-cache", self.timing_cache]
        return shlex.join(parts)


@dataclass(frozen=True)
class _Plan:
    """One plan to build."""

    graph: str
    name: str
    source: str
    profiles: tuple[PlanProfile, ...]


@dataclass(frozen=True)
class _Session:
    """What all builds of one command share."""

    library: Library
    gpu: Gpu | None
    precision: Precision
    options: BuildOptions
    cache: TimingCache | None
    tick: Tick


def build_plans(
    folder: Path,
    request: PlanRequest,
    *,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Build a plan of every graph and put them into the bundle.

    Args:
        folder: The bundle.
        request: What to build.
        tick: Called with (phase, done, total); for a progress bar.
        say: Called with one line for each step that is done.

    Returns:
        The plans' file names.

    Raises:
        UsageError: The request makes no sense, or asks for ranges or a target that cannot be.
        MissingExtraError: The library is not installed. Graphs in half precision were written all the
            same; the fix is the line to run on the machine that has it.
        DeviceError: There is no GPU and the library needs one; the same holds.
        BundleError: The bundle is damaged.
        ExportError: The library refused a graph.
        WriteError: The disk is full; the bundle is as it was.
    """
    tick, say = tick or _ignore_tick, say or _ignore_line
    choice, precision = _choices(request)
    target = parse_target(request.target, choice)
    bundle = Bundle.open(folder)
    names = _graph_names(bundle, request.graphs)
    specs = {name: bundle.manifest.graphs[name] for name in names}
    profiles = plan_profiles(specs, batch=request.batch, shapes=request.shapes)
    missing = why_not_here(choice)
    if missing is not None:
        raise _not_here(folder, request, names, missing, tick, say)
    library, gpu = open_library(choice), find_gpu()
    target = resolve_target(target, choice, gpu)
    session = _Session(
        library,
        gpu,
        precision,
        BuildOptions(target, request.workspace_bytes, request.tf32),
        _cache(request, library, gpu),
        tick,
    )
    lines: list[str] = []
    with bundle_shadow(folder) as shadow:
        _add_sources(shadow, names, precision, tick, lines.append)
        plans = _plan_all(Bundle.open(shadow), names, precision, target, choice, profiles)
        for plan in plans:
            lines.append(_build_one(session, shadow, plan))
    for line in lines:
        say(line.replace(str(shadow), str(folder)))
    return [plan.name for plan in plans]


def _ignore_tick(step: str, done: int, total: int) -> None:
    pass


def _ignore_line(line: str) -> None:
    pass


def _choices(request: PlanRequest) -> tuple[Choice, Precision]:
    if request.library not in ("tensorrt", "rtx"):
        raise UsageError(
            f"cannot build plans with {request.library!r}",
            "there is no such library",
            "Choose tensorrt or rtx",
        )
    if request.precision not in PRECISIONS:
        raise UsageError(
            f"cannot build plans in {request.precision!r}",
            "plans are built in the types of an ONNX graph of the bundle",
            f"Choose from: {', '.join(PRECISIONS)}",
        )
    if request.workspace_bytes is not None and request.workspace_bytes < 1 << 20:
        raise UsageError("cannot use --workspace 0", "kernels need scratch memory", "Give MiB, e.g. 4096")
    choice: Choice = "rtx" if request.library == "rtx" else "tensorrt"
    if choice == "rtx" and request.timing_cache not in (None, NO_CACHE):
        raise UsageError(
            f"cannot use --timing-cache {request.timing_cache}",
            "TensorRT for RTX measures no kernels when it compiles",
            "Leave it out",
        )
    return choice, "fp16" if request.precision == "fp16" else "fp32"


def _graph_names(bundle: Bundle, asked: tuple[str, ...]) -> list[str]:
    known = list(bundle.manifest.graphs)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UsageError(
            f"cannot build a plan of graph {unknown[0]!r}",
            f"{bundle.folder} has no such graph",
            f"Choose from: {', '.join(known)}",
        )
    return [name for name in known if name in asked or not asked]


def _cache(request: PlanRequest, library: Library, gpu: Gpu | None) -> TimingCache | None:
    if library.choice == "rtx" or gpu is None or request.timing_cache == NO_CACHE:
        return None
    if request.timing_cache is not None:
        return TimingCache(Path(request.timing_cache))
    return TimingCache(default_path(library, gpu))


def _find_source(bundle: Bundle, graph: str, precision: str) -> str | None:
    for name, entry in bundle.engine_files(graph):
        if entry.precision == precision and name.endswith(".onnx"):
            return name
    return None


def _source(bundle: Bundle, graph: str, precision: str) -> str:
    name = _find_source(bundle, graph, precision)
    if name is None:
        raise ExportError(
            f"cannot build a plan of graph {graph!r}",
            f"{bundle.folder} has no {precision} ONNX graph of it",
            "Export it again: taemi-export onnx CKPT --force",
        )
    return name


def _add_sources(
    shadow: Path, names: list[str], precision: Precision, tick: Tick, say: Callable[[str], None]
) -> None:
    """Convert the graphs that a bundle does not have in half precision yet."""
    bundle = Bundle.open(shadow)
    missing = [name for name in names if _find_source(bundle, name, precision) is None]
    if precision != "fp16" or not missing:
        return
    from taemi_export.precision import add_half

    for name in missing:
        start = time.perf_counter()
        path = shadow / add_half(shadow, name, tick=tick, say=say)
        say(f"{name}: half precision {time.perf_counter() - start:.1f} s, {_size(path)}, {path}")


def _size(path: Path) -> str:
    return format_size(path.stat().st_size)


def _plan_all(
    bundle: Bundle,
    names: list[str],
    precision: Precision,
    target: Target,
    choice: Choice,
    profiles: dict[str, tuple[PlanProfile, ...]],
) -> list[_Plan]:
    """Return what to build, with every source checked before the first build, which may take minutes."""
    first = next(iter(bundle.manifest.graphs))
    plans = []
    sizes = 0
    for name in names:
        source = _source(bundle, name, precision)
        sizes += bundle.file(source).stat().st_size
        file = plan_name(name, precision, target, choice, first=name == first)
        plans.append(_Plan(name, file, source, profiles[name]))
    check_space(bundle.folder, _SPACE_FACTOR * sizes)
    return plans


def _not_here(
    folder: Path,
    request: PlanRequest,
    names: list[str],
    missing: TaemiError,
    tick: Tick,
    say: Callable[[str], None],
) -> TaemiError:
    """Do what can be done without the library, and say where and how to do the rest."""
    again = request.command(folder)
    choice, precision = _choices(request)
    if choice == "rtx":
        return type(missing)(missing.asked, missing.found, f"{missing.fix}, then run: {again}")
    lines: list[str] = []
    with bundle_shadow(folder) as shadow:
        _add_sources(shadow, names, precision, tick, lines.append)
    for line in lines:
        say(line.replace(str(shadow), str(folder)))
    bundle = Bundle.open(folder)
    graphs = ", ".join(_source(bundle, name, precision) for name in names)
    ready = f"no plan was built; the {precision} graphs to build from are in {folder} ({graphs})"
    return type(missing)(
        missing.asked,
        f"{missing.found}; {ready}",
        f"{missing.fix}. Copy the bundle to the machine that will run it and run there: {again}",
    )


def _build_one(session: _Session, shadow: Path, plan: _Plan) -> str:
    """Build a plan into a shadow, list it with its sidecar there, and return what to say of it."""
    bundle = Bundle.open(shadow)
    built = build_plan(
        session.library,
        bundle.file(plan.source),
        plan.profiles,
        session.options,
        cache=session.cache,
        tick=session.tick,
    )
    _check_types(bundle, plan, built)
    _write(session, bundle, plan, built)
    profiles = ", ".join(profile.name for profile in plan.profiles)
    path = shadow / plan.name
    return (
        f"{plan.graph}: parse {built.parse_seconds:.1f} s, build {built.build_seconds:.1f} s, "
        f"{_size(path)}, {path} (profiles {profiles}; built, never executed)"
    )


def _check_types(bundle: Bundle, plan: _Plan, built: BuiltPlan) -> None:
    """Refuse a plan whose types are not those that the manifest promises of its graph."""
    entry = bundle.manifest.files[plan.source]
    spec = bundle.manifest.graphs[plan.graph]
    promised = {item.name: entry.inputs.get(item.name, item.dtype) for item in spec.inputs}
    asked = f"cannot use the plan of {plan.source}"
    again = "Export the bundle again: taemi-export onnx CKPT --force"
    if built.inputs != promised:
        raise ExportError(asked, f"it takes {built.inputs}, the manifest says {promised}", again)
    promised = {item.name: entry.outputs.get(item.name, item.dtype) for item in spec.outputs}
    if built.outputs != promised:
        raise ExportError(asked, f"it gives {built.outputs}, the manifest says {promised}", again)
    is_half = "float16" in built.layer_types
    if is_half != (entry.precision == "fp16"):
        types = ", ".join(f"{count} {name}" for name, count in built.layer_types.items())
        raise ExportError(asked, f"the manifest says {entry.precision}, its layers give {types}", again)


def _write(session: _Session, bundle: Bundle, plan: _Plan, built: BuiltPlan) -> None:
    path = bundle.folder / plan.name
    with atomic_file(path) as part:
        part.write_bytes(built.plan)
    source = bundle.manifest.files[plan.source]
    entry = describe_file(
        path,
        graph=plan.graph,
        precision=session.precision,
        inputs=dict(source.inputs),
        outputs=dict(source.outputs),
    )
    target = session.options.target
    sidecar = PlanSidecar(
        plan=plan.name,
        plan_sha256=entry.sha256,
        plan_bytes=entry.bytes,
        library="tensorrt_rtx" if session.library.choice == "rtx" else "tensorrt",
        library_version=session.library.version,
        graph=plan.graph,
        source=plan.source,
        source_sha256=source.sha256,
        precision=session.precision,
        layer_types=built.layer_types,
        target=target.name,
        compute_capability=_capability(target),
        compatibility=target.compatibility,
        profiles=plan.profiles,
        inputs=built.inputs,
        outputs=built.outputs,
        tf32=session.options.tf32,
        workspace_bytes=built.workspace_bytes,
        device=session.gpu.name if session.gpu else "",
        driver=session.gpu.driver if session.gpu else "",
        build_seconds=round(built.parse_seconds + built.build_seconds, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    beside = sidecar_name(plan.name)
    write_bytes(bundle.folder / beside, format_sidecar(sidecar).encode())
    list_file(bundle.folder, plan.name, entry)
    list_file(bundle.folder, beside)


def _capability(target: Target) -> str:
    major, minor = target.capability or (0, 0)
    return f"{major}.{minor}"
