"""What edits of a graph share: who makes and reads its values, their order, and what nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def find_producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def find_readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each value; one that reads it twice is there twice."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def ints_of(node: onnx.NodeProto, name: str) -> list[int]:
    """Return an attribute of integers; empty where the node leaves it to its default."""
    return next((list(item.ints) for item in node.attribute if item.name == name), [])


def remove_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers that no output needs, in place."""
    producers = find_producers(graph)
    needed: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            waiting += producers[name].input
    for place in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[place].output):
            del graph.node[place]
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in needed:
            del graph.initializer[place]


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put nodes into an order in which every value is there before it is read, in place; stable.

    Raises:
        ValueError: The graph has a cycle.
    """
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        late = []
        for node in waiting:
            if all(name in made for name in node.input):
                ordered.append(node)
                made.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = late
    ordered = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(ordered)
