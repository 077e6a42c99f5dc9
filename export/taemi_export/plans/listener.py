"""What the library says while it works: its log lines and its recorded errors.

Builders and parsers return ``None`` or ``False`` on failure and tell the reason to their logger and error
recorder only. The logger is the runtime's: a library keeps the first one of a process.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from taemi_export.plans.library import Library

if TYPE_CHECKING:
    pass

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


def tidy(line: str) -> str:
    """Return one line of a library without its own source positions; empty when it says nothing."""
    if any(noise in line for noise in _NOISE):
        return ""
    return " ".join(_SOURCE.sub("", _PREFIX.sub("", line)).split())


def distinct(lines: list[str]) -> list[str]:
    """Return tidied lines, each once; a line that another one contains is left out."""
    tidied = list(dict.fromkeys(found for line in lines if (found := tidy(line))))
    return [line for line in tidied if not any(line != other and line in other for other in tidied)]


def make_recorder(library: Library) -> Any:
    """Return an ``IErrorRecorder`` for one build; its ``errors`` are tidied and each there once."""
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
