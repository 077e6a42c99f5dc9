"""Atomic writes: a reader sees the old file or the new one, never a torn one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from taemi_runtime.errors import WriteError
from taemi_runtime.working_folder import working_folder

_DEVICES = Path("/dev")
# What is no defect of ours but of the place that was written to, and what to do about it.
_HOST_ERRORS = {
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Your quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "Write to a disk that takes files of this size, or raise the limit: ulimit -f",
    errno.EACCES: "Choose a place that you may write to",
    errno.EPERM: "Choose a place that you may write to",
    errno.EROFS: "Choose a place that you may write to",
    errno.ENOTDIR: "A part of that path is a file: choose another",
    errno.EEXIST: "A part of that path is a file: choose another",
    errno.EISDIR: "It is a folder: choose another name",
    errno.ENOENT: "Choose a place that you may write to",
}


@contextlib.contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn what the host says while ``path`` is written into a clear error.

    Raises:
        WriteError: The disk is full, the place is read-only, or it is none.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _HOST_ERRORS:
            raise
        raise WriteError(f"cannot write {path}", str(error.strerror), _HOST_ERRORS[error.errno]) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it when the block ends without an error.

    The sibling is flushed to disk before the rename, so that a power cut or a full disk leaves the
    previous file whole. On any exception, Ctrl-C included, the sibling is removed.

    Args:
        path: The file to write; its parent is created when missing.

    Raises:
        WriteError: The disk is full, the place cannot be written to, or ``path`` is a device or a pipe.
    """
    # Renaming a file over it would destroy it for the whole machine: root may replace /dev/null.
    if path.absolute().parent == _DEVICES or (path.exists() and not path.is_file() and not path.is_dir()):
        raise WriteError(
            f"cannot write {path}",
            "it is a device or a pipe",
            "Name an ordinary file, or leave the option out",
        )
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            # mkstemp makes private files; a result is an ordinary file under the user's umask.
            umask = os.umask(0)
            os.umask(umask)
            part.chmod(0o666 & ~umask)
            with part.open("rb+") as stream:
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_file(path) as part:
        part.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically as UTF-8."""
    write_bytes(path, content.encode())


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` when the block ends without an error.

    Args:
        path: The folder to create.
        replace: Whether an existing ``path`` is replaced. The old one is moved aside first and
            deleted last, so that an interruption never leaves neither.

    Raises:
        FileExistsError: ``path`` exists and ``replace`` is false.
        WriteError: The disk is full, or the place cannot be written to.
    """
    if path.exists() and not replace:
        raise FileExistsError(path)
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(path) as part:
            part.chmod(0o755)
            yield part
            _put_in_place(part, path)


def _put_in_place(part: Path, path: Path) -> None:
    if not path.exists():
        part.replace(path)
        return
    if _exchange(part, path):
        # The old folder stands under the temporary name now, and is deleted with it.
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)) / path.name
    path.replace(old)
    try:
        part.replace(path)
    except OSError:
        old.replace(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step, so that neither name is ever free; ``False`` where that is impossible.

    Linux's renameat2(2) with RENAME_EXCHANGE; some file systems and other kernels do not have it.
    """
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    return bool(swap(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)
