"""A bundle on disk: its manifest, and its files with their digests checked before use."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Self

from taemi_runtime.errors import BundleError
from taemi_runtime.manifest import FileEntry, Manifest, file_sha256, read_manifest


class Bundle:
    """A folder that holds graphs, their manifest and whatever else a model needs.

    Args:
        folder: The folder.
        manifest: Its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a bundle: its manifest is read and checked, its files are checked when they are used.

        Raises:
            BundleError: There is no folder, no manifest, or one of another schema.
        """
        if not folder.is_dir():
            found = "it is no folder" if folder.exists() else "there is no such folder"
            raise BundleError(
                f"cannot open bundle {folder}", found, "Name a folder made by taemi-export onnx"
            )
        return cls(folder, read_manifest(folder))

    def file(self, name: str) -> Path:
        """Return the path of a file whose size and SHA-256 are those of the manifest.

        Args:
            name: The file's path inside the bundle, as in the manifest.

        Raises:
            BundleError: The manifest does not list it, it is missing, it leads out of the bundle, or
                its bytes are others than the manifest says.
        """
        entry = self.manifest.files.get(name)
        path = self.folder / name
        asked = f"cannot use {path}"
        if entry is None:
            listed = ", ".join(self.manifest.files) or "no file"
            raise BundleError(asked, f"the manifest does not list it (it lists {listed})", self._again)
        if not path.is_file():
            raise BundleError(asked, "the manifest lists it and the bundle does not have it", self._again)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError(asked, f"it leads out of the bundle, to {path.resolve()}", self._again)
        stat = path.stat()
        if stat.st_size != entry.bytes:
            raise BundleError(
                asked, f"it has {stat.st_size} bytes, the manifest says {entry.bytes}", self._again
            )
        digest = _digest(path.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if digest != entry.sha256:
            raise BundleError(
                asked, f"its SHA-256 is {digest}, the manifest says {entry.sha256}", self._again
            )
        return path

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked as [Bundle.file][] does."""
        return self.file(name).read_bytes()

    def engine_files(self, graph: str) -> list[tuple[str, FileEntry]]:
        """Return the names and entries of every engine file of a graph, in the manifest's order."""
        return [(name, entry) for name, entry in self.manifest.files.items() if entry.graph == graph]

    @property
    def _again(self) -> str:
        source = self.manifest.source.name if self.manifest.source else "CKPT"
        return (
            "The bundle is damaged or was changed: copy it again, or export it again: "
            f"taemi-export onnx {source} -o {self.folder} --force"
        )


@functools.lru_cache(maxsize=256)
def _digest(path: Path, inode: int, size: int, modified_ns: int) -> str:
    # Encoders are hundreds of megabytes: each is read once a process, unless it has changed since.
    del inode, size, modified_ns
    return file_sha256(path)
