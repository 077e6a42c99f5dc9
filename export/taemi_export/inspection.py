"""What an artefact is: a bundle, an ONNX file or a checkpoint, described from the artefact itself."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from taemi_export.facts import METADATA_KEY, read_facts
from taemi_export.onnx_file import OnnxFile, ValueFacts, read_onnx
from taemi_export.reference import open_reference
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import format_size
from taemi_runtime.errors import BundleError, MissingExtraError, UsageError
from taemi_runtime.manifest import MANIFEST_NAME, REFERENCE_NAME, FileEntry, Parity, file_sha256
from taemi_runtime.plan_sidecar import PlanSidecar, read_sidecar, read_sidecar_beside
from taemi_runtime.spec import Axis, GraphSpec, InputSpec, OutputSpec


@dataclass(frozen=True)
class TensorRow:
    """One input or output of a graph, as a reader wants to see it."""

    graph: str
    way: str
    name: str
    dtype: str
    shape: str
    note: str


@dataclass(frozen=True)
class FileRow:
    """One file of a bundle: ``state`` says whether its bytes are the manifest's, and for a plan if it ran."""

    name: str
    graph: str
    precision: str
    size: int
    sha256: str
    state: str
    parity: Parity | None


@dataclass(frozen=True)
class Artefact:
    """What was found out about an artefact.

    Args:
        path: The artefact.
        kind: ``bundle``, ``onnx``, ``plan`` or ``checkpoint``.
        facts: What there is to say, by label.
        tensors: Inputs and outputs of its graphs.
        files: Its files (bundles).
    """

    path: str
    kind: str
    facts: dict[str, str]
    tensors: tuple[TensorRow, ...]
    files: tuple[FileRow, ...] = ()


def inspect_path(path: Path) -> Artefact:
    """Describe whatever lies at ``path``.

    Raises:
        UsageError: It is none of the known kinds.
        BundleError: It is damaged.
        MissingExtraError: It is a checkpoint and torch is not installed.
    """
    if path.is_dir():
        return _inspect_bundle(path)
    if path.suffix == ".onnx":
        return _inspect_onnx(path)
    if path.suffix == ".plan" and path.is_file():
        return _inspect_plan(path)
    if path.suffix == ".pt":
        return _inspect_checkpoint(path)
    found = "its kind is not known" if path.exists() else "there is no such file"
    raise UsageError(
        f"cannot inspect {path}",
        found,
        "Name a bundle (NAME.taemi), an ONNX file, a plan (.plan) or a checkpoint (.pt)",
    )


def _inspect_bundle(path: Path) -> Artefact:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    source = manifest.source
    facts = {
        "schema": str(manifest.schema),
        "family": manifest.family,
        "trained": _trained(manifest.trained),
        "created": manifest.created or "unknown",
        "source": f"{source.name} (sha256 {source.sha256})" if source else "none recorded",
        "tools": ", ".join(f"{name} {number}" for name, number in manifest.tools.items()),
    }
    facts |= _weight_facts(bundle)
    rows = [row for graph in manifest.graphs.values() for row in _spec_rows(graph)]
    files = [_file_row(bundle, name, entry) for name, entry in manifest.files.items()]
    return Artefact(str(path), "bundle", facts, tuple(rows), tuple(files))


def _weight_facts(bundle: Bundle) -> dict[str, str]:
    try:
        index = open_reference(bundle.file(REFERENCE_NAME)).index
    except BundleError as error:
        return {"weights": f"unknown: {error.found}"}
    return {f"weights of {name}": known.weights.summary(names=True) for name, known in index.graphs.items()}


def _file_row(bundle: Bundle, name: str, entry: FileEntry) -> FileRow:
    try:
        bundle.file(name)
        state = "intact"
        if name.endswith(".plan"):
            sidecar = read_sidecar(bundle, name)
            state = f"intact; {sidecar.words(_plan_state(bundle, sidecar))}"
    except BundleError as error:
        state = error.found
    return FileRow(
        name,
        entry.graph or "",
        entry.precision or "",
        entry.bytes,
        entry.sha256,
        state,
        bundle.manifest.parity.get(name),
    )


def _inspect_onnx(path: Path) -> Artefact:
    file = read_onnx(path)
    facts = {
        "size": format_size(path.stat().st_size),
        "sha256": file_sha256(path),
        "format": f"ONNX IR {file.ir_version}, opset "
        + ", ".join(f"{domain or 'ai.onnx'} {number}" for domain, number in file.opsets.items()),
        "producer": file.producer or "unknown",
        "weights": _weights(file),
        "operators": ", ".join(f"{name} {count}" for name, count in file.operators.items()),
    }
    if METADATA_KEY in file.metadata:
        own = read_facts(file, str(path))
        facts = {
            "graph": own.graph.name,
            "family": own.family,
            "precision": own.precision,
            "trained": _trained(own.trained),
            **facts,
        }
        rows = _spec_rows(own.graph)
    else:
        facts["graph"] = "not written by taemi-export"
        rows = [_value_row("input", value) for value in file.inputs]
        rows += [_value_row("output", value) for value in file.outputs]
    facts |= _membership(path)
    return Artefact(str(path), "onnx", facts, tuple(rows))


