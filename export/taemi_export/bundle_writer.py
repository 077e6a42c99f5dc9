"""Write the files of a bundle into a folder, one after another."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from taemi_export.exact_rewrites import rewrite_exactly
from taemi_export.facts import GraphFacts, finish_model
from taemi_export.onnx_file import read_onnx
from taemi_export.onnx_graph import trace_graph
from taemi_export.reference import (
    GraphReference,
    ReferenceIndex,
    compute_reference,
    format_reference,
    output_budget,
)
from taemi_export.report import VerifyReport
from taemi_export.rules import check_file, check_model
from taemi_export.weights import WeightRecord, check_weight, match_weights
from taemi_runtime.console import Tick
from taemi_runtime.errors import ExportError
from taemi_runtime.host import package_versions
from taemi_runtime.manifest import (
    MANIFEST_NAME,
    REFERENCE_NAME,
    FileEntry,
    Manifest,
    Source,
    describe_file,
    file_sha256,
    format_manifest,
)
from taemi_runtime.spec import Array

if TYPE_CHECKING:
    import torch

    from taemi.exportable import ExportGraph, ExportSource

# Whose versions decide what an export looks like; the ones that are not installed are left out.
_TOOLS = ("taemi", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
_REFERENCE_TOOLS = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class WrittenGraph:
    """One graph in the bundle.

    Args:
        name: The graph.
        file: Its file in the bundle.
        seconds: How long tracing, checking and writing it took.
        entry: Its entry in the manifest.
        weights: What is known of its weights.
    """

    name: str
    file: str
    seconds: float
    entry: FileEntry
    weights: WeightRecord


def check_names(source: ExportSource) -> None:
    """Refuse a source whose files would overwrite each other.

    Raises:
        ExportError: Two files have one name, or a name leads out of the bundle.
    """
    names = [f"{graph.spec.name}.onnx" for graph in source.graphs]
    names += [*source.files, MANIFEST_NAME, REFERENCE_NAME]
    for name in names:
        if names.count(name) > 1 or PurePosixPath(name).name != name or "\\" in name:
            raise ExportError(
                f"cannot name a file of the bundle {name!r}",
                f"the files are {', '.join(names)}",
                "Every file of a bundle has a plain name of its own: report this to the model family",
            )


def write_graph(folder: Path, graph: ExportGraph, source: ExportSource, *, debug: bool) -> WrittenGraph:
    """Export, check and write one graph in fp32.

    Raises:
        ExportError: It cannot be exported, or breaks a rule.
    """
    start = time.perf_counter()
    spec = graph.spec
    traced = trace_graph(graph, debug=debug)
    rewrite_exactly(traced.model)
    finish_model(traced.model, GraphFacts(source.family, spec, "fp32", source.is_trained(graph)))
    weights = match_weights(traced.model, graph.weights, traced.used)
    check_model(traced.model, spec)
    path = folder / f"{spec.name}.onnx"
    path.write_bytes(traced.model.SerializeToString())
    used = _unique_bytes(traced.used)
    # The largest graphs are most of a gigabyte, and the next one is about to be traced.
    del traced
    gc.collect()
    check_file(path, spec)
    check_weight(path, spec, used)
    return WrittenGraph(
        spec.name,
        path.name,
        time.perf_counter() - start,
        describe_graph(path, spec.name, "fp32"),
        weights.with_file(read_onnx(path)),
    )


def _unique_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return how many bytes some tensors take, shared ones once."""
    unique = {(tensor.data_ptr(), tensor.shape): tensor for tensor in tensors.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())


def describe_graph(path: Path, graph: str, precision: str, inputs: dict[str, str] | None = None) -> FileEntry:
    """Measure an ONNX file for the manifest, its operators included.

    Args:
        path: The file.
        graph: The graph that it holds.
        precision: As built.
        inputs: Inputs that it takes in another type than the GraphSpec says.
    """
    entry = describe_file(path, graph=graph, precision=precision, inputs=inputs)
    return replace(entry, operators=read_onnx(path).operators)


def write_reference(
    folder: Path, graphs: tuple[ExportGraph, ...], written: list[WrittenGraph], tick: Tick
) -> FileEntry:
    """Compute and write what PyTorch says about every graph.

    Raises:
        ExportError: A reference is broken, or the file would be too large.
    """
    tensors: dict[str, Array] = {}
    references = {}
    for number, (graph, done) in enumerate(zip(graphs, written, strict=True)):
        tick("reference outputs", number, len(graphs))
        cases, outputs = compute_reference(graph, output_budget(len(graphs)))
        tensors.update(outputs)
        references[graph.spec.name] = GraphReference(cases, done.weights)
    index = ReferenceIndex(references, package_versions(_REFERENCE_TOOLS))
    path = folder / REFERENCE_NAME
    path.write_bytes(format_reference(index, tensors))
    return describe_file(path)


def write_files(folder: Path, files: dict[str, bytes]) -> dict[str, FileEntry]:
    """Write the family's further files."""
    entries = {}
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        entries[name] = describe_file(path)
    return entries


def build_manifest(
    source: ExportSource, graphs: tuple[ExportGraph, ...], files: dict[str, FileEntry]
) -> Manifest:
    """Describe a bundle that has not been verified yet."""
    checkpoint = source.checkpoint
    return Manifest(
        family=source.family,
        graphs={graph.spec.name: graph.spec for graph in graphs},
        files=files,
        model=source.model,
        preprocessing=source.preprocessing,
        trained=source.trained,
        source=Source(checkpoint.name, file_sha256(checkpoint)) if checkpoint is not None else None,
        tools={"python": platform.python_version(), **package_versions(_TOOLS)},
        random_weights=tuple(graph.spec.name for graph in graphs if not source.is_trained(graph)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def with_parity(manifest: Manifest, report: VerifyReport) -> Manifest:
    """Return a manifest that says what verification measured."""
    return replace(manifest, parity=report.parities())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest."""
    (folder / MANIFEST_NAME).write_bytes(format_manifest(manifest).encode())
