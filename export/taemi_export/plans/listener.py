"""What the library says while it works: its log lines and its recorded errors.

Builders and parsers return ``None`` or ``False`` on failure and tell the reason to their logger and error
recorder only. The first logger of a process is the one that a library keeps, so there is one for each.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from taemi_export.plans.library import Library

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)

# The last lines are the telling ones; a failing build can log thousands.
_KEPT = 20

# Logged as errors by builds that end well, or consequences that follow from any failure.
_NOISE = (
    "Thread context has not been set",
    "getHardwareCompatibilityLevel() is unsupported",
    "Network must have at least one output",
    "Begin node ---",
    "End node ---",
    "While parsing node number",
)

# "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:9100 In function importNonZero:\n[8] ..."
_PREFIX = re.compile(r"^(?:\S+\.cpp:\d+: )?(?:ERROR: )?(?:\S+\.cpp:\d+ In function \w+:\s*)?(?:\[\d+\] )?")
_SOURCE = re.compile(r"\s*In \S+ at \S+:\d+|\s*\[\w+\.cpp::\w+::\d+\]")


class Listener(Protocol):
    """What a library said since the last ``clear``."""

    def clear(self) -> None:
        """Forget everything."""
        ...

    def errors(self) -> list[str]:
        """Return its errors, oldest first, each once and without source positions."""
        ...


class _Lines:
    """The last lines, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=_KEPT)

    def add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)

    def clear(self) -> None:
        with self._lock:
            self._lines.clear()

    def all(self) -> list[str]:
        with self._lock:
            return list(self._lines)


def tidy(line: str) -> str:
    """Return one line of a library without its own source positions; empty when it says nothing."""
    if any(noise in line for noise in _NOISE):
        return ""
    return " ".join(_SOURCE.sub("", _PREFIX.sub("", line)).split())


def distinct(lines: list[str]) -> list[str]:
    """Return tidied lines, each once; a line that another one contains is left out."""
    tidied = list(dict.fromkeys(found for line in lines if (found := tidy(line))))
    return [line for line in tidied if not any(line != other and line in other for other in tidied)]


_LISTENERS: dict[str, Any] = {}


def listener_of(library: Library) -> Any:
    """Return the library's one listener: an ``ILogger`` with the methods of [Listener][]."""
    if library.name not in _LISTENERS:
        _LISTENERS[library.name] = _make_logger(library)
    return _LISTENERS[library.name]


def _make_logger(library: Library) -> tensorrt.ILogger:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module

    kept = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
    levels = {trt.ILogger.Severity.WARNING: logging.INFO, trt.ILogger.Severity.INFO: logging.DEBUG}

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines = _Lines()

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in kept:
                self.lines.add(msg)
            elif severity in levels:
                _log.log(levels[severity], "%s: %s", library.name, msg)

        def clear(self) -> None:
            self.lines.clear()

        def errors(self) -> list[str]:
            return distinct(self.lines.all())

    return Log()


def make_recorder(library: Library) -> Any:
    """Return an ``IErrorRecorder`` for one build; its ``errors`` are like a listener's."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module

    class Recorder(trt.IErrorRecorder):
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.lock = threading.Lock()
            self.recorded: list[tuple[trt.ErrorCodeTRT, str]] = []

        def report_error(self, arg0: trt.ErrorCodeTRT, arg1: str) -> bool:
            with self.lock:
                self.recorded = [*self.recorded, (arg0, arg1)][-_KEPT:]
            return True

        def num_errors(self) -> int:
            return len(self.recorded)

        def get_error_code(self, arg0: int) -> trt.ErrorCodeTRT:
            return self.recorded[arg0][0]

        def get_error_desc(self, arg0: int) -> str:
            return self.recorded[arg0][1]

        def has_overflowed(self) -> bool:
            return len(self.recorded) == _KEPT

        def clear(self) -> None:
            with self.lock:
                self.recorded = []

        def errors(self) -> list[str]:
            return distinct([description for _, description in self.recorded])

    return Recorder()
