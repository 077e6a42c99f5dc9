"""How one engine file is evaluated here: run as it is, with real rounding, or not at all.

ONNX Runtime's CPU provider has hardly a half-precision kernel: it computes in float32 between half nodes,
so that an overflow which every GPU would see never happens. Half precision is therefore judged on a CPU by
an evaluation in which the result of every node is really rounded. Of graphs of the published sizes, every
half tensor is an output of ONNX Runtime besides, in which any Inf or NaN fails.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import MissingExtraError
from taemi_runtime.host import package_versions, parse_device
from taemi_runtime.manifest import Method
from taemi_runtime.spec import Array, Arrays, GraphSpec

SMALL_BYTES = 128 * 10**6
"""Files up to this size (the fusion graph, small encoders) are evaluated op by op; larger ones are searched
for overflow besides. Half-precision encoders of the published sizes have 170 to 330 MB."""
HALF = "fp16"


@dataclass(frozen=True)
class Evaluator:
    """Something that computes a graph's outputs.

    Args:
        method: How.
        run: Inputs by name to outputs by name, both in the spec's types.
        backend: What computes, with its version.
        device: Where.
        limits: Largest length of each bounded axis.
        overflows: For ``half-outputs``: one call's inputs to what is not finite, a sentence each.
        close: Frees what it holds.
    """

    method: Method
    run: Callable[[Arrays], dict[str, Array]]
    backend: str
    device: str
    limits: dict[str, int]
    overflows: Callable[[Arrays], list[str]] | None = None
    close: Callable[[], None] = lambda: None


def choose_method(path: Path, precision: str, options: EngineOptions) -> Method:
    """Choose how an engine file is evaluated.

    Args:
        path: The file.
        precision: As built.
        options: Where engines run.

    Raises:
        UsageError: The device is none.
    """
    kind, _ = parse_device(options.device)
    if path.suffix.lower() != ".onnx":
        # An explicit device is asked for in earnest: what is missing there is an error, not a note.
        explicit = kind == "cuda" and bool(takers(path)) and not path.name.endswith(".rtx.plan")
        return "executed" if explicit or _usable(path, kind) else "not run"
    if precision != HALF or kind == "cuda" or (kind == "auto" and _usable(path, "cuda")):
        return "executed"
    return "rounded" if path.stat().st_size <= SMALL_BYTES else "half-outputs"


def _usable(path: Path, kind: str) -> bool:
    for name in takers(path):
        found = backend(name)
        if (kind == "auto" or kind in found.devices) and found.probe().usable:
            return not path.name.endswith(".rtx.plan")
    return False


def open_evaluator(
    path: Path,
    spec: GraphSpec,
    method: Method,
    options: EngineOptions,
    facts: dict[str, Any],
    single: Path | None = None,
) -> Evaluator:
    """Open an engine file for evaluation.

    Args:
        path: The file; its bytes have been checked.
        spec: The graph.
        method: What ``choose_method`` chose, but not ``not run``.
        options: Where engines run.
        facts: What the manifest says of the file, ``precision`` at least.
        single: The float32 graph that a half-precision one was made from.

    Raises:
        MissingExtraError: A package that the method needs is not installed.
        EngineError: The file cannot be run on this host.
    """
    if method != "executed":
        return _rounded(path, spec, method, options, single)
    engine = open_engine(path, spec, options, **facts)
    versions = " ".join(engine.info.versions.values())
    return Evaluator(
        method,
        engine.run,
        f"{engine.info.backend} {versions}".strip(),
        engine.info.device,
        engine.info.limits,
        None,
        engine.close,
    )


def _rounded(
    path: Path, spec: GraphSpec, method: Method, options: EngineOptions, single: Path | None
) -> Evaluator:
    _need(path, "onnx", "onnxruntime")
    import onnx

    from taemi_export.overflow import find_overflow
    from taemi_export.rounding import RoundedGraph

    graph = RoundedGraph(onnx.load(path), threads=options.threads)

    def run(inputs: Arrays) -> dict[str, Array]:
        spec.check(inputs)
        outputs = graph.run(inputs)
        return {item.name: outputs[item.name].astype(item.dtype, copy=False) for item in spec.outputs}

    def overflows(inputs: Arrays) -> list[str]:
        assert single is not None
        return [str(item) for item in find_overflow(onnx.load(path), onnx.load(single), [inputs])]

    version = package_versions(("onnxruntime", "onnxruntime-gpu"))
    limits = {symbol.name: symbol.maximum for symbol in spec.symbols if symbol.maximum is not None}
    search = overflows if method == "half-outputs" and single is not None else None
    name = " ".join(("rounded op by op, onnxruntime", *version.values()))
    return Evaluator(method, run, name, "cpu", limits, search)


def _need(path: Path, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"cannot judge {path.name} on a CPU",
                f"it is in half precision, which is rounded op by op here, and {package} is not installed",
                'Install it: pip install "taemi[export]". With a GPU: taemi-export verify --device cuda',
            )


def explain(method: Method) -> str:
    """Say in a few words what a method is worth."""
    return {
        "executed": "the engine itself ran",
        "rounded": "evaluated op by op, every half-precision result really rounded; the engine did not run",
        "half-outputs": "evaluated op by op with real rounding, and run with every half tensor as an output, "
        "none of which may be Inf or NaN; the engine did not run",
        "not run": "built, not run: no device here runs it; on one that does: taemi-export verify BUNDLE "
        "--device cuda",
    }[method]


def is_plan(path: Path) -> bool:
    """Whether a file is a plan, whose lengths are bounded by profiles."""
    return path.suffix.lower() == ".plan"
