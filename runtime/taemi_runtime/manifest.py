"""The bundle's manifest: what is in a bundle, and everything a runtime must know to use it.

Schema 1. Reading is strict (docs/bundle.md lists the fields): a newer schema is refused with both
numbers, an unknown field by name, and no path may leave the bundle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from taemi_runtime.errors import BundleError, SpecError
from taemi_runtime.spec import Gate, GraphSpec
from taemi_runtime.strict import from_plain, to_json

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
REFERENCE_NAME = "reference.safetensors"
# A manifest's digest of itself is computed with zeros in its place.
_NO_DIGEST = "0" * 64
_DIGEST_LINE = '"digest": "{}"'


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle.

    Args:
        sha256: Its digest, checked before the file is used.
        bytes: Its size.
        graph: The graph that it holds, for engine files.
        precision: ``fp32``, ``fp16`` or ``int8``, for engine files.
        inputs: Dtypes of the inputs that this file takes otherwise than the GraphSpec says, e.g.
            ``{"features": "float16"}``: features enter half-precision engines in half precision.
        outputs: Dtypes of the outputs that this file gives otherwise than the GraphSpec says: what another
            graph of the bundle takes in half precision, half-precision engines give so.
        operators: How often each operator occurs, for ONNX files.
    """

    sha256: str
    bytes: int
    graph: str | None = None
    precision: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """How an engine file was made from the exported fp32 graph.

    Args:
        source: The fp32 file in the bundle.
        source_sha256: Its digest at that time.
        tool: What converted it, with its version.
        counts: Nodes by the precision that they compute in, e.g. ``{"float16": 210, "float32": 96}``.
        kept: Reason -> the nodes that stay in fp32 for it, in graph order.
        weight_bits: Bits of an integer weight, for int8 files: 8 is exact only on processors with integer
            dot products (``taemi_runtime.processor``), 7 everywhere.
    """

    source: str
    source_sha256: str
    tool: str
    counts: dict[str, int]
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weight_bits: int | None = None


@dataclass(frozen=True)
class OutputParity:
    """What verification measured for one output of an engine: the worst of each over all cases.

    Args:
        max_abs: Largest absolute difference to PyTorch.
        mean_abs: Largest mean absolute difference of a case.
        min_cosine: Smallest cosine similarity of a case.
        min_rho: Smallest Pearson correlation of a case; ``None`` where the reference never varies.
        nans: Values that are not finite where PyTorch's are.
        scale: What the differences of the worst case are divided by before a relative gate judges them.
        worst_case: The case with the largest difference, or the one that failed.
        padding: Largest difference between a padded row and the same row alone; ``None`` where the
            graph has no mask or its length is fixed.
    """

    max_abs: float
    mean_abs: float
    min_cosine: float
    min_rho: float | None = None
    nans: int = 0
    scale: float = 1.0
    worst_case: str = ""
    padding: float | None = None


@dataclass(frozen=True)
class ChainParity:
    """What one presence combination of the whole chain gave, against the fp32 chain.

    Args:
        present: The presence flags.
        rows: How many rows were compared.
        mean_abs: Mean absolute difference of the first graph's outputs.
        max_abs: Largest absolute difference.
        rho: Pearson correlation over the rows, averaged over the columns of the last axis; ``None``
            where the reference is the same in every row.
    """

    present: tuple[bool, ...]
    rows: int
    mean_abs: float
    max_abs: float
    rho: float | None


Method = Literal["executed", "rounded", "half-outputs", "not run"]


@dataclass(frozen=True)
class Parity:
    """What verification measured for one engine file.

    Args:
        output: The output with the largest difference.
        max_abs: Its largest absolute difference to PyTorch.
        mean_abs: Its mean absolute difference.
        min_cosine: The smallest cosine similarity over cases and outputs.
        cases: How many reference cases were compared; 0 when the file was not run.
        backend: What ran the file, with its version.
        passed: Whether every gate held.
        method: ``executed``: the engine itself ran. ``rounded``: op by op, every half-precision result
            really rounded. ``half-outputs``: ONNX Runtime with every half tensor as an output, searched
            for Inf and NaN. ``not run``: built, and no device here runs it.
        device: Where it ran.
        trained: ``False`` for random weights, which lack the outlier activations of trained ones.
        gate: What was allowed.
        outputs: Every output by name.
        chain: The whole chain by presence combination, for precisions that are judged by it.
    """

    output: str
    max_abs: float
    mean_abs: float
    min_cosine: float
    cases: int
    backend: str
    passed: bool
    method: Method = "executed"
    device: str = ""
    trained: bool = True
    gate: Gate | None = None
    outputs: dict[str, OutputParity] = field(default_factory=dict)
    chain: tuple[ChainParity, ...] = ()


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
        random_weights: The graphs whose weights are random: a trained model may have a frozen encoder
            that was never trained, an untrained one encoders that were.
        digest: SHA-256 of the manifest's file with 64 zeros in its place; ``format_manifest`` fills it
            in, and a manifest whose digest is another is refused. Empty: not checked.
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
    random_weights: tuple[str, ...] = ()
    digest: str = field(default="", compare=False)
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
        content = path.read_bytes()
        data = json.loads(content)
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
        manifest = from_plain(data, Manifest)
    except (ValueError, SpecError) as error:
        raise BundleError(asked, f"{MANIFEST_NAME} breaks schema {SCHEMA}: {error}", again) from error
    if manifest.digest and (found := _own_digest(content, manifest.digest)) != manifest.digest:
        raise BundleError(
            asked, f"the SHA-256 of {MANIFEST_NAME} is {found}, it says {manifest.digest} of itself", again
        )
    return manifest


def is_trained(manifest: Manifest, graph: str) -> bool:
    """Whether a graph's weights were trained at all."""
    return graph not in manifest.random_weights and (manifest.trained or bool(manifest.random_weights))


def format_manifest(manifest: Manifest) -> str:
    """Format a manifest as JSON, its own digest included."""
    text = to_json(replace(manifest, digest=_NO_DIGEST))
    sha = hashlib.sha256(text.encode()).hexdigest()
    return _DIGEST_LINE.format(sha).join(text.rsplit(_DIGEST_LINE.format(_NO_DIGEST), 1))


def _own_digest(content: bytes, recorded: str) -> str:
    """Return the SHA-256 of a manifest as it was before its own digest was written into it."""
    before = _DIGEST_LINE.format(_NO_DIGEST).encode()
    parts = content.rsplit(_DIGEST_LINE.format(recorded).encode(), 1)
    return hashlib.sha256(before.join(parts)).hexdigest()


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
    outputs: dict[str, str] | None = None,
) -> FileEntry:
    """Measure a file for the manifest."""
    size = path.stat().st_size
    return FileEntry(file_sha256(path), size, graph, precision, inputs or {}, outputs or {})
