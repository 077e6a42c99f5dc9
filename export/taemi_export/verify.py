"""Verification: does every engine of a bundle compute what PyTorch computed?

For each engine file its bytes are compared with the manifest, its weights with those that were exported
(float32 graphs), its outputs with PyTorch's on every reference case, and padded rows with the same rows
alone; int8 is judged by the scores of the whole chain besides. float32 and int8 graphs need neither torch
nor onnx for that, so that a bundle can be verified on the host that will serve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from taemi_export.chain_check import verify_chains
from taemi_export.comparison import Comparison, Job, Target
from taemi_export.facts import read_facts
from taemi_export.gates import Limit, tighten
from taemi_export.method import choose_method, open_evaluator
from taemi_export.onnx_file import OnnxFile, read_onnx
from taemi_export.reference import GraphReference, open_reference
from taemi_export.report import EngineResult, VerifyReport
from taemi_export.weights import changed_tensors
from taemi_runtime.atomic import write_text
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, TaemiError, UsageError, WriteError
from taemi_runtime.manifest import MANIFEST_NAME, REFERENCE_NAME, format_manifest, is_trained
from taemi_runtime.spec import GraphSpec

_AGAIN = "Export the bundle again: taemi-export onnx CKPT --force"


def verify_bundle(
    path: Path,
    engine: Path | None = None,
    options: EngineOptions | None = None,
    progress: Tick | None = None,
    limits: Sequence[Limit] = (),
    only: Sequence[str] | None = None,
    chain: bool = True,
) -> VerifyReport:
    """Compare a bundle's engines with PyTorch's reference outputs.

    Args:
        path: The bundle.
        engine: One engine file instead of all: in the bundle, or elsewhere when it says itself which
            graph it holds.
        options: Where the engines run.
        progress: Called with (engine, cases done, cases in all).
        limits: Gates that are tighter than the bundle's.
        only: Names of the engine files to verify; all when ``None``.
        chain: Whether precisions that are judged by the whole chain are.

    Returns:
        What was found. A wrong number, weight or byte is a result, not an exception.

    Raises:
        BundleError: The bundle or its reference cannot be read at all.
        EngineError: An engine cannot be run on this host.
        MissingExtraError: Half precision cannot be judged without torch and onnx.
        UsageError: A limit is looser than the bundle's.
    """
    bundle = Bundle.open(path)
    specs = tighten(bundle.manifest.graphs, limits)
    reference = open_reference(bundle.file(REFERENCE_NAME))
    targets = [item for item in _targets(bundle, engine) if only is None or item.name in only]
    tick = progress or _ignore
    options = options or EngineOptions()
    job = Job(bundle, reference, options, tick, specs)
    results = tuple(_verify_engine(job, target) for target in targets)
    chains = tuple(verify_chains(job, targets, results)) if chain else ()
    errors = () if engine is not None or only is not None else tuple(_damaged_files(bundle))
    return VerifyReport(path, reference.index.tools, results, errors, chains)


def with_chains(report: VerifyReport, progress: Tick | None = None) -> VerifyReport:
    """Return a report of single engines with what the whole chain gives, on the CPU.

    Args:
        report: From ``verify_bundle(..., chain=False)``; its engines are in the bundle.
        progress: Called with (chain, chains done, chains in all).
    """
    bundle = Bundle.open(report.bundle)
    reference = open_reference(bundle.file(REFERENCE_NAME))
    listed = {target.name: target for target in _targets(bundle, None)}
    targets = [listed[result.file] for result in report.engines]
    job = Job(
        bundle, reference, EngineOptions(device="cpu"), progress or _ignore, dict(bundle.manifest.graphs)
    )
    return replace(report, chains=tuple(verify_chains(job, targets, report.engines)))


def store_parity(report: VerifyReport) -> bool:
    """Write what was measured into the bundle's manifest, atomically; files outside are left out.

    An engine that nothing here runs keeps what another machine measured of it.

    Returns:
        Whether the manifest now says what the report says; ``False`` where it cannot be written.
    """
    manifest = Bundle.open(report.bundle).manifest
    unrun = {engine.file for engine in report.unrun}
    measured = {
        name: parity
        for name, parity in report.parities().items()
        if name in manifest.files and not (name in unrun and name in manifest.parity)
    }
    parity = {**manifest.parity, **measured}
    if parity == manifest.parity:
        return True
    try:
        write_text(report.bundle / MANIFEST_NAME, format_manifest(replace(manifest, parity=parity)))
    except WriteError:
        return False
    return True


def _ignore(step: str, done: int, total: int) -> None:
    pass


def _targets(bundle: Bundle, engine: Path | None) -> list[Target]:
    listed = [
        Target(name, bundle.folder / name, entry.graph, entry.precision or "fp32", True)
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
    return [Target(str(engine), engine, facts.graph.name, facts.precision, False)]


def _damaged_files(bundle: Bundle) -> list[TaemiError]:
    errors: list[TaemiError] = []
    for name, entry in bundle.manifest.files.items():
        if entry.graph is None:
            try:
                bundle.file(name)
            except BundleError as error:
                errors.append(error)
    return errors


def _verify_engine(job: Job, target: Target) -> EngineResult:
    bundle = job.bundle
    spec = bundle.manifest.graphs.get(target.graph)
    known = job.reference.index.graphs.get(target.graph)
    gate = job.specs[target.graph].gates.get(target.precision) if spec is not None else None
    trained = is_trained(bundle.manifest, target.graph)
    result = EngineResult(target.name, target.graph, target.precision, gate, trained)
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
    method = choose_method(target.path, target.precision, job.options)
    result = replace(result, method=method, weights=weights, errors=tuple(errors))
    if method == "not run":
        return result
    evaluator = open_evaluator(
        target.path,
        spec,
        method,
        job.options,
        {"precision": target.precision},
        _single(bundle, target) if method == "half-outputs" else None,
    )
    try:
        compared = Comparison(job, spec, gate, known, target, evaluator)
        outputs = compared.run()
    finally:
        evaluator.close()
    return replace(
        result,
        backend=evaluator.backend,
        device=evaluator.device,
        cases=compared.cases,
        refused=tuple(compared.refused),
        outputs=tuple(outputs),
        errors=(*errors, *compared.errors),
    )


def _single(bundle: Bundle, target: Target) -> Path | None:
    """Return the float32 file of a target's graph, checked."""
    for name, entry in bundle.engine_files(target.graph):
        if entry.precision == "fp32" and name.endswith(".onnx"):
            return bundle.file(name)
    return None


def _check_facts(target: Target, spec: GraphSpec, file: OnnxFile) -> list[TaemiError]:
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


def _check_weights(target: Target, known: GraphReference, file: OnnxFile) -> list[TaemiError]:
    changed = changed_tensors(known.weights, file)
    if not changed:
        return []
    more = f", and {len(changed) - 1} more differ" if len(changed) > 1 else ""
    return [
        BundleError(
            f"{target.name} does not hold the weights that were exported", f"{changed[0]}{more}", _AGAIN
        )
    ]
