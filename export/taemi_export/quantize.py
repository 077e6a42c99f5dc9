"""int8 graphs for CPUs: made from a bundle's float32 graphs, judged, and added to it.

A graph that fails its gate stays float32, and that is said. What is left is judged by what it does to the
scores of the whole chain; when that fails, the bundle stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taemi_export.bundle_update import bundle_shadow, check_space, list_file
from taemi_export.bundle_writer import describe_graph
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.integer import convert_to_integer
from taemi_export.report import ChainResult, EngineResult, VerifyReport
from taemi_export.rules import check_file, check_model
from taemi_export.speed import Speed, compare_speed
from taemi_export.verify import store_parity, verify_bundle
from taemi_runtime.atomic import atomic_file, write_text
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, ExportError, ParityError, UsageError
from taemi_runtime.host import package_versions
from taemi_runtime.manifest import (
    MANIFEST_NAME,
    Conversion,
    Manifest,
    format_manifest,
    is_trained,
)
from taemi_runtime.processor import has_dot_products

PRECISION = "int8"
# Weights take a quarter; scales, nodes and what stays in float32 take the rest.
_SPACE = 0.6


@dataclass(frozen=True)
class QuantizeRequest:
    """What to quantise.

    Args:
        graphs: Only these graphs; all when empty.
        force: Whether int8 graphs that are there are replaced.
        bits: Bits of a weight, 7 or 8; ``None``: 8 where this processor has integer dot products, else 7.
        checkpoint: The checkpoint that the bundle was made from, to time PyTorch beside the engines.
    """

    graphs: tuple[str, ...] = ()
    force: bool = False
    bits: int | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class QuantizedGraph:
    """One graph that is now in the bundle in int8.

    Args:
        name: The graph.
        file: Its file.
        bytes: The file's size.
        source_bytes: The size of the float32 file.
        result: How far its outputs are from PyTorch's.
        speed: How long a call takes.
    """

    name: str
    file: str
    bytes: int
    source_bytes: int
    result: EngineResult
    speed: Speed


@dataclass(frozen=True)
class Quantized:
    """What was done.

    Args:
        graphs: The graphs that are in int8.
        bits: Bits of a weight.
        left: Graph -> why it stays float32.
        chain: What they do to the scores of the whole chain.
    """

    graphs: tuple[QuantizedGraph, ...]
    bits: int
    left: dict[str, str]
    chain: ChainResult


def parse_bits(text: str) -> int | None:
    """Read ``--weight-bits``.

    Returns:
        7 or 8; ``None`` for ``auto``.

    Raises:
        UsageError: It is something else.
    """
    known = {"auto": None, "7": 7, "8": 8}
    if text not in known:
        raise UsageError(
            f"cannot quantise with --weight-bits {text}",
            f"possible are {', '.join(known)}",
            "Give one of them",
        )
    return known[text]


def int8_file(graph: str) -> str:
    """Return the name of a graph's int8 file in a bundle."""
    return f"{graph}.{PRECISION}.onnx"


