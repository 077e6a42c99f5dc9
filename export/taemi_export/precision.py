"""Half precision for a bundle: the conversion, and the file it becomes once it has passed.

[convert_to_half][] is pure: the same graph and rules give the same bytes. [add_half][] converts a graph of
a bundle, judges it with real rounding, mends it where it fails, and lists it in the manifest with what
was done to which node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_export.chain import find_links
from taemi_export.conversion import HalfGraph, convert_to_half
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.keep_list import DEFAULT_KEEP, KeepList
from taemi_export.mending import DEFAULT_GATE, PRECISION, Call, Mended, convert_and_mend
from taemi_export.onnx_file import read_onnx
from taemi_export.reference import checked_inputs, open_reference
from taemi_export.report import EngineResult
from taemi_export.rules import check_file, check_model
from taemi_runtime.atomic import atomic_file, write_bytes
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.errors import BundleError
from taemi_runtime.host import package_versions
from taemi_runtime.manifest import (
    MANIFEST_NAME,
    REFERENCE_NAME,
    Conversion,
    Manifest,
    Parity,
    describe_file,
    format_manifest,
    is_trained,
)
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_KEEP", "HalfGraph", "KeepList", "add_half", "convert_to_half", "half_file"]


def half_file(graph: str) -> str:
    """Return the name of a graph's half-precision file in a bundle."""
    return f"{graph}.{PRECISION}.onnx"


def add_half(
    folder: Path,
    graph: str,
    *,
    keep: KeepList = DEFAULT_KEEP,
    half_inputs: bool = True,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Convert a graph of a bundle to half precision and add the file to the bundle.

    The file is written first and the manifest last, both by a rename: a process that is killed in between
    leaves the bundle as it was, with a file that its manifest does not list.

    Args:
        folder: The bundle.
        graph: The graph.
        keep: What stays in float32.
        half_inputs: Whether features pass from graph to graph in half precision: those that this graph takes,
            and its outputs that the bundle's first graph takes so.
        tick: Called with (step, done, total).
        say: Called with one line for each block that had to go back to float32.

    Returns:
        The file's name.

    Raises:
        BundleError: The bundle is damaged or has no float32 graph of that name.
        ExportError: The graph cannot be converted, or the result breaks a rule.
        ParityError: It does not compute what PyTorch computes, whatever is left in float32.
        WriteError: The disk is full, or the bundle cannot be written to.
    """
    import onnx

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    source = _source(bundle, graph)
    spec = manifest.graphs[graph]
    model = onnx.load(bundle.file(source))
    mended = convert_and_mend(
        model,
        spec,
        _calls(bundle, spec),
        keep=keep,
        half_inputs=half_inputs,
        half_outputs=_passed_on(manifest, graph) if half_inputs else (),
        tick=tick,
    )
    del model
    half = mended.graph
    finish_model(half.model, GraphFacts(manifest.family, spec, PRECISION, is_trained(manifest, graph)))
    check_model(half.model, spec, half.inputs | half.outputs)
    name = half_file(graph)
    _write(folder, name, half.model, spec)
    for mend in mended.mends:
        if say is not None:
            say(f"{name}: {mend}")
    conversion = Conversion(
        source,
        manifest.files[source].sha256,
        " ".join(["taemi_export.precision", *package_versions(("taemi",)).values()]),
        half.counts,
        half.kept,
    )
    _list(folder, name, spec, half, conversion, _parity(manifest, spec, name, mended))
    return name


def _passed_on(manifest: Manifest, graph: str) -> frozenset[str]:
    """Return the outputs of a graph that the first graph takes in half precision.

    It would round them itself; so they are half the bytes, and need not leave a GPU to be rounded.
    """
    return frozenset(
        link.output.name for link in find_links(manifest.graphs) if link.graph == graph and link.input.half
    )


def _source(bundle: Bundle, graph: str) -> str:
    for name, entry in bundle.engine_files(graph):
        if entry.precision == "fp32" and name.endswith(".onnx"):
            return name
    raise BundleError(
        f"cannot convert graph {graph!r} of {bundle.folder}",
        f"the bundle has no float32 ONNX file of it, it has {', '.join(bundle.manifest.files)}",
        "Export it again: taemi-export onnx CKPT --force",
    )


def _calls(bundle: Bundle, spec: GraphSpec) -> list[Call]:
    reference = open_reference(bundle.file(REFERENCE_NAME))
    known = reference.index.graphs.get(spec.name)
    if known is None:
        raise BundleError(
            f"cannot judge graph {spec.name!r} of {bundle.folder} in half precision",
            f"{REFERENCE_NAME} has outputs of {', '.join(reference.index.graphs)} only",
            "Export it again: taemi-export onnx CKPT --force",
        )
    return [
        Call(case, checked_inputs(spec, case, reference.index.tools), reference.outputs(spec, case))
        for case in known.cases
    ]


def _write(folder: Path, name: str, model: onnx.ModelProto, spec: GraphSpec) -> None:
    content = model.SerializeToString()
    target = folder / name
    with atomic_file(target) as part:
        part.write_bytes(content)
        check_file(part, spec)
        manifest = Bundle.open(folder).manifest
        if name in manifest.files and (not target.is_file() or target.read_bytes() != content):
            # The manifest must never list other bytes than those that are there.
            write_bytes(folder / MANIFEST_NAME, format_manifest(_without(manifest, name)).encode())


def _without(manifest: Manifest, name: str) -> Manifest:
    return replace(
        manifest,
        files={key: entry for key, entry in manifest.files.items() if key != name},
        parity={key: value for key, value in manifest.parity.items() if key != name},
        conversions={key: value for key, value in manifest.conversions.items() if key != name},
    )


def _list(
    folder: Path, name: str, spec: GraphSpec, half: HalfGraph, conversion: Conversion, parity: Parity
) -> None:
    entry = replace(
        describe_file(
            folder / name, graph=spec.name, precision=PRECISION, inputs=half.inputs, outputs=half.outputs
        ),
        operators=read_onnx(folder / name).operators,
    )
    manifest = Bundle.open(folder).manifest
    listed = replace(
        manifest,
        files={**manifest.files, name: entry},
        parity={**manifest.parity, name: parity},
        conversions={**manifest.conversions, name: conversion},
    )
    write_bytes(folder / MANIFEST_NAME, format_manifest(listed).encode())


def _parity(manifest: Manifest, spec: GraphSpec, name: str, mended: Mended) -> Parity:
    version = package_versions(("onnxruntime",)).get("onnxruntime", "")
    return EngineResult(
        name,
        spec.name,
        PRECISION,
        spec.gates.get(PRECISION, DEFAULT_GATE),
        is_trained(manifest, spec.name),
        "rounded",
        f"op by op in onnxruntime {version}".strip(),
        "cpu",
        mended.cases,
        outputs=mended.outputs,
    ).parity()
