"""A checkpoint's graphs, exported to ONNX, verified, and put in place as one bundle or not at all."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_export.bundle_writer import (
    WrittenGraph,
    build_manifest,
    check_names,
    with_parity,
    write_files,
    write_graph,
    write_manifest,
    write_reference,
)
from taemi_export.onnx_graph import check_size
from taemi_export.reference import MAX_BYTES
from taemi_export.report import VerifyReport
from taemi_export.verify import verify_bundle
from taemi_runtime.atomic import atomic_folder
from taemi_runtime.backends import backend
from taemi_runtime.console import Tick, format_size
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import ExportError, MissingExtraError, UsageError
from taemi_runtime.manifest import MANIFEST_NAME, REFERENCE_NAME

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph, ExportSource

SUFFIX = ".taemi"
_VERIFIER = "onnxruntime-cpu"


def default_bundle(checkpoint: Path) -> Path:
    """Return where a checkpoint's bundle goes when nobody says: beside it, with its name."""
    return checkpoint.with_suffix(SUFFIX)


def check_target(out: Path, *, force: bool) -> None:
    """Refuse, before any work is done, to write where something stands.

    Raises:
        UsageError: There is a bundle and ``force`` was not given, or something that is no bundle, which
            is never replaced.
    """
    if not out.exists():
        return
    asked = f"cannot write bundle {out}"
    if not out.is_dir():
        raise UsageError(asked, "there is a file of that name", "Name another folder with -o BUNDLE")
    if not (out / MANIFEST_NAME).is_file() and any(out.iterdir()):
        raise UsageError(
            asked,
            f"there is a folder of that name which is no bundle (it has no {MANIFEST_NAME})",
            "Name another folder with -o BUNDLE",
        )
    if not force:
        raise UsageError(
            asked, "it exists already", "Add --force to replace it, or name another with -o BUNDLE"
        )


def check_packages() -> None:
    """Refuse when a package that export needs is not installed.

    Raises:
        MissingExtraError: Names the extra.
    """
    for package in ("torch", "onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                "cannot export", f"{package} is not installed", 'Install it: pip install "taemi[export]"'
            )
    probe = backend(_VERIFIER).probe()
    if not probe.usable:
        # An export that has not been verified is not put in place.
        raise MissingExtraError("cannot verify an export", probe.detail, probe.fix)


def export_onnx(
    source: ExportSource,
    out: Path,
    *,
    force: bool = False,
    fusion_only: bool = False,
    debug: bool = False,
    progress: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Export every graph of a source into a bundle.

    The bundle is written beside ``out``, verified there against PyTorch, and then renamed: on any
    error, Ctrl-C and a full disk included, nothing new is left behind and a previous bundle stays.

    Args:
        source: The opened checkpoint.
        out: The bundle's folder.
        force: Whether an existing bundle is replaced.
        fusion_only: Whether only the source's first graph, which gives the scores, is exported.
        debug: Whether the exporter's own output goes to the terminal.
        progress: Called with (step, done, total).
        say: Called with one line for each graph once the bundle is in place.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is taken.
        MissingExtraError: A package is missing.
        ExportError: A graph cannot be exported or breaks a rule, or the disk is full.
        ParityError: An exported graph does not compute what PyTorch computes.
    """
    check_target(out, force=force)
    check_packages()
    check_names(source)
    graphs = source.graphs[:1] if fusion_only else source.graphs
    _check_space(out, sum(check_size(graph) for graph in graphs))
    tick = progress or _ignore
    written: list[WrittenGraph] = []
    try:
        with atomic_folder(out, replace=force) as folder:
            report = _fill(folder, source, graphs, written, tick, debug=debug)
    except OSError as error:
        raise ExportError(
            f"cannot write bundle {out}",
            str(error),
            "Nothing was changed: free some space or name another folder with -o BUNDLE",
        ) from error
    results = {result.file: result for result in report.engines}
    for graph in written:
        if say is not None:
            result = results[graph.file]
            say(_line(graph, out, result.parity().max_abs, result.cases))
    return out


def _ignore(step: str, done: int, total: int) -> None:
    pass


def _fill(
    folder: Path,
    source: ExportSource,
    graphs: tuple[ExportGraph, ...],
    written: list[WrittenGraph],
    tick: Tick,
    *,
    debug: bool,
) -> VerifyReport:
    for number, graph in enumerate(graphs):
        tick(f"export {graph.spec.name}", number, len(graphs))
        written.append(write_graph(folder, graph, source, debug=debug))
    files = {graph.file: graph.entry for graph in written}
    files[REFERENCE_NAME] = write_reference(folder, graphs, written, tick)
    files |= write_files(folder, source.files)
    manifest = build_manifest(source, graphs, files)
    write_manifest(folder, manifest)
    report = verify_bundle(folder, options=EngineOptions(device="cpu"), progress=tick)
    report.require()
    write_manifest(folder, with_parity(manifest, report))
    return report


def _check_space(out: Path, weights: int) -> None:
    needed = weights + MAX_BYTES
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ExportError(
            f"cannot write bundle {out}",
            f"it needs up to {format_size(needed)}, {parent} has {format_size(free)} left",
            "Free some space or name another folder with -o BUNDLE",
        )


def _line(graph: WrittenGraph, out: Path, max_abs: float, cases: int) -> str:
    return (
        f"{graph.name}: {graph.seconds:.1f} s, {format_size(graph.entry.bytes)}, {out / graph.file} "
        f"({graph.weights.summary()}; max |difference| to PyTorch {max_abs:.1e} in {cases} cases)"
    )
