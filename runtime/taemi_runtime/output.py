"""Where results go: checked before the work, whole after every line."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TextIO

from taemi_runtime.errors import UsageError


def require_writable(out: Path) -> None:
    """Refuse an unwritable output before the work, not after it.

    Raises:
        UsageError: It is a folder, or lies where nothing can be written.
    """
    try:
        if out.is_dir():
            raise IsADirectoryError("it is a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        if out.exists():
            with out.open("ab"):
                pass
    except OSError as error:
        raise UsageError(
            f"cannot write {out}", error.strerror or str(error), "Name a file in a folder that can be written"
        ) from error


def use_utf8(stream: TextIO) -> None:
    """Let a standard stream take every name.

    JSON is UTF-8 whatever the locale; names that are no text at all are escaped.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
