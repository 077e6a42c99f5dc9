"""From what a user names as engine to a model that is ready to run.

``--engine`` takes a bundle folder, one engine file, or a checkpoint. All three become a
[LoadedModel][]: a manifest, and one engine for each graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from taemi_runtime.backends import backend, open_engine, taken_suffixes, takers
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import BundleError, EngineError, TaemiError, UsageError
from taemi_runtime.host import parse_device
from taemi_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, file_sha256
from taemi_runtime.plan_sidecar import read_sidecar, read_sidecar_beside, sidecar_name
from taemi_runtime.processor import has_dot_products

_log = logging.getLogger(__name__)

# Files that users will name and that no backend here takes.
_PLANS = (".plan", ".engine", ".trt")

# When a bundle holds several precisions and nobody chose: the one with the tightest parity gate.
_PRECISIONS = ("fp32", "fp16", "int8")
_INTEGER = "int8"
_WHOLE_BITS = 8


class LoadedModel:
    """A model whose graphs can be run.

    Args:
        path: What was named as engine.
        manifest: What the model is.
        options: How engines are opened.
        open_graph: Opens the engine of a graph by name.
        read_asset: Reads a further file of the model by name.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        options: EngineOptions,
        open_graph: Callable[[str], Engine],
        read_asset: Callable[[str], bytes],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.options = options
        self._open_graph = open_graph
        self._read_asset = read_asset
        self._engines: dict[str, Engine] = {}

    def engine(self, graph: str) -> Engine:
        """Return the engine of a graph, opened on first use and kept until the model is closed.

        Raises:
            BundleError: The model has no such graph, or its file is damaged.
            TaemiError: The engine could not be opened; see ``Backend.open``.
        """
        if graph not in self.manifest.graphs:
            raise BundleError(
                f"cannot run graph {graph!r} of {self.path}",
                f"it has {', '.join(self.manifest.graphs)}",
                "Export the whole model: taemi-export onnx CKPT",
            )
        if graph not in self._engines:
            engine = self._engines[graph] = self._open_graph(graph)
            if graph == next(iter(self.manifest.graphs)):
                _announce(engine)
        return self._engines[graph]

    def asset(self, name: str) -> bytes:
        """Return the bytes of a further file, e.g. a tokenizer.

        Raises:
            BundleError: There is no such file, or it is damaged.
        """
        return self._read_asset(name)

    def close(self) -> None:
        """Close every engine; closing twice does nothing."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_model(
    engine: Path, *, bundle: Path | None = None, options: EngineOptions | None = None
) -> LoadedModel:
    """Open what a user named as engine.

    Args:
        engine: A bundle folder, an engine file inside a bundle (or anywhere, with ``bundle``), or a
            checkpoint.
        bundle: The bundle that gives an engine file its other graphs and its preprocessing.
        options: Device and threads.

    Returns:
        The model; files are checked and engines opened when they are first used.

    Raises:
        UsageError: There is no such file, or its kind is unknown.
        EngineError: This version does not run files of this kind, or the file stands alone.
        BundleError: The bundle is damaged, incomplete or of another schema.
        CheckpointError: The checkpoint cannot be read.
    """
    options = options or EngineOptions()
    parse_device(options.device)
    if engine.is_dir():
        if bundle is not None and bundle.resolve() != engine.resolve():
            raise UsageError(
                f"cannot open {engine}", f"it is a folder, and --bundle names {bundle}", "Give one of them"
            )
        return _from_bundle(engine, Bundle.open(engine), options)
    if not engine.exists():
        raise UsageError(f"cannot open engine {engine}", "there is no such file or folder", _takes())
    describer = _describer(engine)
    if describer is not None:
        if bundle is not None:
            raise UsageError(
                f"cannot open {engine}", "a checkpoint takes nothing from a bundle", "Leave --bundle out"
            )
        return _from_checkpoint(engine, describer, options)
    if not takers(engine):
        raise _refusal(engine, bundle)
    return _from_file(engine, bundle, options)


def _announce(engine: Engine) -> None:
    info = engine.info
    threads = f", {info.threads} thread{'s' * (info.threads != 1)}" if info.threads else ""
    _log.info("engine: %s (%s, %s, %s%s)", info.path, info.backend, info.precision, info.device, threads)


def _from_bundle(
    path: Path, bundle: Bundle, options: EngineOptions, override: tuple[str, Path, str] | None = None
) -> LoadedModel:
    """Make a model of a bundle.

    Args:
        path: What the user named.
        bundle: The bundle.
        options: Device and threads.
        override: A graph's name with the file and precision that run it instead of the bundle's choice.
    """
    # An engine for integers is named for speed on a CPU: the other graphs then are such, too.
    prefer = override[2] if override is not None and override[2] == _INTEGER else None
    if prefer and (beside := _in_precision(bundle, prefer, override)):
        _log.info("%s runs beside it: %s", prefer, ", ".join(beside))

    def open_graph(graph: str) -> Engine:
        spec = bundle.manifest.graphs[graph]
        if override is not None and override[0] == graph:
            name, file, precision = override[1].name, override[1], override[2]
        else:
            name, entry = _choose(bundle, graph, prefer)
            file, precision = bundle.file(name), entry.precision or _PRECISIONS[0]
        if precision != _INTEGER:
            return open_engine(file, spec, options, precision=precision)
        _warn_about_sums(bundle.manifest, name)
        # What a GPU has no integer kernel for would come back to the CPU value by value.
        where = replace(options, device="cpu") if options.device == "auto" else options
        return open_engine(file, spec, where, precision=precision)

    return LoadedModel(path, bundle.manifest, options, open_graph, bundle.read)


def _in_precision(bundle: Bundle, precision: str, override: tuple[str, Path, str] | None) -> list[str]:
    """Return the engine files that run in a precision beside the one that was named."""
    others = [graph for graph in bundle.manifest.graphs if override is None or graph != override[0]]
    return [
        name
        for graph in others
        for name, entry in bundle.engine_files(graph)
        if entry.precision == precision and takers(Path(name))
    ]


def _warn_about_sums(manifest: Manifest, name: str) -> None:
    conversion = manifest.conversions.get(name)
    if conversion is not None and conversion.weight_bits == _WHOLE_BITS and not has_dot_products():
        _log.warning(
            "%s has weights of 8 bits, and this processor has no integer dot products (VNNI): sums may "
            "saturate. Make one for every processor: taemi-export quantize BUNDLE --weight-bits 7 --force",
            name,
        )


def _choose(bundle: Bundle, graph: str, prefer: str | None = None) -> tuple[str, FileEntry]:
    """Return the engine file of a graph that this machine runs best, in a preferred precision if it can."""
    files = bundle.engine_files(graph)
    runnable = [(name, entry) for name, entry in files if takers(Path(name))]
    if not runnable:
        listed = ", ".join(name for name, _ in files) or "none"
        raise BundleError(
            f"cannot run graph {graph!r} of {bundle.folder}",
            f"no backend takes its engine files ({listed})",
            "Export it again: taemi-export onnx CKPT --force",
        )
    return min(runnable, key=lambda item: (item[1].precision != prefer, _rank(item[1].precision)))


def _rank(precision: str | None) -> int:
    return _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)


def _from_file(path: Path, folder: Path | None, options: EngineOptions) -> LoadedModel:
    """Make a model of one engine file and the bundle that it belongs to."""
    beside = (path.parent / MANIFEST_NAME).is_file()
    if folder is None and not beside:
        raise EngineError(
            f"cannot run {path}",
            "it stands in no bundle: there is no preprocessing and no other graph beside it",
            "Name the bundle that it belongs to: --bundle NAME.taemi",
        )
    bundle = Bundle.open(folder or path.parent)
    entries = bundle.manifest.files
    if path.resolve().parent == bundle.folder.resolve() and path.name in entries:
        bundle.file(path.name)
        return _from_listed(path, bundle, entries[path.name], options)
    digest = file_sha256(path)
    for entry in entries.values():
        if entry.sha256 == digest:
            return _from_listed(path, bundle, entry, options)
    graph = _guess_graph(path, bundle.manifest)
    _log.warning(
        "%s is not listed in the manifest of %s: taken as graph %s, digest not checked",
        path,
        bundle.folder,
        graph,
    )
    precision = next((name for name in _PRECISIONS if name in path.name.split(".")), "fp32")
    return _from_bundle(path, bundle, options, (graph, path, precision))


def _from_listed(path: Path, bundle: Bundle, entry: FileEntry, options: EngineOptions) -> LoadedModel:
    if entry.graph is None:
        raise EngineError(f"cannot run {path}", "the manifest does not list it as an engine", _takes())
    return _from_bundle(path, bundle, options, (entry.graph, path, entry.precision or "fp32"))


def _guess_graph(path: Path, manifest: Manifest) -> str:
    # Files are called GRAPH[.PRECISION].SUFFIX; the first graph of a manifest gives the final outputs.
    head = path.name.split(".")[0]
    return head if head in manifest.graphs else next(iter(manifest.graphs))


def _describer(path: Path) -> Any | None:
    """Return the backend that reads whole models from such files, if there is one."""
    for name in takers(path):
        kind = backend(name)
        if hasattr(kind, "describe"):
            return kind
    return None


def _from_checkpoint(path: Path, kind: Any, options: EngineOptions) -> LoadedModel:
    manifest, assets = kind.describe(path)

    def open_graph(graph: str) -> Engine:
        return open_engine(path, manifest.graphs[graph], options, backend=kind.name)

    def read_asset(name: str) -> bytes:
        if name not in assets:
            raise BundleError(
                f"cannot read {name} of {path}", f"it has {', '.join(assets) or 'no such file'}"
            )
        return bytes(assets[name])

    return LoadedModel(path, manifest, options, open_graph, read_asset)


def _refusal(path: Path, folder: Path | None) -> TaemiError:
    """Say why a file that no backend takes is not run, and what can be run instead."""
    asked = f"cannot run {path}"
    if path.suffix.lower() not in _PLANS:
        kind = f"files that end in {path.suffix}" if path.suffix else "files without a suffix"
        return UsageError(f"cannot open engine {path}", f"{kind} are not known", _takes())
    folder = folder or (path.parent if (path.parent / MANIFEST_NAME).is_file() else None)
    if folder is None:
        found = f"it is {_plan_words(path)}, and this version of taemi runs ONNX graphs and checkpoints only"
        return EngineError(asked, found, "Name the bundle that it was built from: --engine NAME.taemi")
    bundle = Bundle.open(folder)
    entry = bundle.manifest.files.get(path.name)
    graph = entry.graph if entry and entry.graph else next(iter(bundle.manifest.graphs))
    words = _plan_words(path)
    if path.resolve().parent == bundle.folder.resolve() and sidecar_name(path.name) in bundle.manifest.files:
        try:
            words = read_sidecar(bundle, path.name).words()
        except BundleError as error:
            return error
    name, _ = _choose(bundle, graph)
    found = f"it is {words}, and this version of taemi runs ONNX graphs and checkpoints only"
    return EngineError(asked, found, f"Run the same graph with --engine {bundle.folder / name}")


def _plan_words(path: Path) -> str:
    """Say what a plan outside of any manifest is: what its sidecar says, if it has one that is its own."""
    try:
        return read_sidecar_beside(path).words()
    except BundleError:
        return "a TensorRT plan"


def _takes() -> str:
    kinds = {".onnx": "an ONNX graph (.onnx)", ".pt": "a checkpoint (.pt)"}
    files = [kinds.get(suffix, f"a {suffix} file") for suffix in taken_suffixes()]
    return f"--engine takes a bundle folder (NAME.taemi), {' or '.join(files)}"