def _inspect_plan(path: Path) -> Artefact:
    """Describe a plan from its sidecar; nothing of the plan itself is deserialised."""
    facts = _membership(path)
    bundle = Bundle.open(path.parent) if (path.parent / MANIFEST_NAME).is_file() else None
    if bundle is not None and path.name in bundle.manifest.files:
        sidecar = read_sidecar(bundle, path.name)
        state = _plan_state(bundle, sidecar)
    else:
        sidecar = read_sidecar_beside(path)
        state = sidecar.state
    layers = ", ".join(f"{count} {name}" for name, count in sidecar.layer_types.items())
    where = f"on {sidecar.device}, driver for CUDA {sidecar.driver}" if sidecar.device else "with no GPU"
    facts = {
        "graph": sidecar.graph,
        "state": state,
        "library": sidecar.maker,
        "target": f"{sidecar.target}, compute capability {sidecar.compute_capability}",
        "runs on": _COMPATIBILITY[sidecar.compatibility],
        "precision": f"{sidecar.precision}, TF32 {'allowed' if sidecar.tf32 else 'off'}",
        "layers by type": layers,
        "built": f"{sidecar.created or 'at an unknown time'} {where} in {sidecar.build_seconds:.1f} s, "
        f"with at most {format_size(sidecar.workspace_bytes)} of scratch memory",
        "built from": f"{sidecar.source} (sha256 {sidecar.source_sha256})",
        "size": format_size(sidecar.plan_bytes),
        "sha256": sidecar.plan_sha256,
        **facts,
    }
    rows = [
        TensorRow(sidecar.graph, "input", name, dtype, str(profile.inputs[name]), f"profile {profile.name}")
        for name, dtype in sidecar.inputs.items()
        for profile in sidecar.profiles
    ]
    rows += [
        TensorRow(sidecar.graph, "output", name, dtype, "", "") for name, dtype in sidecar.outputs.items()
    ]
    return Artefact(str(path), "plan", facts, tuple(rows))


def _plan_state(bundle: Bundle, sidecar: PlanSidecar) -> str:
    """Say whether a plan ever ran: what its sidecar says, or what verification measured since."""
    parity = bundle.manifest.parity.get(sidecar.plan)
    if sidecar.executed is None and parity is not None and parity.method == "executed" and parity.cases:
        return f"executed by taemi-export verify on {parity.device}"
    return sidecar.state


_COMPATIBILITY = {
    "same-compute-capability": "GPUs of the same compute capability",
    "ampere-plus": "Ampere and later GPUs",
}


def _membership(path: Path) -> dict[str, str]:
    """Say what the bundle around a file knows of it."""
    if not (path.parent / MANIFEST_NAME).is_file():
        return {"bundle": "none: the file lies in no bundle"}
    bundle = Bundle.open(path.parent)
    if path.name not in bundle.manifest.files:
        return {"bundle": f"{bundle.folder} does not list it"}
    row = _file_row(bundle, path.name, bundle.manifest.files[path.name])
    return {"bundle": f"{bundle.folder}, {row.state}", "parity": format_parity(row.parity)}


def _inspect_checkpoint(path: Path) -> Artefact:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(
            f"cannot inspect {path}",
            "it is a checkpoint and torch is not installed",
            'Install it: pip install "taemi[export]"',
        )
    from taemi.exportable import open_source

    source = open_source(path)
    facts = {
        "family": source.family,
        "trained": _trained(source.trained),
        "size": format_size(path.stat().st_size),
        "sha256": file_sha256(path),
    }
    for graph in source.graphs:
        numbers = sum(tensor.numel() for tensor in graph.weights.values())
        facts[f"weights of {graph.spec.name}"] = f"{len(graph.weights)} tensors, {numbers:,} numbers"
    rows = [row for graph in source.graphs for row in _spec_rows(graph.spec)]
    return Artefact(str(path), "checkpoint", facts, tuple(rows))


def _spec_rows(spec: GraphSpec) -> list[TensorRow]:
    rows = []
    for item in spec.inputs:
        rows.append(TensorRow(spec.name, "input", item.name, item.dtype, _shape(spec, item), _note(item)))
    for output in spec.outputs:
        note = ", ".join(output.labels)
        rows.append(TensorRow(spec.name, "output", output.name, output.dtype, _shape(spec, output), note))
    return rows


def _shape(spec: GraphSpec, item: InputSpec | OutputSpec) -> str:
    return f"[{', '.join(_axis(spec, axis) for axis in item.shape)}]"


def _axis(spec: GraphSpec, axis: Axis) -> str:
    if isinstance(axis, int):
        return str(axis)
    symbol = spec.symbol(axis)
    if symbol.source is not None:
        return f"{axis} from {symbol.source}"
    return f"{axis} {symbol.minimum}.." + ("" if symbol.maximum is None else str(symbol.maximum))


def _note(item: InputSpec) -> str:
    if item.role == "mask":
        return f"mask of {item.masks}, true is valid"
    if item.role == "presence":
        return f"presence of {'; '.join(', '.join(names) for names in item.governs)}"
    return ""


def _value_row(way: str, value: ValueFacts) -> TensorRow:
    return TensorRow("", way, value.name, value.dtype, f"[{', '.join(map(str, value.shape))}]", "")


def _weights(file: OnnxFile) -> str:
    numbers = sum(tensor.elements for tensor in file.tensors.values())
    where = ", some in another file" if file.external else ""
    return f"{len(file.tensors)} tensors, {numbers:,} numbers{where}"


def _trained(trained: bool) -> str:
    return "yes" if trained else "no: untrained, its outputs mean nothing"


def format_parity(parity: Parity | None) -> str:
    """Say in a line what verification measured."""
    if parity is None:
        return "not verified"
    if parity.method == "not run":
        return "built, not run"
    verdict = "passed" if parity.passed else "FAILED"
    return (
        f"{verdict}: max |difference| {parity.max_abs:.1e} ({parity.output}), mean {parity.mean_abs:.1e}, "
        f"cosine {parity.min_cosine:.6f} in {parity.cases} cases on {parity.backend}"
        + ("" if parity.trained else ", random weights")
    )
