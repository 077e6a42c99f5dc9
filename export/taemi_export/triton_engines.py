"""Which engine files of a bundle a Triton repository takes, and what each of them allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from taemi_export.onnx_file import read_onnx
from taemi_export.triton_config import BACKENDS, Served, Serving
from taemi_export.triton_plan import describe_plan, preferred_sizes
from taemi_export.triton_shapes import (
    MAX_BATCH,
    batch_symbol,
    graph_shapes,
    length_symbols,
    longest_of,
    tensors,
)
from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError, UsageError
from taemi_runtime.host import package_versions, parse_device
from taemi_runtime.manifest import MANIFEST_NAME, FileEntry, file_sha256
from taemi_runtime.plan_sidecar import read_sidecar
from taemi_runtime.spec import GraphSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RTX = ".rtx.plan"


def served_graph(bundle: Bundle) -> GraphSpec:
    """Return the graph that is served: the bundle's first, which gives the scores.

    Raises:
        BundleError: The bundle has no graph.
    """
    for spec in bundle.manifest.graphs.values():
        return spec
    raise BundleError(f"cannot serve bundle {bundle.folder}", "its manifest has no graph")


def choose_engines(
    bundle: Bundle, spec: GraphSpec, named: tuple[str, ...], serving: Serving
) -> tuple[list[str], list[str]]:
    """Choose the engine files to serve.

    Args:
        bundle: The bundle.
        spec: The served graph.
        named: Files that the user named, by their names in the bundle or paths to them; none for the
            fp32 graph and the plan for the default target.
        serving: How they are served.

    Returns:
        The files' names, and what to tell the user about what was left out.

    Raises:
        UsageError: A named file cannot be served.
    """
    engines = dict(bundle.engine_files(spec.name))
    if named:
        files = [_inside(bundle, name) for name in named]
        for name in files:
            _check_named(bundle, spec, name, engines, serving)
        return list(dict.fromkeys(files)), []
    files = [name for name, entry in engines.items() if name.endswith(".onnx") and entry.precision == "fp32"]
    if parse_device(serving.device)[0] == "cpu":
        return files, []
    plans = [name for name in engines if name.endswith(".plan") and not name.endswith(_RTX)]
    # [GRAPH.]PRECISION.plan is for the default target; one for another GPU would fail to load.
    default = [name for name in plans if _parts(name, spec) in (["fp16"], ["fp32"])]
    for candidates in (
        [name for name in default if _parts(name, spec) == ["fp16"]],
        default,
        plans if len(plans) == 1 else [],
    ):
        if candidates:
            return files + candidates[:1], []
    return files, [_missing_plan(bundle, spec, plans, engines)]


def model_name(base: str, file: str, spec: GraphSpec) -> str:
    """Return the server's name of an engine file: BASE, BASE_PRECISION, BASE_plan, BASE_TARGET_plan."""
    kind, usual = ("plan", "fp16") if file.endswith(".plan") else ("", "fp32")
    parts = [part for part in _parts(file, spec) if part != usual]
    return "_".join([base, *parts, *([kind] if kind else [])])


