"""The registry of backends, and the choice among them.

Backends are named by dotted paths and imported only when they are needed. Other packages add theirs
through the entry-point group ``taemi_runtime.backends``.
"""

from __future__ import annotations

import functools
import itertools
import logging
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from taemi_runtime.engine import Backend, Engine, EngineOptions
from taemi_runtime.errors import DeviceError, EngineError, MissingExtraError, TaemiError, UsageError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import GraphSpec

GROUP = "taemi_runtime.backends"

# In order of preference for the device ``auto``.
_BUILTIN = {
    "tensorrt": "taemi_runtime.backends.tensorrt:TensorRT",
    "onnxruntime-cuda": "taemi_runtime.backends.onnxruntime_cuda:OnnxRuntimeCuda",
    "onnxruntime-cpu": "taemi_runtime.backends.onnxruntime_cpu:OnnxRuntimeCpu",
}

_log = logging.getLogger(__name__)


@functools.cache
def registered() -> dict[str, str]:
    """Return every backend's dotted path (``module:Class``) by name, in order of preference."""
    found = dict(_BUILTIN)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        found.setdefault(entry.name, entry.value)
    return found


@functools.cache
def backend(name: str) -> type[Backend]:
    """Import the backend called ``name``.

    Raises:
        UsageError: There is no such backend.
        MissingExtraError: A package that the backend's module imports is not installed.
        EngineError: The registered path leads nowhere.
    """
    known = registered()
    if name not in known:
        raise UsageError(f"cannot use backend {name!r}", f"registered are {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"cannot use backend {name!r}",
            f"the package {error.name!r} is not installed",
            "See which extra brings it: taemi-infer --doctor",
        ) from error
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"cannot use backend {name!r}", f"{known[name]} does not import ({error})"
        ) from error
    return found  # type: ignore[no-any-return]


def takers(path: Path) -> list[str]:
    """Return the names of the backends that take files with ``path``'s suffix, in order of preference."""
    suffix = path.suffix.lower()
    names = []
    for name in registered():
        try:
            kind = backend(name)
        except TaemiError as error:
            # One broken plug-in must not take the others down; --doctor shows it.
            _log.debug("backend %s is left out: %s", name, error)
            continue
        if suffix in kind.suffixes:
            names.append(name)
    return names


def taken_suffixes() -> list[str]:
    """Return every file suffix that some backend takes."""
    suffixes: list[str] = []
    for name in registered():
        try:
            suffixes += backend(name).suffixes
        except TaemiError:
            continue
    return list(dict.fromkeys(suffixes))


def open_engine(
    path: Path,
    spec: GraphSpec,
    options: EngineOptions | None = None,
    backend: str | None = None,
    **facts: Any,
) -> Engine:
    """Load an engine file with the best backend for its suffix and the asked device.

    An explicit device or backend never falls back. ``auto`` takes the first backend that works and
    logs a warning when one that looked usable did not.

    Args:
        path: The engine file.
        spec: The graph that it holds.
        options: Device and threads.
        backend: A registered backend's name; chosen when ``None``.
        facts: What the manifest says about the file, e.g. ``precision``.

    Raises:
        EngineError: No backend takes this kind of file, or none could load it.
        DeviceError: The asked device cannot be used.
        MissingExtraError: The library is not installed.
    """
    options = options or EngineOptions()
    kind, _ = parse_device(options.device)
    if backend is not None:
        return _lookup(backend).open(path, spec, options, **facts)
    names = takers(path)
    if not names:
        raise EngineError(
            f"cannot load {path}",
            f"no backend takes {path.suffix or 'files without a suffix'}",
            f"Give a file that ends in {' or '.join(taken_suffixes())}",
        )
    if kind != "auto":
        names = [name for name in names if kind in _lookup(name).devices]
        if not names:
            raise DeviceError(f"cannot run {path} on {options.device}", "no backend does that")
        names = [name for name in names if _lookup(name).probe().usable][:1] or names[:1]
        return _lookup(names[0]).open(path, spec, options, **facts)
    return _open_first(names, path, spec, options, facts)


def _open_first(
    names: list[str], path: Path, spec: GraphSpec, options: EngineOptions, facts: dict[str, Any]
) -> Engine:
    usable = [name for name in names if _lookup(name).probe().usable]
    # With nothing usable the last, least demanding backend says what is missing.
    usable = usable or names[-1:]
    for name, fallback in itertools.pairwise(usable):
        try:
            return _lookup(name).open(path, spec, options, **facts)
        except (DeviceError, EngineError, MissingExtraError) as error:
            _log.warning("%s cannot run %s, falling back to %s: %s", name, path, fallback, error)
    return _lookup(usable[-1]).open(path, spec, options, **facts)


# ``backend`` is both the public function and open_engine's keyword.
_lookup = backend
