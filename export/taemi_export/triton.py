"""A Triton Inference Server model repository for a bundle's first graph, written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taemi_export.triton_client import format_client, format_readme
from taemi_export.triton_config import WARMUP_FOLDER, Served, Serving, label_file, model_config
from taemi_export.triton_engines import (
    check_name,
    choose_engines,
    describe_engine,
    served_graph,
)
from taemi_export.triton_shapes import batch_symbol, sample_file
from taemi_export.triton_text import format_message
from taemi_runtime.atomic import atomic_folder
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import BundleError, UsageError
from taemi_runtime.manifest import MANIFEST_NAME, file_sha256
from taemi_runtime.spec import GraphSpec
from taemi_runtime.strict import to_json

RECORD_NAME = "taemi-repository.json"
"""Marks a folder as a repository that was written here, which alone may be replaced."""
CONFIG_NAME = "config.pbtxt"
VERSION = "1"
SEED = 0
"""Of the warm-up samples."""


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository, for the record."""

    name: str
    backend: str
    file: str
    precision: str
    sha256: str
    max_batch: int


@dataclass(frozen=True)
class RepositoryRecord:
    """What a repository was made from.

    Args:
        family: The model family.
        graph: The served graph.
        trained: Whether its weights were trained at all.
        manifest_sha256: Digest of the bundle's manifest.
        models: Its models.
        schema: The schema version.
    """

    family: str
    graph: str
    trained: bool
    manifest_sha256: str
    models: tuple[ServedModel, ...]
    schema: int = 1


def check_repository(out: Path, bundle: Path, *, force: bool) -> None:
    """Refuse, before any work is done, to write where something stands.

    Raises:
        UsageError: There is a repository and ``force`` was not given; or something that is no repository
            of ours, which is never replaced; or bundle and repository would lie in one another.
    """
    asked = f"cannot write repository {out}"
    inner, outer = out.resolve(), bundle.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(asked, f"it and bundle {bundle} lie in one another", "Name a folder elsewhere")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(asked, "there is a file of that name", "Name another folder")
    if not (out / RECORD_NAME).is_file() and any(out.iterdir()):
        raise UsageError(
            asked,
            f"there is a folder of that name which taemi-export did not write (it has no {RECORD_NAME})",
            "Name another folder",
        )
    if not force:
        raise UsageError(asked, "it exists already", "Add --force to replace it, or name another folder")


def export_triton(
    folder: Path,
    out: Path,
    *,
    name: str | None = None,
    engines: tuple[str, ...] = (),
    serving: Serving | None = None,
    link: bool = False,
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write a model repository for the graph that gives a bundle's scores.

    It is written beside ``out`` and then renamed: on any error, Ctrl-C and a full disk included, nothing
    new is left behind and a previous repository stays.

    Args:
        folder: The bundle.
        out: The repository's folder.
        name: What the models are called; the model family when ``None``.
        engines: Files of the bundle to serve; none for the fp32 graph and the plan for the default target.
        serving: How they are served.
        link: Whether engine files are hard links to the bundle's instead of copies.
        force: Whether an existing repository is replaced.
        say: Called with one line for each model once the repository is in place, and with what was left out.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is taken, an engine cannot be served, or an option makes no sense.
        BundleError: The bundle is damaged.
        WriteError: The place cannot be written to.
    """
    serving = serving or Serving()
    check_repository(out, folder, force=force)
    bundle = Bundle.open(folder)
    spec = served_graph(bundle)
    base = check_name(name if name is not None else bundle.manifest.family)
    files, remarks = choose_engines(bundle, spec, engines, serving)
    if not files:
        raise BundleError(
            f"cannot serve bundle {folder}",
            f"it has no fp32 file of graph {spec.name!r}",
            "Name another with --engine, or export again: taemi-export onnx CKPT --force",
        )
    models = [describe_engine(bundle, spec, base, file, serving) for file in files]
    _check_distinct(models)
    with atomic_folder(out, replace=force or out.is_dir()) as part:
        for served in models:
            _write_model(part / served.name, bundle, spec, served, serving, link=link)
        _write_rest(part, bundle, spec, models, serving)
    if say is not None:
        for served in models:
            say(_line(out, served))
        for remark in remarks:
            say(remark)
    return out


def _check_distinct(models: list[Served]) -> None:
    names = [served.name for served in models]
    for name in names:
        if names.count(name) > 1:
            files = ", ".join(served.file for served in models if served.name == name)
            raise UsageError(
                "cannot write the repository",
                f"{files} would both be model {name!r}",
                "Serve one of them: --engine FILE",
            )


def _write_model(
    folder: Path, bundle: Bundle, spec: GraphSpec, served: Served, serving: Serving, *, link: bool
) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)
    _place(bundle, served.file, version / served.model_file, link=link)
    config = format_message(model_config(spec, served, serving))
    (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
    for item in spec.outputs:
        labels = label_file(spec, item)
        if labels is not None:
            (folder / labels).write_text("".join(f"{label}\n" for label in item.labels), encoding="utf-8")
    _write_samples(folder / WARMUP_FOLDER, spec, served)


def _place(bundle: Bundle, file: str, target: Path, *, link: bool) -> None:
    source = bundle.file(file)
    if link:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            raise UsageError(
                f"cannot link {source} into the repository", str(error.strerror), "Leave out --link"
            ) from error
        return
    shutil.copyfile(source, target)
    digest, wanted = file_sha256(target), bundle.manifest.files[file].sha256
    if digest != wanted:
        raise BundleError(
            f"cannot copy {source}",
            f"the copy's SHA-256 is {digest}, the manifest says {wanted}",
            "The file was changed while it was copied: try again",
        )


def _write_samples(folder: Path, spec: GraphSpec, served: Served) -> None:
    folder.mkdir()
    batch = batch_symbol(spec)
    for shapes in served.warmups:
        rows = {batch.name: 1} if batch is not None else {}
        arrays = draw_inputs(spec, {**rows, **shapes.lengths}, seed=SEED, ragged=False, poison=False)
        for item in spec.inputs:
            content = arrays[item.name].astype(served.dtypes[item.name])
            (folder / sample_file(spec, item, shapes)).write_bytes(content.tobytes())


def _write_rest(part: Path, bundle: Bundle, spec: GraphSpec, models: list[Served], serving: Serving) -> None:
    manifest = bundle.manifest
    entries = tuple(
        ServedModel(
            served.name,
            served.backend,
            served.file,
            manifest.files[served.file].precision or "",
            manifest.files[served.file].sha256,
            served.max_batch,
        )
        for served in models
    )
    digest = file_sha256(bundle.folder / MANIFEST_NAME)
    record = RepositoryRecord(manifest.family, spec.name, manifest.trained, digest, entries)
    (part / RECORD_NAME).write_text(to_json(record), encoding="utf-8")
    (part / "README.md").write_text(format_readme(spec, models, serving, manifest), encoding="utf-8")
    (part / "client.py").write_text(format_client(spec, models), encoding="utf-8")


def _line(out: Path, served: Served) -> str:
    batch = f"batches up to {served.max_batch}" if served.max_batch else "no batching"
    path = out / served.name / VERSION / served.model_file
    return f"{served.name}: {served.file}, {served.backend}, {batch}, {path}"
