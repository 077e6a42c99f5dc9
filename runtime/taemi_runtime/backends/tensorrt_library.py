"""TensorRT and TensorRT for RTX: one API under two import names, and the log that holds their reasons."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from importlib import import_module
from types import ModuleType
from typing import Any

from taemi_runtime.backends.tensorrt_messages import SYMPTOMS
from taemi_runtime.errors import EngineError, MissingExtraError
from taemi_runtime.plan_sidecar import LIBRARIES
from taemi_runtime.release import release_of

_log = logging.getLogger(__name__)

# tensorrt 10.12 is the oldest with all that is used here.
_OLDEST = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 4)}
_FROM_NVIDIA = next(row.fix for row in SYMPTOMS if row.key == "installation")
_INSTALL = {
    "tensorrt": f'{_FROM_NVIDIA}; then pip install "taemi[tensorrt]"',
    "tensorrt_rtx": 'Install it: pip install "taemi[rtx]"',
}


@functools.cache
def import_library(name: str) -> ModuleType:
    """Import a library that runs plans.

    Args:
        name: ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MissingExtraError: It is not installed, or its wheel without its libraries.
        EngineError: It is too old.
    """
    asked = f"cannot run plans of {LIBRARIES[name]}"
    try:
        found = import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            asked, f"the package {error.name or name} is not installed", _INSTALL[name]
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            asked, f"{name} is installed and does not load ({error})", _INSTALL[name]
        ) from error
    version = str(getattr(found, "__version__", ""))
    if not version or not hasattr(found, "Runtime"):
        # What a failed installation leaves behind: an empty namespace.
        raise MissingExtraError(asked, f"{name} is installed without its libraries", _INSTALL[name])
    if release_of(version, 2) < _OLDEST[name]:
        oldest = ".".join(map(str, _OLDEST[name]))
        raise EngineError(asked, f"{name} {version} is older than {oldest}", _INSTALL[name])
    return found


class ErrorLog:
    """The last errors that a library told its logger, from whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=20)

    def add(self, line: str) -> None:
        """Keep an error."""
        with self._lock:
            self._lines.append(line)

    def take(self) -> list[str]:
        """Return what was said since the last time, oldest first, and forget it."""
        with self._lock:
            said = list(self._lines)
            self._lines.clear()
        return said


@functools.cache
def logger_of(trt: Any) -> tuple[Any, ErrorLog]:
    """Return a library's logger, and the errors that it keeps.

    A library keeps the first logger of the process and ignores later ones, and calls it until the process
    ends: there is one for each, and it is never given up.

    Args:
        trt: The imported library.
    """
    errors = ErrorLog()
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                errors.add(message)
            _log.debug("%s: %s", trt.__name__, message)

    return Logger(), errors
