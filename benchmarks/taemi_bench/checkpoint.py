"""Finding and opening the checkpoint that a bundle was made from: the PyTorch side of a comparison."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.errors import BundleError, MissingExtraError, TaemiError
from taemi_runtime.manifest import Manifest, file_sha256

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

_NAME_IT = "name the checkpoint with --checkpoint"


def open_checkpoint(
    folder: Path, manifest: Manifest, checkpoint: Path | None
) -> tuple[ExportSource | None, str]:
    """Open the checkpoint that a bundle was exported from.

    Args:
        folder: The bundle.
        manifest: Its manifest.
        checkpoint: The file that the user named; it is looked for when ``None``.

    Returns:
        The opened checkpoint, or ``None`` and why there is none.

    Raises:
        BundleError: The named file is not the one that the manifest names.
        MissingExtraError: A file was named, and torch is not installed.
        CheckpointError: The named file cannot be read.
    """
    if checkpoint is not None:
        _check_digest(checkpoint, manifest, folder)
        return _open(checkpoint, manifest), ""
    found, why = find_checkpoint(folder, manifest)
    if found is None:
        return None, why
    try:
        return _open(found, manifest), ""
    except TaemiError as error:
        # Nobody asked for this file by name: the row says why, and everything else is measured.
        return None, str(error)


def find_checkpoint(folder: Path, manifest: Manifest) -> tuple[Path | None, str]:
    """Look for the checkpoint beside the bundle and one folder below that place.

    Only a file with the manifest's SHA-256 counts; files with the right name are tried first.

    Returns:
        The file, or ``None`` and why there is none.
    """
    if manifest.source is None:
        return None, f"the bundle does not say which checkpoint it was made from: {_NAME_IT}"
    place = folder.resolve().parent
    candidates = [*sorted(place.glob("*.pt")), *sorted(place.glob("*/*.pt"))]
    candidates.sort(key=lambda path: path.name != manifest.source.name)  # type: ignore[union-attr]
    for candidate in candidates:
        try:
            if file_sha256(candidate) == manifest.source.sha256:
                return candidate, ""
        except OSError:
            continue
    return None, f"{manifest.source.name} with the bundle's digest is not near the bundle: {_NAME_IT}"


def _check_digest(checkpoint: Path, manifest: Manifest, folder: Path) -> None:
    if manifest.source is None or not checkpoint.is_file():
        return
    digest = file_sha256(checkpoint)
    if digest != manifest.source.sha256:
        raise BundleError(
            f"cannot compare {folder} with {checkpoint}",
            f"its SHA-256 is {digest}, the bundle was made from {manifest.source.name} with "
            f"{manifest.source.sha256}",
            "Name the checkpoint that was exported, or export this one: taemi-export onnx "
            f"{checkpoint} -o {folder} --force",
        )


def _open(checkpoint: Path, manifest: Manifest) -> ExportSource:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"cannot run checkpoint {checkpoint}",
                f"{package} is not installed",
                'Install it: pip install "taemi[train]"',
            )
    from taemi.checkpoint_backend import open_shared
    from taemi.exportable import has_attention, open_source

    if any(map(has_attention, manifest.graphs.values())):
        return open_source(checkpoint, attention=True)
    # Whole models that are run from the checkpoint share its weights.
    source: ExportSource = open_shared(checkpoint)
    return source
