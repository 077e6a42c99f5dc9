"""Bundles whose graphs are there as plans, too."""

from __future__ import annotations

from taemi_runtime.manifest import describe_file, read_manifest
from taemi_runtime.plan_sidecar import sidecar_name
from tests.runtime.engine_places import widest
from tests.runtime.fake_tensorrt import write_plan
from tests.runtime.tiny_bundle import Made, save_manifest

GRAPHS = ("fusion", "audio", "vision", "text")


def plan_name(graph: str, precision: str = "fp16", target: str = "") -> str:
    """Return a plan's name in a bundle."""
    head = "" if graph == "fusion" else f"{graph}."
    return f"{head}{precision}{target}.plan"


def add_plan(made: Made, graph: str, *, precision: str = "fp16", target: str = "", **changes) -> str:
    """Build a graph's plan into a bundle and list it; return its name."""
    folder = made.folder
    manifest = read_manifest(folder)
    source = manifest.files[f"{graph}.onnx"]
    name = plan_name(graph, precision, target)
    spec = manifest.graphs[graph]
    content = (folder / f"{graph}.onnx").read_bytes()
    changes = {"source": f"{graph}.onnx", "sha256": source.sha256, "precision": precision} | changes
    write_plan(folder / name, spec, content, {"one": widest(spec)}, **changes)
    files = dict(manifest.files)
    files[name] = describe_file(folder / name, graph=graph, precision=precision)
    files[sidecar_name(name)] = describe_file(folder / sidecar_name(name))
    save_manifest(folder, files=files)
    return name
