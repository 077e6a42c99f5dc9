"""Verification: does every engine of a bundle compute what PyTorch computed?

Three things are compared for each engine file: its bytes with the manifest, its weights with those
that were exported (float32 graphs), and its outputs with PyTorch's on every reference case. Nothing
here needs torch or onnx, so that a bundle can be verified on the host that will serve it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from taemi_export.compare import Difference, compare_output
from taemi_export.facts import read_facts
from taemi_export.onnx_file import OnnxFile, read_onnx
from taemi_export.reference import GraphReference, Reference, checked_inputs, open_reference
from taemi_export.report import EngineResult, OutputResult, VerifyReport, parity_error, worst_of
from taemi_export.weights import changed_tensors
from taemi_runtime.backends import open_engine
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, TaemiError, UsageError
from taemi_runtime.manifest import REFERENCE_NAME
from taemi_runtime.spec import Gate, GraphSpec

_AGAIN = "Export the bundle again: taemi-export onnx CKPT --force"


def verify_bundle(
    path: Path,
    engine: Path | None = None,
    options: EngineOptions | None = None,
    progress: Tick | None = None,
) -> VerifyReport:
    """Compare a bundle's engines with PyTorch's reference outputs.

    Args:
        path: The bundle.
        engine: One engine file instead of all: in the bundle, or elsewhere when it says itself which
            graph it holds.
        options: Where the engines run.
        progress: Called with (engine, cases done, cases in all).

    Returns:
        What was found. A wrong number, weight or byte is a result, not an exception.

    Raises:
        BundleError: The bundle or its reference cannot be read at all.
        EngineError: An engine cannot be run on this host.
    """
    bundle = Bundle.open(path)
    reference = open_reference(bundle.file(REFERENCE_NAME))
    targets = _targets(bundle, engine)
    tick = progress or _ignore
    options = options or EngineOptions()
    results = tuple(_verify_engine(bundle, reference, target, options, tick) for target in targets)
    errors = () if engine is not None else tuple(_damaged_files(bundle))
    return VerifyReport(path, reference.index.tools, results, errors)


def _ignore(step: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class _Target:
    name: str
    path: Path
    graph: str
    precision: str
    listed: bool


def _targets(bundle: Bundle, engine: Path | None) -> list[_Target]:
    listed = [
        _Target(name, bundle.folder / name, entry.graph, entry.precision or "fp32", True)
        for name, entry in bundle.manifest.files.items()
        if entry.graph is not None
    ]
    if engine is None:
        if not listed:
            raise BundleError(f"cannot verify {bundle.folder}", "its manifest lists no engine", _AGAIN)
        return listed
    for path in (engine, bundle.folder / engine):
        if path.exists():
            for target in listed:
                if target.path.exists() and target.path.samefile(path):
                    return [target]
    if engine.suffix != ".onnx":
        names = ", ".join(target.name for target in listed)
        raise UsageError(
            f"cannot verify {engine}",
            f"it is no engine of {bundle.folder}, which has {names}",
            "Name one of these, or an ONNX file that taemi-export wrote",
        )
    facts = read_facts(read_onnx(engine), str(engine))
    if facts.graph.name not in bundle.manifest.graphs:
        raise BundleError(
            f"cannot verify {engine} against {bundle.folder}",
            f"it holds graph {facts.graph.name!r}, the bundle has {sorted(bundle.manifest.graphs)}",
            "Name the bundle that it was exported with",
        )
    return [_Target(str(engine), engine, facts.graph.name, facts.precision, False)]


def _damaged_files(bundle: Bundle) -> list[TaemiError]:
    errors: list[TaemiError] = []
    for name, entry in bundle.manifest.files.items():
        if entry.graph is None:
            try:
                bundle.file(name)
            except BundleError as error:
                errors.append(error)
    return errors


def _verify_engine(
    bundle: Bundle, reference: Reference, target: _Target, options: EngineOptions, tick: Tick
) -> EngineResult:
    spec = bundle.manifest.graphs.get(target.graph)
    known = reference.index.graphs.get(target.graph)
    gate = spec.gates.get(target.precision) if spec is not None else None
    result = EngineResult(target.name, target.graph, target.precision, gate)
    asked = f"cannot verify {target.name}"
    if spec is None or known is None or gate is None:
        missing = "graph" if spec is None else "reference" if known is None else "parity gate"
        of = f"precision {target.precision!r}" if missing == "parity gate" else f"graph {target.graph!r}"
        error = BundleError(asked, f"the bundle has no {missing} for {of}", _AGAIN)
        return replace(result, errors=(error,))
    if target.listed:
        try:
            bundle.file(target.name)
        except BundleError as error:
            # Damaged bytes are never handed to a library.
            return replace(result, errors=(error,))
    errors: list[TaemiError] = []
    weights = 0
    if target.path.suffix == ".onnx":
        file = read_onnx(target.path)
        errors += _check_facts(target, spec, file)
        if target.precision == "fp32":
            weights = len(known.weights.sha256)
            errors += _check_weights(target, known, file)
    with open_engine(target.path, spec, options, precision=target.precision) as engine:
        outputs = _compare(engine, spec, gate, reference, known, target, tick)
        backend = f"{engine.info.backend} {' '.join(engine.info.versions.values())}".strip()
        device = engine.info.device
    errors += [
        parity_error(target.name, spec, target.precision, gate, item) for item in outputs if not item.passed
    ]
    return replace(
        result,
        backend=backend,
        device=device,
        cases=len(known.cases),
        outputs=tuple(outputs),
        weights=weights,
        errors=tuple(errors),
    )


def _check_facts(target: _Target, spec: GraphSpec, file: OnnxFile) -> list[TaemiError]:
    asked = f"cannot trust {target.name}"
    if file.external:
        return [BundleError(asked, "some of its weights lie in another file, which no digest covers", _AGAIN)]
    try:
        facts = read_facts(file, target.name)
    except BundleError as error:
        return [error]
    if (facts.graph, facts.precision) != (spec, target.precision):
        return [
            BundleError(
                asked,
                f"it says it is graph {facts.graph.name!r} in {facts.precision}, the manifest's graph "
                f"{spec.name!r} in {target.precision} has another description",
                _AGAIN,
            )
        ]
    return []


def _check_weights(target: _Target, known: GraphReference, file: OnnxFile) -> list[TaemiError]:
    changed = changed_tensors(known.weights, file)
    if not changed:
        return []
    more = f", and {len(changed) - 1} more differ" if len(changed) > 1 else ""
    return [
        BundleError(
            f"{target.name} does not hold the weights that were exported", f"{changed[0]}{more}", _AGAIN
        )
    ]


def _compare(
    engine: Engine,
    spec: GraphSpec,
    gate: Gate,
    reference: Reference,
    known: GraphReference,
    target: _Target,
    tick: Tick,
) -> list[OutputResult]:
    differences: dict[str, list[Difference]] = {item.name: [] for item in spec.outputs}
    for number, case in enumerate(known.cases):
        tick(f"verify {target.name}", number, len(known.cases))
        inputs = checked_inputs(spec, case, reference.index.tools)
        expected = reference.outputs(spec, case)
        got = engine.run(inputs)
        for item in spec.outputs:
            differences[item.name].append(
                compare_output(spec, item, case, inputs, got[item.name], expected[item.name])
            )
    tick(f"verify {target.name}", len(known.cases), len(known.cases))
    return [worst_of(item.name, differences[item.name], gate) for item in spec.outputs]
