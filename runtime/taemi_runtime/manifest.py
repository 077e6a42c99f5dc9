"""The bundle's manifest: what is in a bundle, and everything a runtime must know to use it.

Schema 1. Reading is strict (docs/bundle.md lists the fields): a newer schema is refused with both
numbers, an unknown field by name, and no path may leave the bundle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from taemi_runtime.errors import BundleError
from taemi_runtime.spec import GraphSpec
from taemi_runtime.strict import from_plain, to_json

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
REFERENCE_NAME = "reference.safetensors"


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle.

    Args:
        sha256: Its digest, checked before the file is used.
        bytes: Its size.
        graph: The graph that it holds, for engine files.
        precision: ``fp32``, ``fp16`` or ``int8``, for engine files.
        inputs: Dtypes of the inputs that this file takes otherwise than the GraphSpec says, e.g.
            ``{"audio": "float16"}``: features enter half-precision engines in half precision.
    """

    sha256: str
    bytes: int
    graph: str | None = None
    precision: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """How an engine file was made from the exported fp32 graph.

    Args:
        source: The fp32 file in the bundle.
        source_sha256: Its digest at that time.
        tool: What converted it, with its version.
        counts: Nodes by the precision that they compute in, e.g. ``{"float16": 210, "float32": 96}``.
        kept: Reason -> the nodes that stay in fp32 for it, in graph order.
    """

    source: str
    source_sha256: str
    tool: str
    counts: dict[str, int]
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Parity:
    """What verification measured for one engine file.

    Args:
        output: The output with the largest difference.
        max_abs: Its largest absolute difference to PyTorch.
        mean_abs: Its mean absolute difference.
        min_cosine: The smallest cosine similarity over cases and outputs.
        cases: How many reference cases were compared.
        backend: What ran the file, with its version.
        passed: Whether every gate held.
    """

    output: str
    max_abs: float
    mean_abs: float
    min_cosine: float
    cases: int
    backend: str
    passed: bool


@dataclass(frozen=True)
class Source:
    """The checkpoint that a bundle was made from.

    Args:
        name: The file's name.
        sha256: Its digest, so that a benchmark can find and trust the PyTorch side.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A bundle's table of contents.

    Args:
        family: The model family, e.g. ``taemi``; it alone gives ``model`` and ``preprocessing`` a meaning.
        graphs: Every graph by name.
        files: Every file but the manifest by its path inside the bundle.
        model: The family's model config as plain values.
        preprocessing: What turns a clip into the graphs' inputs, as plain values of the family.
        trained: ``False`` marks random weights: every result says ``untrained``.
        source: The checkpoint; ``None`` when there was no file.
        tools: Versions of the tools that wrote the bundle.
        parity: What verification measured, by file name.
        conversions: How each converted engine file came about, by file name.
        created: UTC time in ISO 8601.
        schema: The schema version.
    """

    family: str
    graphs: dict[str, GraphSpec]
    files: dict[str, FileEntry]
    model: dict[str, Any]
    preprocessing: dict[str, Any]
    trained: bool
    source: Source | None = None
    tools: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Parity] = field(default_factory=dict)
    conversions: dict[str, Conversion] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
                raise ValueError(f"file {name!r} would leave the bundle")


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Raises:
        BundleError: It is missing, no JSON, of another schema, or breaks the schema.
    """
    path = folder / MANIFEST_NAME
    asked = f"cannot open bundle {folder}"
    again = "Export it again: taemi-export onnx CKPT --force"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            asked, f"there is no {MANIFEST_NAME}", "Name a folder made by taemi-export onnx"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(asked, f"{MANIFEST_NAME} cannot be read ({error})", again) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise BundleError(asked, f"its schema is {schema!r}, this taemi reads {SCHEMA}", again)
    try:
        return from_plain(data, Manifest)
    except ValueError as error:
        raise BundleError(asked, f"{MANIFEST_NAME} breaks schema {SCHEMA}: {error}", again) from error


def format_manifest(manifest: Manifest) -> str:
    """Format a manifest as JSON."""
    return to_json(manifest)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(
    path: Path,
    *,
    graph: str | None = None,
    precision: str | None = None,
    inputs: dict[str, str] | None = None,
) -> FileEntry:
    """Measure a file for the manifest."""
    return FileEntry(file_sha256(path), path.stat().st_size, graph, precision, inputs or {})