def check_name(name: str) -> str:
    """Return a model's name, which becomes a folder and a part of an address.

    Raises:
        UsageError: It would not do as either.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"cannot name a model {name!r}",
            "it becomes a folder and a part of an address",
            "Give --name with letters, digits, '_', '-' and '.'",
        )
    return name


def describe_engine(bundle: Bundle, spec: GraphSpec, base: str, file: str, serving: Serving) -> Served:
    """Check one engine file and find out what it allows.

    Raises:
        BundleError: It was changed, or disagrees with the manifest.
        UsageError: It does not take what was asked for.
        ExportError: A plan takes no single row.
    """
    entry = bundle.manifest.files[file]
    facts = _parameters(bundle, spec, file, entry)
    backend = BACKENDS[Path(file).suffix]
    name = check_name(model_name(base, file, spec))
    if backend == "tensorrt":
        return describe_plan(spec, name, read_sidecar(bundle, file), serving, facts, bundle.folder)
    dtypes = {item.name: item.dtype for item in tensors(spec)} | entry.inputs | entry.outputs
    _check_onnx(bundle.file(file), spec, dtypes)
    symbol = batch_symbol(spec)
    largest = 0
    if symbol is not None:
        largest = _max_batch(serving, symbol.maximum, file)
    return Served(
        name=name,
        file=file,
        backend=backend,
        dtypes=dtypes,
        max_batch=largest,
        preferred=preferred_sizes(serving, (), largest),
        warmups=graph_shapes(spec, largest),
        lengths={item.name: (item.minimum, longest_of(item)) for item in length_symbols(spec)},
        parameters=facts,
    )


def _max_batch(serving: Serving, bound: int | None, file: str) -> int:
    if serving.max_batch is None:
        return bound if bound is not None else MAX_BATCH
    if bound is not None and serving.max_batch > bound:
        raise UsageError(
            f"cannot serve {file} with batches of {serving.max_batch}",
            f"it takes at most {bound}",
            f"Give --max-batch {bound} or less",
        )
    return serving.max_batch


def _parameters(bundle: Bundle, spec: GraphSpec, file: str, entry: FileEntry) -> dict[str, str]:
    manifest = bundle.manifest
    parity = manifest.parity.get(file)
    verified = "not run"
    if parity is not None and parity.method != "not run":
        verified = ("passed" if parity.passed else "FAILED") + f" ({parity.method})"
    facts = {
        "family": manifest.family,
        "graph": spec.name,
        "file": file,
        "precision": entry.precision or "",
        "sha256": entry.sha256,
        "manifest_sha256": file_sha256(bundle.folder / MANIFEST_NAME),
        "trained": "true" if manifest.trained else "false",
        "verified": verified,
        "version": manifest.tools.get("taemi", ""),
        "repository_version": package_versions(["taemi"]).get("taemi", ""),
    }
    return {f"taemi_{key}": value for key, value in facts.items() if value}


def _check_onnx(path: Path, spec: GraphSpec, dtypes: Mapping[str, str]) -> None:
    """Compare what the file declares with what the configuration is about to say."""
    file = read_onnx(path)
    wanted = {item.name: (dtypes[item.name], item.shape) for item in tensors(spec)}
    found = {item.name: (item.dtype, item.shape) for item in (*file.inputs, *file.outputs)}
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            raise BundleError(
                f"cannot serve {path}",
                f"{name} is {found.get(name)} in the file and {wanted.get(name)} in the manifest",
                "Export the bundle again: taemi-export onnx CKPT --force",
            )


def _inside(bundle: Bundle, name: str) -> str:
    if name in bundle.manifest.files:
        return name
    path = Path(name).resolve()
    folder = bundle.folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name


def _check_named(
    bundle: Bundle, spec: GraphSpec, name: str, engines: Mapping[str, FileEntry], serving: Serving
) -> None:
    asked = f"cannot serve {name}"
    if name not in engines or Path(name).suffix not in BACKENDS:
        raise UsageError(
            asked,
            f"it is no engine file of graph {spec.name!r} in {bundle.folder} (they are {', '.join(engines)})",
            "Name one of these with --engine",
        )
    if not name.endswith(".plan"):
        return
    if parse_device(serving.device)[0] == "cpu":
        raise UsageError(asked, "a plan runs on a GPU and --device is cpu", "Leave out one of the two")


def _missing_plan(bundle: Bundle, spec: GraphSpec, plans: list[str], engines: Mapping[str, FileEntry]) -> str:
    if plans:
        return (
            f"no plan is served: the bundle has {', '.join(plans)}, for other GPUs than the default; "
            f"name the one for the server's GPU with --engine"
        )
    rtx = [name for name in engines if name.endswith(_RTX)]
    why = f"{', '.join(rtx)} is of TensorRT for RTX" if rtx else f"the bundle has none of graph {spec.name!r}"
    return (
        f"no plan is served: {why}; build one on the server's machine, with the TensorRT of its "
        f"container: taemi-export tensorrt {bundle.folder}"
    )


def _parts(file: str, spec: GraphSpec) -> list[str]:
    """Split ``[GRAPH.]PRECISION[.TARGET].plan`` and ``GRAPH[.PRECISION].onnx`` into what follows GRAPH."""
    parts = Path(file).stem.split(".")
    return parts[1:] if parts[0] == spec.name else parts
