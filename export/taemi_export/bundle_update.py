"""Files that are added to a bundle which exists: all of them and the manifest, or none.

The work is done on a shadow, a folder beside the bundle that looks like it and shares its files. A full disk,
Ctrl-C or kill -9 during the work, which may take minutes, leave the bundle as it was. Only whole files are
then renamed into it, the manifest last; at every moment in between, the manifest lists nothing but files that
are there with the bytes that it says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from taemi_runtime.atomic import explain_write, write_bytes
from taemi_runtime.console import format_size
from taemi_runtime.errors import TaemiError, WriteError
from taemi_runtime.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    describe_file,
    format_manifest,
    read_manifest,
)
from taemi_runtime.working_folder import working_folder


@contextlib.contextmanager
def bundle_shadow(bundle: Path) -> Iterator[Path]:
    """Yield a folder with a bundle's manifest and files; what was added there is in the bundle at the end.

    Files are shared, not copied, and must be replaced, never written into. On any exception the bundle is
    as it was. Errors name the bundle, not its shadow.

    Raises:
        BundleError: The manifest cannot be read.
        WriteError: The disk is full, or the place cannot be written to.
    """
    real = bundle.resolve()
    with explain_write(bundle), working_folder(real) as part:
        shadow = part / real.name
        _share(real, shadow)
        try:
            yield shadow
        except TaemiError as error:
            parts = (error.asked, error.found, error.fix)
            raise type(error)(*(given.replace(str(shadow), str(bundle)) for given in parts)) from error
        _commit(real, shadow, part / "replaced")


def list_file(shadow: Path, name: str, entry: FileEntry | None = None) -> FileEntry:
    """List a file of a shadow in the shadow's manifest.

    Args:
        shadow: From ``bundle_shadow``.
        name: The file.
        entry: What to say of it; its digest and size alone when ``None``.
    """
    entry = entry or describe_file(shadow / name)
    manifest = read_manifest(shadow)
    write_bytes(shadow / MANIFEST_NAME, format_manifest(_merged(manifest, {name: entry})).encode())
    return entry


def check_space(bundle: Path, needed: int) -> None:
    """Refuse work whose result would not fit on a bundle's disk.

    Raises:
        WriteError: There is less space than ``needed`` bytes.
    """
    free = shutil.disk_usage(bundle).free
    if free < needed:
        raise WriteError(
            f"cannot add to bundle {bundle}",
            f"up to {format_size(needed)} are needed, {format_size(free)} are free",
            "Free some space; the bundle is as it was",
        )


def _share(real: Path, shadow: Path) -> None:
    shadow.mkdir()
    for name in (*read_manifest(real).files, MANIFEST_NAME):
        if not (real / name).is_file():
            # Whoever needs it says so; what does not need it can go on.
            continue
        (shadow / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link((real / name).resolve(), shadow / name)
        except OSError:
            # Not every file system has hard links.
            shutil.copy2(real / name, shadow / name)


def _merged(manifest: Manifest, entries: dict[str, FileEntry]) -> Manifest:
    """Return a manifest with other entries; what was once measured of the old files is no longer in it."""
    return replace(
        manifest,
        files={**manifest.files, **entries},
        parity={name: known for name, known in manifest.parity.items() if name not in entries},
        conversions={name: known for name, known in manifest.conversions.items() if name not in entries},
    )


def _commit(real: Path, shadow: Path, aside: Path) -> None:
    done = read_manifest(shadow)
    # Read now and not before the work: another command may have added files meanwhile.
    old = read_manifest(real)
    entries = {name: entry for name, entry in done.files.items() if old.files.get(name) != entry}
    if not entries:
        return
    new = _merged(old, entries)
    new = replace(
        new,
        parity={**new.parity, **{name: done.parity[name] for name in entries if name in done.parity}},
        conversions={
            **new.conversions,
            **{name: done.conversions[name] for name in entries if name in done.conversions},
        },
    )
    mode = (real / MANIFEST_NAME).stat().st_mode & 0o777
    # A new file: the shadow's manifest may still be the bundle's own.
    manifest = shadow / f".{MANIFEST_NAME}.new"
    manifest.write_bytes(format_manifest(new).encode())
    for path in (*(shadow / name for name in entries), manifest):
        path.chmod(mode)
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    aside.mkdir()
    with _no_interrupt():
        try:
            kept = {name: entry for name, entry in old.files.items() if name not in entries}
            if len(kept) < len(old.files):
                # A file is never replaced while the manifest still has the old one's digest.
                write_bytes(real / MANIFEST_NAME, format_manifest(replace(old, files=kept)).encode())
            for name in entries:
                if (real / name).exists():
                    (real / name).replace(aside / name)
                (shadow / name).replace(real / name)
            manifest.replace(real / MANIFEST_NAME)
        except BaseException:
            for name in entries:
                if (aside / name).exists():
                    (aside / name).replace(real / name)
                elif name not in old.files:
                    (real / name).unlink(missing_ok=True)
            write_bytes(real / MANIFEST_NAME, format_manifest(old).encode())
            raise


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back for the few renames that belong together."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
