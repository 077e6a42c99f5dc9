"""Which of a bundle's engine files runs a graph on this machine.

A bundle may hold one graph as plans for several GPUs and libraries and as ONNX graphs of several
precisions. Plans that this host can run come first, half precision before single, as that is what they
are built for; then ONNX graphs, the one with the tightest gate before the others, since nobody chose.
Whatever failed its parity gate comes last.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, DeviceError, EngineError, MissingExtraError, TaemiError
from taemi_runtime.host import cuda_driver, parse_device
from taemi_runtime.manifest import FileEntry, Manifest
from taemi_runtime.plan_sidecar import read_sidecar
from taemi_runtime.processor import has_dot_products
from taemi_runtime.spec import GraphSpec

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
"""Names of precisions, the most exact first."""

PLANS = (".plan", ".engine", ".trt")
"""Suffixes of TensorRT plans."""

_PLAN_PRECISIONS = ("fp16", "fp32")
_INTEGER = "int8"
_WHOLE_BITS = 8
# What says that another file may still do.
_PASSED_OVER = (DeviceError, EngineError, MissingExtraError)


@dataclass(frozen=True)
class Candidate:
    """An engine file that could run a graph.

    Args:
        name: Its name in the bundle.
        facts: What the manifest says about it, for ``Backend.open``.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)


def facts_of(bundle: Bundle, name: str, entry: FileEntry) -> dict[str, Any]:
    """Return what a backend is told about a listed file.

    Args:
        bundle: The bundle.
        name: The file's name in the manifest.
        entry: Its entry.
    """
    facts: dict[str, Any] = {"precision": entry.precision or "fp32"}
    if is_plan(name):
        # Read when it is needed: it means to compare the plan's digest, and not every host gets so far.
        facts["read_sidecar"] = functools.partial(read_sidecar, bundle, name)
    return facts


def is_plan(name: str) -> bool:
    """Return whether a file is a TensorRT plan, by its name."""
    return Path(name).suffix.lower() in PLANS


def preferred_precision(bundle: Bundle, graph: str, precision: str) -> str | None:
    """Return the precision that a model's other graphs run in, because of the engine that was named.

    An engine for integers is named for speed on a CPU: the other graphs then are such, too.

    Args:
        bundle: The bundle.
        graph: The graph whose engine was named.
        precision: That engine's precision.
    """
    if precision != _INTEGER:
        return None
    beside = [
        name
        for other in bundle.manifest.graphs
        if other != graph
        for name, entry in bundle.engine_files(other)
        if entry.precision == precision and takers(Path(name))
    ]
    if beside:
        _log.info("%s runs beside it: %s", precision, ", ".join(beside))
    return precision


def open_file(
    bundle: Bundle, name: str, path: Path, spec: GraphSpec, options: EngineOptions, facts: dict[str, Any]
) -> Engine:
    """Open an engine file of which the precision is known.

    Args:
        bundle: The bundle that it belongs to.
        name: Its name in the manifest.
        path: The file.
        spec: The graph.
        options: Device and threads.
        facts: What is known of it; see ``Backend.open``.

    Raises:
        TaemiError: It could not be opened; see ``Backend.open``.
    """
    if facts["precision"] != _INTEGER:
        return open_engine(path, spec, options, **facts)
    _warn_about_sums(bundle.manifest, name)
    # What a GPU has no integer kernel for would come back to the CPU value by value.
    where = replace(options, device="cpu") if options.device == "auto" else options
    return open_engine(path, spec, where, **facts)


def _warn_about_sums(manifest: Manifest, name: str) -> None:
    conversion = manifest.conversions.get(name)
    if conversion is not None and conversion.weight_bits == _WHOLE_BITS and not has_dot_products():
        _log.warning(
            "%s has weights of 8 bits, and this processor has no integer dot products (VNNI): sums may "
            "saturate. Make one for every processor: taemi-export quantize BUNDLE --weight-bits 7 --force",
            name,
        )


