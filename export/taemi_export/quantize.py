"""int8 graphs for CPUs: made from a bundle's float32 graphs, judged, and added to it.

A graph that fails its gate stays float32, and that is said. What is left is judged by what it does to the
scores of the whole chain; when that fails, the bundle stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_export.bundle_update import bundle_shadow, check_space, list_file
from taemi_export.bundle_writer import describe_graph
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.integer import convert_to_integer
from taemi_export.product_cost import cheapest
from taemi_export.report import ChainResult, EngineResult, VerifyReport
from taemi_export.rules import check_file, check_model
from taemi_export.speed import Speed, compare_speed
from taemi_export.verify import store_parity, verify_bundle, with_chains
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

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

PRECISION = "int8"
_SHARES = (0.05, 0.15)
"""A graph beyond its gate is tried again with its cheapest products, up to these shares of all
multiplications, in float32: they cost little there, and each of them that is quantised adds an error."""
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


def parse_bits(given: str) -> int | None:
    """Read ``--weight-bits``.

    Returns:
        7 or 8; ``None`` for ``auto``.

    Raises:
        UsageError: It is something else.
    """
    known = {"auto": None, "7": 7, "8": 8}
    if given not in known:
        raise UsageError(
            f"cannot quantise with --weight-bits {given}",
            f"possible are {', '.join(known)}",
            "Give one of them",
        )
    return known[given]


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
        ParityError: No graph gains and holds its gate, or the scores of the whole chain change too much.
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
        report = _judge(
            shadow, {name: sources[name] for name in names if name not in left}, bits, left, tick, say
        )
        opened = _open(request.checkpoint)
        graphs = []
        for number, result in enumerate(report.engines):
            tick("time", number, len(report.engines))
            graphs.append(_measure(shadow, result, sources[result.graph], opened))
        store_parity(report)
    return Quantized(tuple(graphs), bits, left, report.chains[0])


def _open(checkpoint: Path | None) -> ExportSource | None:
    if checkpoint is None:
        return None
    from taemi.exportable import open_source

    return open_source(checkpoint)


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


def _convert(shadow: Path, graph: str, source: str, bits: int, share: float = 0.0) -> None:
    """Write a graph's int8 file into a shadow and list it there.

    Args:
        shadow: The shadow.
        graph: The graph.
        source: Its float32 file.
        bits: Bits of a weight.
        share: How much of the multiplications may stay in float32 for the sake of precision.
    """
    import onnx

    bundle = Bundle.open(shadow)
    manifest = bundle.manifest
    spec = manifest.graphs[graph]
    model = onnx.load(bundle.file(source))
    reason = f"cheapest {share:.0%} of the multiplications, for precision"
    keep = dict.fromkeys(cheapest(model, spec, share) if share else (), reason)
    made = convert_to_integer(model, bits=bits, keep=keep)
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
    sources: Mapping[str, str],
    bits: int,
    left: dict[str, str],
    tick: Tick,
    say: Callable[[str], None] | None,
) -> VerifyReport:
    """Return how the new graphs do; those beyond their gate are taken out of the shadow again."""
    reports: list[VerifyReport] = []
    for graph, source in sources.items():
        report = _judge_one(shadow, graph, tick)
        for share in _SHARES:
            if report.passed:
                break
            found = report.all_errors[0].found
            _convert(shadow, graph, source, bits, share)
            report = _judge_one(shadow, graph, tick)
            if report.passed and say is not None:
                say(f"{graph}: the cheapest {share:.0%} of its multiplications stay fp32, as {found}")
        if report.passed:
            reports.append(report)
        else:
            _leave(left, graph, report.all_errors[0].found, say)
            _drop(shadow, int8_file(graph))
    if not reports:
        raise ParityError(
            f"cannot quantise {shadow}",
            f"no graph gains and holds its gate. {next(iter(left.values()))}",
            "Run it in fp32; the bundle is as it was",
        )
    engines = tuple(result for report in reports for result in report.engines)
    report = with_chains(replace(reports[0], engines=engines), tick)
    _require_chain(report, [result.graph for result in engines])
    return report


def _judge_one(shadow: Path, graph: str, tick: Tick) -> VerifyReport:
    report = verify_bundle(
        shadow, options=EngineOptions(device="cpu"), progress=tick, only=[int8_file(graph)], chain=False
    )
    for error in report.all_errors:
        if not isinstance(error, ParityError):
            raise error
    return report


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


def _measure(shadow: Path, result: EngineResult, source: str, opened: ExportSource | None) -> QuantizedGraph:
    manifest = Bundle.open(shadow).manifest
    files = {"fp32": shadow / source, PRECISION: shadow / result.file}
    return QuantizedGraph(
        result.graph,
        result.file,
        manifest.files[result.file].bytes,
        manifest.files[source].bytes,
        result,
        compare_speed(manifest.graphs[result.graph], files, opened),
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
