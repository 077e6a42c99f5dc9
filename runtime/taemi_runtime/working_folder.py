"""A folder to work in beside what comes of it; those of killed processes are cleared away by the next one."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

# Between making a folder and locking it.
_YOUNG_S = 60.0


@contextlib.contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``, on the same file system, which is deleted at the end.

    Nothing deletes it when the process is killed. It is locked for as long as the process lives, so that the
    next one that works on ``path`` knows what was left behind, and deletes that.

    Args:
        path: What the work is for; its parent exists.
    """
    _clear(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    lock = _try_lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _clear(path: Path) -> None:
    for folder in path.parent.glob(f".{_literal(path.name)}.*.part"):
        with contextlib.suppress(OSError):  # Another process clears it away, too.
            if not folder.is_dir() or time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            lock = _try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
                _log.warning("deleted %s, which a killed process left behind", folder)


def _try_lock(folder: Path) -> int | None:
    """Return a descriptor that keeps a folder locked, or ``None`` where somebody else does, or nobody can."""
    with contextlib.suppress(BlockingIOError):
        return lock_folder(folder)
    return None


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives or the descriptor is open.

    Returns:
        The descriptor; ``None`` where the file system has no locks.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    if sys.platform == "win32":  # whether somebody works in a folder cannot be told, and none is cleared away
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def _literal(name: str) -> str:
    """Return a name as a pattern that matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