def candidates(
    bundle: Bundle, graph: str, options: EngineOptions, prefer: str | None = None
) -> tuple[list[Candidate], dict[str, str]]:
    """Look for the engine files of a graph that this host can run.

    Args:
        bundle: The bundle.
        graph: The graph's name.
        options: How it would be opened.
        prefer: The precision that comes first, where there is one.

    Returns:
        Those that it can run, the best first, and the others by name with the reason.

    Raises:
        BundleError: A plan that would do is damaged or its sidecar is.
    """
    found: list[Candidate] = []
    passed_over: dict[str, str] = {}
    files = bundle.engine_files(graph)
    for name, entry in sorted(files, key=lambda item: _rank(bundle, item[0], item[1], prefer)):
        facts = facts_of(bundle, name, entry)
        why = _why_not(bundle.folder / name, options, facts)
        if why:
            passed_over[name] = why
        else:
            found.append(Candidate(name, facts))
    return found, passed_over


def _why_not(path: Path, options: EngineOptions, facts: dict[str, Any]) -> str:
    names = takers(path)
    if not names:
        return "no backend takes it"
    kinds = [backend(name) for name in names]
    if all("cpu" not in kind.devices for kind in kinds):
        # Said without reading anything.
        if parse_device(options.device)[0] == "cpu":
            return "it runs on CUDA devices only"
        if why := cuda_driver().why:
            return why
    reasons = []
    for kind in kinds:
        try:
            kind.check_host(path, options, **facts)
        except _PASSED_OVER as error:
            reasons.append(error.found)
        else:
            return ""
    return reasons[0]


def _rank(
    bundle: Bundle, name: str, entry: FileEntry, prefer: str | None
) -> tuple[bool, bool, bool, int, bool]:
    parity = bundle.manifest.parity.get(name)
    failed = parity is not None and not parity.passed
    plan = is_plan(name)
    order = _PLAN_PRECISIONS if plan else PRECISIONS
    place = order.index(entry.precision) if entry.precision in order else len(order)
    return failed, entry.precision != prefer, not plan, place, ".rtx." in name


def open_best(bundle: Bundle, graph: str, options: EngineOptions, prefer: str | None = None) -> Engine:
    """Open the best engine file of a graph; a plan that does not load gives way to the next, with a warning.

    Args:
        bundle: The bundle.
        graph: The graph's name.
        options: Device and threads.
        prefer: The precision that comes first, where there is one.

    Raises:
        BundleError: No engine file of the graph runs here, or the one to open is damaged.
        TaemiError: The engine could not be opened; see ``Backend.open``.
    """
    found = _require_candidates(bundle, graph, options, prefer)
    spec = bundle.manifest.graphs[graph]
    for index, candidate in enumerate(found):
        path = bundle.file(candidate.name)
        try:
            return open_file(bundle, candidate.name, path, spec, options, candidate.facts)
        except _PASSED_OVER as error:
            if not is_plan(candidate.name) or index + 1 == len(found):
                raise
            _log.warning("%s gives way to %s: %s", path, found[index + 1].name, error)
    raise AssertionError("the last candidate returns or raises")


def best_file(bundle: Bundle, graph: str, options: EngineOptions, prefer: str | None = None) -> str:
    """Return the name of the file that [open_best][] opens first; arguments and errors are the same."""
    return _require_candidates(bundle, graph, options, prefer)[0].name


def _require_candidates(
    bundle: Bundle, graph: str, options: EngineOptions, prefer: str | None
) -> list[Candidate]:
    found, passed_over = candidates(bundle, graph, options, prefer)
    if not found:
        listed = "; ".join(f"{name}: {why}" for name, why in passed_over.items()) or "it has none"
        raise BundleError(
            f"cannot run graph {graph!r} of {bundle.folder}",
            f"none of its engine files runs here ({listed})",
            "Export it again: taemi-export onnx CKPT --force",
        )
    return found


def with_a_way_out(error: TaemiError, bundle: Bundle, graph: str, options: EngineOptions) -> TaemiError:
    """Add to an error the engine of the same graph that does run here.

    Args:
        error: Why the named engine does not.
        bundle: Its bundle.
        graph: The graph.
        options: What was asked for.
    """
    anywhere = EngineOptions(threads=options.threads)
    found, _ = candidates(bundle, graph, anywhere)
    if not found:
        return error
    explicit = parse_device(options.device)[0] == "cuda" and not is_plan(found[0].name)
    device = "--device cpu " if explicit else ""
    way = f"The same graph runs here with {device}--engine {bundle.folder / found[0].name}"
    return type(error)(error.asked, error.found, f"{error.fix}. {way}" if error.fix else way)
