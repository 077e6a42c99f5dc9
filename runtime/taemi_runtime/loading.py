"""From what a user names as engine to a model that is ready to run.

``--engine`` takes a bundle folder, one engine file, or a checkpoint. All three become a
[LoadedModel][]: a manifest, and one engine for each graph.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from taemi_runtime.backends import backend, open_engine, taken_suffixes, takers
from taemi_runtime.bundle import Bundle
from taemi_runtime.closing import Closing
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.engine_choice import (
    PRECISIONS,
    best_file,
    facts_of,
    is_plan,
    open_best,
    open_file,
    preferred_precision,
    with_a_way_out,
)
from taemi_runtime.errors import (
    BundleError,
    DeviceError,
    EngineError,
    MissingExtraError,
    TaemiError,
    UsageError,
)
from taemi_runtime.host import parse_device
from taemi_runtime.manifest import MANIFEST_NAME, Manifest, file_sha256

_log = logging.getLogger(__name__)


class LoadedModel(Closing):
    """A model whose graphs can be run.

    Args:
        path: What was named as engine.
        manifest: What the model is.
        options: How engines are opened.
        open_graph: Opens the engine of a graph by name.
        read_asset: Reads a further file of the model by name.
        find_digest: Returns the SHA-256 of the file that runs a graph, which need not be opened for it.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        options: EngineOptions,
        open_graph: Callable[[str], Engine],
        read_asset: Callable[[str], bytes],
        find_digest: Callable[[str], str],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.options = options
        self._open_graph = open_graph
        self._read_asset = read_asset
        self._find_digest = find_digest
        self._engines: dict[str, Engine] = {}
        self._opening = {graph: threading.Lock() for graph in manifest.graphs}
        self._refusals: list[TaemiError] = []

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
        # Threads that share a model share its engines: each is opened by the first that asks, and several
        # at a time.
        with self._opening[graph]:
            if graph not in self._engines:
                try:
                    engine = self._open_graph(graph)
                except TaemiError as error:
                    self._refusals.append(error)
                    raise
                self._engines[graph] = engine
                if graph == next(iter(self.manifest.graphs)):
                    _announce(engine)
            return self._engines[graph]

    def refused(self, error: Exception) -> bool:
        """Return whether an error came of opening an engine: that is no clip's failure, but the model's."""
        return any(error is refusal for refusal in self._refusals)

    def is_open(self, graph: str) -> bool:
        """Return whether the engine of a graph is opened already."""
        return graph in self._engines

    def asset(self, name: str) -> bytes:
        """Return the bytes of a further file, e.g. a tokenizer.

        Raises:
            BundleError: There is no such file, or it is damaged.
        """
        return self._read_asset(name)

    def digest(self) -> str:
        """Return a SHA-256 of everything that scores depend on: every graph's engine file, and preprocessing.

        Raises:
            BundleError: No engine file of a graph runs here.
        """
        facts = {
            "graphs": {graph: self._find_digest(graph) for graph in self.manifest.graphs},
            "preprocessing": self.manifest.preprocessing,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def stop(self, threads: Collection[int]) -> None:
        """Make the calls that some threads are in fail soon; see ``Engine.stop``."""
        for engine in list(self._engines.values()):
            engine.stop(threads)

    def close(self) -> None:
        """Close every engine; closing twice does nothing."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


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
        EngineError: The file stands alone, or was made for another library or GPU.
        DeviceError: It is a plan, and there is no GPU; the message names the engine that runs here.
        MissingExtraError: It is a plan, and its library is not installed.
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
        raise _refusal(engine)
    return _from_file(engine, bundle, options)


def _announce(engine: Engine) -> None:
    info = engine.info
    threads = f", {info.threads} thread{'s' * (info.threads != 1)}" if info.threads else ""
    _log.info("engine: %s (%s, %s, %s%s)", info.path, info.backend, info.precision, info.device, threads)


def _from_bundle(
    path: Path,
    bundle: Bundle,
    options: EngineOptions,
    override: tuple[str, Path, dict[str, Any]] | None = None,
) -> LoadedModel:
    """Make a model of a bundle.

    Args:
        path: What the user named.
        bundle: The bundle.
        options: Device and threads.
        override: A graph's name with the file that runs it instead of the bundle's choice, and what is
            known of that file.
    """
    prefer = None
    if override is not None:
        prefer = preferred_precision(bundle, override[0], override[2]["precision"])

    def open_graph(graph: str) -> Engine:
        spec = bundle.manifest.graphs[graph]
        if override is not None and override[0] == graph:
            return open_file(bundle, override[1].name, override[1], spec, options, override[2])
        return open_best(bundle, graph, options, prefer)

    def find_digest(graph: str) -> str:
        if override is not None and override[0] == graph:
            return file_sha256(override[1])
        return bundle.manifest.files[best_file(bundle, graph, options, prefer)].sha256

    return LoadedModel(path, bundle.manifest, options, open_graph, bundle.read, find_digest)


def _from_file(path: Path, folder: Path | None, options: EngineOptions) -> LoadedModel:
    """Make a model of one engine file and the bundle that it belongs to."""
    beside = (path.parent / MANIFEST_NAME).is_file()
    if folder is None and not beside:
        raise EngineError(
            f"cannot run {path}",
            "it stands in no bundle: there is no preprocessing and no other graph beside it",
            "Name the bundle that it belongs to: --bundle NAME.taemi. Alone it takes feature files only",
        )
    bundle = Bundle.open(folder or path.parent)
    entries = bundle.manifest.files
    if path.resolve().parent == bundle.folder.resolve() and path.name in entries:
        if not is_plan(path.name):
            bundle.file(path.name)
        return _from_listed(path, bundle, path.name, options)
    digest = file_sha256(path)
    for name, entry in entries.items():
        if entry.sha256 == digest:
            return _from_listed(path, bundle, name, options)
    graph = _guess_graph(path, bundle.manifest)
    precision = next((name for name in PRECISIONS if name in path.name.split(".")), "fp32")
    facts = {"precision": precision}
    _require_host(path, bundle, graph, facts, options)
    _log.warning(
        "%s is not listed in the manifest of %s: taken as graph %s, digest not checked",
        path,
        bundle.folder,
        graph,
    )
    return _from_bundle(path, bundle, options, (graph, path, facts))


def _from_listed(path: Path, bundle: Bundle, name: str, options: EngineOptions) -> LoadedModel:
    entry = bundle.manifest.files[name]
    if entry.graph is None:
        raise EngineError(f"cannot run {path}", "the manifest does not list it as an engine", _takes())
    facts = facts_of(bundle, name, entry)
    _require_host(path, bundle, entry.graph, facts, options)
    return _from_bundle(path, bundle, options, (entry.graph, path, facts))


def _require_host(
    path: Path, bundle: Bundle, graph: str, facts: dict[str, Any], options: EngineOptions
) -> None:
    """Refuse a file that this host cannot run, and name the engine that it can."""
    if not is_plan(path.name):
        # An ONNX graph runs wherever a backend does, which is found out when it is opened.
        return
    try:
        backend(takers(path)[0]).check_host(path, options, **facts)
    except (DeviceError, EngineError, MissingExtraError) as error:
        raise with_a_way_out(error, bundle, graph, options) from error


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

    whole = functools.cache(lambda: file_sha256(path))
    return LoadedModel(path, manifest, options, open_graph, read_asset, lambda graph: whole())


def _refusal(path: Path) -> TaemiError:
    """Say that no backend takes such files, and what is taken."""
    kind = f"files that end in {path.suffix}" if path.suffix else "files without a suffix"
    return UsageError(f"cannot open engine {path}", f"{kind} are not known", _takes())


def _takes() -> str:
    kinds = {
        ".onnx": "an ONNX graph (.onnx)",
        ".plan": "a TensorRT plan (.plan)",
        ".pt": "a checkpoint (.pt)",
    }
    taken = taken_suffixes()
    files = [words for suffix, words in kinds.items() if suffix in taken]
    files += [f"a {suffix} file" for suffix in taken if suffix not in kinds and not is_plan(f"x{suffix}")]
    *most, last = ["a bundle folder (NAME.taemi)", *files]
    return f"--engine takes {', '.join(most)} or {last}"