def quantize_bundle(
    folder: Path,
    request: QuantizeRequest | None = None,
    *,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> Quantized:
    """Quantise graphs of a bundle and add them to it: all of them or, on any error, none.

    Args:
        folder: The bundle.
        request: What to quantise.
        tick: Called with (step, done, total).
        say: Called with one line for each graph that stays float32.

    Raises:
        UsageError: There is no such graph, or an int8 file is there and ``force`` was not given.
        BundleError: The bundle is damaged or has no float32 graph.
        ExportError: No graph can be quantised.
        ParityError: No graph holds its gate, or the scores of the whole chain change too much.
        WriteError: The disk is full, or the bundle cannot be written to.
    """
    request = request or QuantizeRequest()
    tick = tick or _ignore
    bundle = Bundle.open(folder)
    names = _chosen(bundle, request)
    sources = {name: _source(bundle, name) for name in names}
    check_space(folder, int(_SPACE * sum(bundle.manifest.files[file].bytes for file in sources.values())))
    bits = request.bits or (8 if has_dot_products() else 7)
    left: dict[str, str] = {}
    with bundle_shadow(folder) as shadow:
        for number, (name, source) in enumerate(sources.items()):
            tick("quantise", number, len(sources))
            try:
                _convert(shadow, name, source, bits)
            except ExportError as error:
                _leave(left, name, error.found, say)
        report = _judge(shadow, [name for name in names if name not in left], left, tick, say)
        graphs = []
        for number, result in enumerate(report.engines):
            tick("time", number, len(report.engines))
            graphs.append(_measure(shadow, result, sources[result.graph], request))
        store_parity(report)
    return Quantized(tuple(graphs), bits, left, report.chains[0])


def _ignore(step: str, done: int, total: int) -> None:
    pass


def _chosen(bundle: Bundle, request: QuantizeRequest) -> list[str]:
    asked = f"cannot quantise {bundle.folder}"
    known = bundle.manifest.graphs
    for name in request.graphs:
        if name not in known:
            raise UsageError(
                asked, f"it has no graph {name!r}, it has {', '.join(known)}", "Name one of these"
            )
    names = list(dict.fromkeys(request.graphs)) or list(known)
    there = [int8_file(name) for name in names if int8_file(name) in bundle.manifest.files]
    if there and not request.force:
        raise UsageError(asked, f"{', '.join(there)} is there already", "Add --force to make it anew")
    first = next(iter(known.values()))
    if PRECISION not in first.chain_gates:
        raise BundleError(
            asked,
            f"graph {first.name!r} has no gate for the whole chain in {PRECISION}, it has "
            f"{', '.join(first.chain_gates) or 'none'}",
            "Export it again: taemi-export onnx CKPT --force",
        )
    return names


def _source(bundle: Bundle, graph: str) -> str:
    for name, entry in bundle.engine_files(graph):
        if entry.precision == "fp32" and name.endswith(".onnx"):
            bundle.file(name)
            return name
    raise BundleError(
        f"cannot quantise graph {graph!r} of {bundle.folder}",
        f"the bundle has no float32 ONNX file of it, it has {', '.join(bundle.manifest.files)}",
        "Export it again: taemi-export onnx CKPT --force",
    )


def _leave(left: dict[str, str], name: str, why: str, say: Callable[[str], None] | None) -> None:
    left[name] = why
    if say is not None:
        say(f"{name} stays fp32: {why}")


def _convert(shadow: Path, graph: str, source: str, bits: int) -> None:
    """Write a graph's int8 file into a shadow and list it there."""
    import onnx

    bundle = Bundle.open(shadow)
    manifest = bundle.manifest
    spec = manifest.graphs[graph]
    made = convert_to_integer(onnx.load(bundle.file(source)), bits=bits)
    finish_model(made.model, GraphFacts(manifest.family, spec, PRECISION, is_trained(manifest, graph)))
    check_model(made.model, spec)
    name = int8_file(graph)
    with atomic_file(shadow / name) as part:
        part.write_bytes(made.model.SerializeToString())
        check_file(part, spec)
    list_file(shadow, name, describe_graph(shadow / name, graph, PRECISION))
    conversion = Conversion(
        source,
        manifest.files[source].sha256,
        " ".join(["taemi_export.quantize", *package_versions(("taemi",)).values()]),
        made.counts,
        made.kept,
        bits,
    )
    listed = Bundle.open(shadow).manifest
    _write(shadow, replace(listed, conversions={**listed.conversions, name: conversion}))


def _judge(
    shadow: Path,
    names: Sequence[str],
    left: dict[str, str],
    tick: Tick,
    say: Callable[[str], None] | None,
) -> VerifyReport:
    """Return how the new graphs do; those beyond their gate are taken out of the shadow again."""
    names = list(names)
    errors: list[ParityError] = []
    while names:
        files = [int8_file(name) for name in names]
        report = verify_bundle(shadow, options=EngineOptions(device="cpu"), progress=tick, only=files)
        for result in report.engines:
            for error in result.errors:
                if not isinstance(error, ParityError):
                    raise error
                errors.append(error)
                if result.graph in names:
                    names.remove(result.graph)
                    _leave(left, result.graph, error.found, say)
                    _drop(shadow, result.file)
        if len(names) == len(files):
            _require_chain(report, names)
            return report
    if errors:
        raise ParityError(
            f"cannot quantise {shadow}",
            f"no graph holds its gate. {errors[0].found}",
            "Run it in fp32; the bundle is as it was",
        )
    raise ExportError(
        f"cannot quantise {shadow}", f"no graph gains. {next(iter(left.values()))}", "Run it in fp32"
    )


def _require_chain(report: VerifyReport, names: Sequence[str]) -> None:
    for chain in report.chains:
        for error in chain.errors:
            fewer = " or ".join(f"--graph {name}" for name in names) if len(names) > 1 else ""
            raise ParityError(
                error.asked,
                f"{error.found}. Worst is {_worst(chain)}",
                f"The bundle is as it was. Quantise less: {fewer}" if fewer else "Run the graph in fp32",
            )


def _worst(chain: ChainResult) -> str:
    flags = "".join("1" if flag else "0" for flag in chain.worst.present) or "all rows"
    return f"presence {flags} with mean {chain.worst.mean_abs:.2e} over {chain.worst.rows} rows"


def _measure(shadow: Path, result: EngineResult, source: str, request: QuantizeRequest) -> QuantizedGraph:
    manifest = Bundle.open(shadow).manifest
    files = {"fp32": shadow / source, PRECISION: shadow / result.file}
    return QuantizedGraph(
        result.graph,
        result.file,
        manifest.files[result.file].bytes,
        manifest.files[source].bytes,
        result,
        compare_speed(manifest.graphs[result.graph], files, request.checkpoint),
    )


def _drop(shadow: Path, name: str) -> None:
    manifest = Bundle.open(shadow).manifest
    _write(
        shadow,
        replace(
            manifest,
            files={key: entry for key, entry in manifest.files.items() if key != name},
            parity={key: entry for key, entry in manifest.parity.items() if key != name},
            conversions={key: entry for key, entry in manifest.conversions.items() if key != name},
        ),
    )
    (shadow / name).unlink()


def _write(shadow: Path, manifest: Manifest) -> None:
    write_text(shadow / MANIFEST_NAME, format_manifest(manifest))
