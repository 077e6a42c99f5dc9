"""Running the whole chain: the fp32 graphs, and those of another precision, on the same rows."""

from __future__ import annotations

from dataclasses import replace

from taemi_export.chain import chain_sizes, compare_chains, encode_rows, score_rows
from taemi_export.comparison import Job, Target
from taemi_export.report import ChainResult, EngineResult, chain_error
from taemi_runtime.backends import open_engine
from taemi_runtime.engine import Engine
from taemi_runtime.errors import BundleError
from taemi_runtime.manifest import is_trained
from taemi_runtime.spec import Array, Arrays


def verify_chains(job: Job, targets: list[Target], results: tuple[EngineResult, ...]) -> list[ChainResult]:
    """Run the whole chain for every precision that has a gate for it and an intact engine here.

    Args:
        job: The verification.
        targets: The engine files.
        results: What was found for each of them alone.

    Raises:
        BundleError: A graph of the chain has no file that could stand in.
    """
    graphs = job.specs
    first = next(iter(graphs.values()))
    wanted = {
        target.precision
        for target, result in zip(targets, results, strict=True)
        if target.precision in first.chain_gates and target.listed and result.outputs
    }
    found: list[ChainResult] = []
    expected: dict[tuple[bool, ...], Array] | None = None
    for number, precision in enumerate(sorted(wanted)):
        job.tick(f"chain {precision}", number, len(wanted))
        if expected is None:
            expected, _ = _score_chain(job, "fp32")
        got, files = _score_chain(job, precision)
        chain = ChainResult(
            precision,
            tuple(files),
            first.chain_gates[precision],
            compare_chains(expected, got),
            chain_sizes(graphs),
            all(is_trained(job.bundle.manifest, name) for name in graphs),
        )
        error = chain_error(chain)
        found.append(replace(chain, errors=(error,) if error is not None else ()))
    return found


def _score_chain(job: Job, precision: str) -> tuple[dict[tuple[bool, ...], Array], list[str]]:
    """Return the scores of a precision's chain, and the files of that precision in it."""
    engines: dict[str, Engine] = {}
    files = []
    for graph in job.specs:
        listed = job.bundle.engine_files(graph)
        names = {entry.precision: name for name, entry in listed if name.endswith(".onnx")}
        name = names.get(precision, names.get("fp32"))
        if name is None:
            raise BundleError(
                f"cannot run the whole chain of {job.bundle.folder}",
                f"it has no ONNX file of graph {graph!r} in {precision} or fp32",
                "Export the bundle again: taemi-export onnx CKPT --force",
            )
        if names.get(precision) == name:
            files.append(name)
        spec = job.bundle.manifest.graphs[graph]
        entry = job.bundle.manifest.files[name]
        engines[graph] = open_engine(job.bundle.file(name), spec, job.options, precision=entry.precision)
    try:

        def run(graph: str, inputs: Arrays) -> dict[str, Array]:
            return engines[graph].run(inputs)

        rows = encode_rows(job.bundle.manifest.graphs, run)
        first = next(iter(job.bundle.manifest.graphs.values()))
        return dict(score_rows(first, rows, run)), files
    finally:
        for engine in engines.values():
            engine.close()
