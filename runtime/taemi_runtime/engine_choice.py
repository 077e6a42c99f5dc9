"""Which of a bundle's engine files runs a graph on this machine.

A bundle may hold one graph as plans for several GPUs and libraries and as ONNX graphs of several
precisions. Plans that this host can run come first, half precision before single, as that is what they
are built for; then ONNX graphs, the one with the tightest gate before the others, since nobody chose.
Whatever failed its parity gate comes last.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, DeviceError, EngineError, MissingExtraError, TaemiError
from taemi_runtime.host import cuda_driver, parse_device
from taemi_runtime.manifest import FileEntry
from taemi_runtime.plan_sidecar import read_sidecar

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
"""Names of precisions, the most exact first."""

PLANS = (".plan", ".engine", ".trt")
"""Suffixes of TensorRT plans."""

_PLAN_PRECISIONS = ("fp16", "fp32")
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


def candidates(bundle: Bundle, graph: str, options: EngineOptions) -> tuple[list[Candidate], dict[str, str]]:
    """Look for the engine files of a graph that this host can run.

    Args:
        bundle: The bundle.
        graph: The graph's name.
        options: How it would be opened.

    Returns:
        Those that it can run, the best first, and the others by name with the reason.

    Raises:
        BundleError: A plan that would do is damaged or its sidecar is.
    """
    found: list[Candidate] = []
    passed_over: dict[str, str] = {}
    files = bundle.engine_files(graph)
    for name, entry in sorted(files, key=lambda item: _rank(bundle, *item)):
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


def _rank(bundle: Bundle, name: str, entry: FileEntry) -> tuple[bool, bool, int, bool]:
    parity = bundle.manifest.parity.get(name)
    failed = parity is not None and not parity.passed
    plan = is_plan(name)
    order = _PLAN_PRECISIONS if plan else PRECISIONS
    place = order.index(entry.precision) if entry.precision in order else len(order)
    return failed, not plan, place, ".rtx." in name


def open_best(bundle: Bundle, graph: str, options: EngineOptions) -> Engine:
    """Open the best engine file of a graph; a plan that does not load gives way to the next, with a warning.

    Args:
        bundle: The bundle.
        graph: The graph's name.
        options: Device and threads.

    Raises:
        BundleError: No engine file of the graph runs here, or the one to open is damaged.
        TaemiError: The engine could not be opened; see ``Backend.open``.
    """
    found, passed_over = candidates(bundle, graph, options)
    if not found:
        listed = "; ".join(f"{name}: {why}" for name, why in passed_over.items()) or "it has none"
        raise BundleError(
            f"cannot run graph {graph!r} of {bundle.folder}",
            f"none of its engine files runs here ({listed})",
            "Export it again: taemi-export onnx CKPT --force",
        )
    spec = bundle.manifest.graphs[graph]
    for index, candidate in enumerate(found):
        path = bundle.file(candidate.name)
        try:
            return open_engine(path, spec, options, **candidate.facts)
        except _PASSED_OVER as error:
            if not is_plan(candidate.name) or index + 1 == len(found):
                raise
            _log.warning("%s gives way to %s: %s", path, found[index + 1].name, error)
    raise AssertionError("the last candidate returns or raises")


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
