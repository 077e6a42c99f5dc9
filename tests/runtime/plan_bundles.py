"""Bundles whose graphs are there as plans, too."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

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


def with_halves(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a graph that takes, or gives, these inputs and outputs in half precision, by casts."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    before, after = [], []
    for value in (*made.graph.input, *made.graph.output):
        if value.name not in names:
            continue
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
        wide = f"{value.name}_wide"
        given = any(value.name == item.name for item in made.graph.input)
        for node in made.graph.node:
            for ends in (node.input, node.output):
                ends[:] = [wide if item == value.name else item for item in ends]
        if given:
            before.append(helper.make_node("Cast", [value.name], [wide], to=TensorProto.FLOAT))
        else:
            after.append(helper.make_node("Cast", [wide], [value.name], to=TensorProto.FLOAT16))
    nodes = [*before, *made.graph.node, *after]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made, full_check=True)
    return made


def add_plan(
    made: Made,
    graph: str,
    *,
    precision: str = "fp16",
    target: str = "",
    halves: Collection[str] = (),
    **changes,
) -> str:
    """Build a graph's plan into a bundle and list it; return its name.

    Args:
        made: The bundle.
        graph: The graph.
        precision: What it is called.
        target: What it is built for, in its name.
        halves: Inputs and outputs that the plan has in half precision.
        changes: Fields of the sidecar that differ.
    """
    folder = made.folder
    manifest = read_manifest(folder)
    source = manifest.files[f"{graph}.onnx"]
    name = plan_name(graph, precision, target)
    spec = manifest.graphs[graph]
    content = with_halves(onnx.load(folder / f"{graph}.onnx"), halves).SerializeToString()
    changes = {"source": f"{graph}.onnx", "sha256": source.sha256, "precision": precision} | changes
    write_plan(folder / name, spec, content, {"one": widest(spec)}, **changes)
    files = dict(manifest.files)
    files[name] = describe_file(folder / name, graph=graph, precision=precision)
    files[sidecar_name(name)] = describe_file(folder / sidecar_name(name))
    save_manifest(folder, files=files)
    return name


def add_plans(made: Made) -> Made:
    """Give a bundle a plan of every graph."""
    for graph in GRAPHS:
        add_plan(made, graph)
    return made
